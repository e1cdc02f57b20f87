"""Real weights and real photographs, where the asset cache has them; a skip that names the asset where not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import transforms  # type: ignore[import-untyped]

from featurebank.extract.assets import Asset, cached
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.packaged import ENTRIES
from featurebank.extract.datasets._packaged_files import IMAGENET_20


def require(asset: Asset) -> Path:
    """Where an asset lies; skips the test where it is not in the cache."""
    path = cached(asset)
    if path is None:
        pytest.skip(f"{asset.package} {asset.version} is not in the asset cache")
    return path


@pytest.fixture
def packaged() -> Callable[[str], str]:
    """Gives back a packaged backbone's name, or skips where its weights are not in the cache."""

    def name_if_cached(name: str) -> str:
        require(ENTRIES[name].asset)
        return name

    return name_if_cached


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")


def photographs(spec: BackboneSpec, count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """The first of foolbox's 20 ImageNet photographs as torchvision prepares them, and their classes."""
    files = sorted(require(IMAGENET_20).glob("imagenet_*.jpg"))[:count]
    assert len(files) == count
    size = spec.preprocessing
    resize: int | tuple[int, int] = size.resize_height
    if size.resize == "longer":  # the photographs are square
        resize = (size.resize_height, size.resize_width)
    prepare = transforms.Compose(
        [
            transforms.Resize(resize, transforms.InterpolationMode(size.interpolation)),
            transforms.CenterCrop((size.height, size.width)),
            transforms.ToTensor(),
        ]
    )
    images = torch.stack([prepare(Image.open(file).convert("RGB")) for file in files])
    if size.channels == "BGR":
        images = images.flip(1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (size.mean, size.std))
    return (images - mean) / std, torch.tensor([int(file.stem.rpartition("_")[2]) for file in files])


def with_weights_at(spec: BackboneSpec, path: Path) -> BackboneSpec:
    """The same spec with its checkpoint elsewhere."""
    return replace(spec, weights=replace(spec.weights, path=path))
