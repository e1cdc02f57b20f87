"""Weights and preprocessing together, through the whole engine: photographs of ImageNet get their own class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featurebank.extract import backbones, datasets
from featurebank.extract.assets import cached
from featurebank.extract.backbones.packaged import ENTRIES
from featurebank.extract.datasets._packaged_files import IMAGENET_20
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.key import Precision
from featurebank.extract.wanted import Request, want
from featurebank.store import FeatureSet, FeatureStore

RIGHT_OF_20 = {"efficientnet_lite0": 17, "efficientnet_lite1": 17, "efficientnet_lite2": 17, "squeezenet1_1": 13}


def extracted(root: Path, name: str, precision: Precision) -> FeatureSet:
    for asset in (IMAGENET_20, ENTRIES[name].asset):
        if cached(asset) is None:
            pytest.skip(f"{asset.package} {asset.version} is not in the asset cache")
    split = datasets.open_split(DatasetSpec(name="imagenet_20", split="all"))
    request = Request(backbone=backbones.resolve(name), split=0)
    wanted = want([request], [split], FeatureStore(root / precision), precision=precision)
    (outcome,) = extract(wanted, [split], execution=Execution(device="cpu", compile="never"))
    assert outcome.state == "sealed", outcome.error
    return FeatureSet(outcome.path)


@pytest.mark.parametrize(("name", "right"), RIGHT_OF_20.items())
def test_a_classifier_names_what_is_on_the_photographs(name: str, right: int, tmp_path: Path) -> None:
    made = extracted(tmp_path, name, "float32")
    assert (made["logits"].argmax(1) == made.labels).sum() >= right


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_bfloat16_features_are_the_float32_ones(name: str, tmp_path: Path) -> None:
    full, half = (extracted(tmp_path, name, precision) for precision in ("float32", "bfloat16"))
    for output in full.outputs:
        a, b = (np.asarray(made[output], np.float64) for made in (full, half))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() >= 0.999, output
