"""CIFAR-10 and CIFAR-100: pickles of arrays, read without running anything else that is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featurebank.extract.datasets._listing import Pixels
from featurebank.extract.datasets._place import Place

__all__ = ["cifar10", "cifar100"]


def cifar10(place: Place, split: str) -> Pixels:
    """``cifar-10-batches-py``: five training batches, or the test batch."""
    folder = "cifar-10-batches-py"
    names = [f"data_batch_{k}" for k in range(1, 6)] if split == "train" else ["test_batch"]
    batches = [_batch(place, f"{folder}/{name}", "labels") for name in names]
    meta = place.pickled(f"{folder}/batches.meta", "label_names")
    return _pixels(batches, "labels", meta["label_names"])


def cifar100(place: Place, split: str) -> Pixels:
    """``cifar-100-python``: one batch a split; ``labels`` chooses the 100 classes or the 20 they belong to."""
    level = f"{place.options['labels']}_label"
    batch = _batch(place, f"cifar-100-python/{split}", f"{level}s")
    meta = place.pickled("cifar-100-python/meta", f"{level}_names")
    return _pixels([batch], f"{level}s", meta[f"{level}_names"])


def _batch(place: Place, file: str, labels: str) -> dict[str, Any]:
    batch = place.pickled(file, "data", labels)
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(batch[labels]), 3072):
        raise place.error(file, f"{getattr(data, 'dtype', type(data))} {getattr(data, 'shape', '')}", "(N, 3072) uint8")
    return batch


def _pixels(batches: list[dict[str, Any]], labels: str, names: Sequence[str]) -> Pixels:
    planes = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return Pixels(
        pixels=np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        labels=[label for batch in batches for label in batch[labels]],
        class_names=names,
    )
