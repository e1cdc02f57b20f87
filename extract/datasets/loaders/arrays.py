"""Sets that are one file of pixels, and those that torchvision reads."""

from __future__ import annotations

from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np

from featurebank.extract.datasets._listing import Pixels
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets._torchvision import TorchvisionSource
from featurebank.extract.datasets.contract import DatasetSpec, Split

__all__ = ["galaxy10", "torchvision"]


def galaxy10(place: Place, split: str) -> Pixels:  # noqa: ARG001 (what all loaders take)
    """``Galaxy10_DECals.h5``: ``images`` (N, 256, 256, 3), read a row at a time, and ``ans`` (N,)."""
    file = "Galaxy10_DECals.h5"
    try:
        content = h5py.File(place.root / file, "r")
        pixels: Any = content["images"]
        labels = np.asarray(content["ans"], np.int64)
    except (OSError, KeyError) as error:
        raise place.error(file, error, "an HDF5 file with images and ans") from error
    return Pixels(pixels=pixels, labels=labels)


def torchvision(place: Place, split: str, *, name: str) -> Split:
    """One of torchvision's own, from its own layout below the root; downloaded where that is allowed and possible."""
    spec = DatasetSpec(name=f"{TorchvisionSource.prefix}{name}", split=split, label=place.name, root=place.root)
    return TorchvisionSource(download=place.download).open(spec)
