"""Sets that are one file of pixels, and those that torchvision reads."""

from __future__ import annotations

import math
from typing import Any, Final

import h5py  # type: ignore[import-untyped]
import numpy as np

from featurebank.extract.datasets._listing import Pixels
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets._torchvision import TorchvisionSource
from featurebank.extract.datasets.contract import DatasetSpec, Split

__all__ = ["galaxy10", "torchvision"]

PIECE_BYTES: Final = 1 << 28


def galaxy10(place: Place, split: str) -> Pixels:  # noqa: ARG001 (what all loaders take)
    """``Galaxy10_DECals.h5``: ``images`` (N, 256, 256, 3), read a row at a time, and ``ans`` (N,)."""
    file = "Galaxy10_DECals.h5"
    if place.missing([file]):
        raise place.gone(file)
    with place.reading(file, "an HDF5 file with images and ans"):
        content = h5py.File(place.root / file, "r")
        pixels, answers = (_own(content, name) for name in ("images", "ans"))
        if pixels.ndim not in {3, 4} or answers.shape != pixels.shape[:1]:
            raise ValueError(f"images {pixels.shape} and ans {answers.shape}")
        labels = np.asarray(answers, np.int64)
    return Pixels(pixels=pixels, labels=labels)


def _own(content: Any, name: str) -> Any:
    """A dataset whose values lie in the file itself: links and external storage lead to other files.

    Raises:
        ValueError: they lie elsewhere, or a row or a chunk is larger than any image.
    """
    if not isinstance(content.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to somewhere else")
    values = content[name]
    if not isinstance(values, h5py.Dataset) or values.external or values.is_virtual:
        raise ValueError(f"{name} is no dataset of this file alone")
    if values.dtype.kind not in "iu" or not values.ndim:
        raise ValueError(f"{name} holds {values.dtype} {values.shape}, not whole numbers")
    piece = max(math.prod(values.shape[1:]), math.prod(values.chunks or ())) * values.dtype.itemsize
    if piece > PIECE_BYTES:
        raise ValueError(f"{name} is stored in pieces of {piece:,} bytes, more than {PIECE_BYTES:,}")
    return values


def torchvision(place: Place, split: str, *, name: str) -> Split:
    """One of torchvision's own, from its own layout below the root; downloaded where that is allowed and possible."""
    spec = DatasetSpec(name=f"{TorchvisionSource.prefix}{name}", split=split, label=place.name, root=place.root)
    return TorchvisionSource(download=place.download).open(spec)
