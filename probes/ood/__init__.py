"""Post-hoc out-of-distribution scores of cached features and logits, and how well they separate two sets.

>>> from featurebank.probes import ood
>>> train = ood.TrainingSet([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
>>> ood.KNN(k=1).fit(train).score_samples([[0.0, 2.0]])
array([-0.])
"""

from typing import TYPE_CHECKING

from featurebank._faces import lazy_names

if TYPE_CHECKING:
    from featurebank.probes.ood.alignment import *
    from featurebank.probes.ood.contract import *
    from featurebank.probes.ood.distances import *
    from featurebank.probes.ood.evaluation import *
    from featurebank.probes.ood.head import *
    from featurebank.probes.ood.logits import *
    from featurebank.probes.ood.names import *
    from featurebank.probes.ood.neighbours import *
    from featurebank.probes.ood.registry import *
    from featurebank.probes.ood.shaping import *
    from featurebank.probes.ood.statistics import *
    from featurebank.probes.ood.subspace import *
    from featurebank.probes.ood.weiper import *
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "alignment": "FDBD MCM NCI SHE GradNorm",
            "contract": "OODScore",
            "distances": "GMM MDS RMDS MDSPlusPlus RMDSPlusPlus",
            "evaluation": "Detection DetectionSummary SelectedParameters detection evaluate select shared_rows",
            "head": "Head",
            "logits": "GEN MSP Energy Entropy KLMatching MaxLogit OpenMax ScaledMSP",
            "names": "family scores",
            "neighbours": "KNN GalleryScore NNGuide Relation",
            "registry": "ScoredSets get grid score_all",
            "shaping": "ASHB ASHP ASHS DICE LTS SCALE VRA ReAct",
            "statistics": "TrainingSet",
            "subspace": "PNML CoP CoRP Residual ViM",
            "weiper": "WeiPerKLD",
        },
    )
