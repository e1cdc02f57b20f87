"""Small extractions on real files: what the engine's tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from featurebank.extract import backbones, datasets
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.key import Precision
from featurebank.extract.wanted import Outcome, Request, Wanted, want
from featurebank.store import FeatureStore

VIT = "timm:test_vit.r160_in1k@random:0"
RESNET = "timm:test_resnet.r160_in1k@random:0"

__all__ = ["RESNET", "VIT", "make_images", "open_folder", "run", "wanted_sets"]


def make_images(folder: Path, n: int, *, classes: int = 3, seed: int = 0) -> Path:
    """An image folder of small smooth PNGs, all different."""
    generator = np.random.default_rng(seed)
    for index in range(n):
        small = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((90 + index % 7, 80 + index % 5), Image.Resampling.BICUBIC)
        target = folder / f"class{index % classes}" / f"{index:05}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    return folder


def open_folder(folder: Path, *, label: str = "pictures") -> Split:
    return datasets.open_split(DatasetSpec(name=f"folder:{folder}", split="all", label=label))


def wanted_sets(
    root: Path,
    split: Split,
    names: Sequence[str],
    *,
    precision: Precision = "float32",
    outputs: Sequence[str] | None = None,
) -> list[Wanted]:
    requests = [Request(backbone=backbones.resolve(name, outputs=outputs), split=0) for name in names]
    return want(requests, [split], FeatureStore(root), precision=precision, read_once=True)


def run(
    root: Path,
    split: Split,
    names: Sequence[str],
    *,
    precision: Precision = "float32",
    outputs: Sequence[str] | None = None,
    execution: Execution | None = None,
) -> list[Outcome]:
    sets = wanted_sets(root, split, names, precision=precision, outputs=outputs)
    return extract(sets, [split], execution=execution or Execution(device="cpu", compile="never", batch_size=8))
