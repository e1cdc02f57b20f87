"""Questions asked of frozen features: linear, kNN, few-shot, zero-shot, multi-label, dense; how sure they are.

>>> from featurebank import probes
>>> features = [[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]]
>>> probes.KNNProbe(k=1).fit(features, [0, 0, 1, 1]).score(features, [0, 0, 1, 1])
1.0
"""

from typing import TYPE_CHECKING

from featurebank._faces import lazy_names

if TYPE_CHECKING:
    from featurebank.probes.calibration import *
    from featurebank.probes.choice import *
    from featurebank.probes.comparison import *
    from featurebank.probes.dense import *
    from featurebank.probes.few_labels import *
    from featurebank.probes.fewshot import *
    from featurebank.probes.groups import *
    from featurebank.probes.heads import *
    from featurebank.probes.intervals import *
    from featurebank.probes.leave_one_out import *
    from featurebank.probes.linear import *
    from featurebank.probes.logistic import *
    from featurebank.probes.metrics import *
    from featurebank.probes.multilabel import *
    from featurebank.probes.neighbours import *
    from featurebank.probes.numbering import *
    from featurebank.probes.placing import *
    from featurebank.probes.prompts import *
    from featurebank.probes.rank_statistics import *
    from featurebank.probes.ranking import *
    from featurebank.probes.ridge import *
    from featurebank.probes.segmentation import *
    from featurebank.probes.shift import *
    from featurebank.probes.tokens import *
    from featurebank.probes.transferability import *
    from featurebank.probes.zeroshot import *
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "calibration": "ReliabilityDiagram TemperatureScaling reliability_diagram",
            "choice": "CS Choice edge_notes",
            "comparison": (
                "Comparison McNemar PairedBootstrap compare_all holm mcnemar paired_bootstrap paired_statistics "
                "signed_ranks"
            ),
            "dense": "DenseLinearProbe",
            "few_labels": "FewLabelsProbe",
            "fewshot": "Classifier FewShot few_shot fraction_rows k_shot_rows label_efficiency_curve",
            "groups": "GroupReport RateGaps group_report",
            "heads": "LinearHeads",
            "intervals": (
                "auroc_interval bootstrap_interval bootstrap_means cluster_interval delong_interval gap_interval "
                "mean_interval paired_interval row_weights weighted_interval wilson_interval"
            ),
            "leave_one_out": "LeftOut predict_left_out",
            "linear": "LinearFit LinearResult Protocol fit_linear linear_probe protocol_heads",
            "logistic": "Convergence LogisticProbe LogisticProbeCV logistic_path",
            "metrics": (
                "ClassScores accuracy as_labels as_scores as_values auroc average_precision balanced_accuracy "
                "bin_numbers brier class_scores confidence_bins ece multilabel_auroc multilabel_map nll "
                "per_class_accuracy predicted_classes top_k_accuracy"
            ),
            "multilabel": "MultiLabelProbe multilabel_path",
            "neighbours": "KNNProbe KNNSweep NearestClassMean knn_sweep",
            "numbering": "doubt",
            "placing": "Places places redrawn_settings redrawn_values",
            "prompts": "IMAGENET_TEMPLATES PLAIN_TEMPLATE READABLE readable render_prompts",
            "rank_statistics": (
                "Friedman bradley_terry cliques correlations critical_difference friedman nemenyi win_rates wins"
            ),
            "ranking": "Ranking rank_backbones ranks setting_weights z_scores",
            "ridge": "RegressionScores RidgePath RidgeProbe regression_scores",
            "segmentation": "confusion_matrix dice mean_iou",
            "shift": (
                "ALEXNET_CLEAN_ERROR ALEXNET_ERRORS ClassMask EffectiveRobustness class_mask effective_robustness "
                "mean_corruption_error relative_mean_corruption_error"
            ),
            "tokens": "AttentivePoolProbe MLPProbe",
            "transferability": "class_mean_predictions log_me neighbour_predictions",
            "zeroshot": "ZeroShotClassifier",
        },
    )
