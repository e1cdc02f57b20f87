"""Turn images into feature sets: backbones, datasets, preprocessing, planning and the engine.

>>> from featurebank import extract
>>> extract.resolve("mobilenetv2@random:7").outputs
('pooled',)
"""

from typing import TYPE_CHECKING

from featurebank._faces import lazy_names

if TYPE_CHECKING:
    from featurebank.extract.backbones import OwnBackbone as OwnBackbone
    from featurebank.extract.backbones import build as build
    from featurebank.extract.backbones import describe as describe
    from featurebank.extract.backbones import logit_scale as logit_scale
    from featurebank.extract.backbones import resolve as resolve
    from featurebank.extract.backbones import text_features as text_features
    from featurebank.extract.backbones import text_tower as text_tower
    from featurebank.extract.backbones.contract import BackboneSpec as BackboneSpec
    from featurebank.extract.datasets import DatasetSpec as DatasetSpec
    from featurebank.extract.datasets import NamedDataset as NamedDataset
    from featurebank.extract.datasets import Split as Split
    from featurebank.extract.datasets import Subset as Subset
    from featurebank.extract.datasets import open_split as open_split
    from featurebank.extract.device import Execution as Execution
    from featurebank.extract.engine import extract as extract
    from featurebank.extract.preprocessing import Decode as Decode
    from featurebank.extract.preprocessing import Preprocessing as Preprocessing
    from featurebank.extract.texts import Prompts as Prompts
    from featurebank.extract.texts import make_texts as make_texts
    from featurebank.extract.wanted import Outcome as Outcome
    from featurebank.extract.wanted import Request as Request
    from featurebank.extract.wanted import Wanted as Wanted
    from featurebank.extract.wanted import want as want
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "backbones": "OwnBackbone build describe logit_scale resolve text_features text_tower",
            "backbones.contract": "BackboneSpec",
            "datasets": "DatasetSpec NamedDataset Split Subset open_split",
            "device": "Execution",
            "engine": "extract",
            "preprocessing": "Decode Preprocessing",
            "texts": "Prompts make_texts",
            "wanted": "Outcome Request Wanted want",
        },
    )
