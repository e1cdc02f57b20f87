"""Rows besides those of one output of one set: outputs joined, and queries of a file.

Shapes: M queries, N rows of a set, D features.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import SplitRows, load_array, ordered_classes, vectors

__all__ = ["FileRows", "join_outputs", "read_queries"]

FEATURES, LABELS, IDS = "features", "labels", "ids"


@dataclass(frozen=True, kw_only=True)
class FileRows(SplitRows):
    """Queries that come from a file, such as text features.

    Attributes:
        targets: (M,) the id of the gallery row that each looks for, where the file says that.
        others: its other arrays of (M,), by name.
        notes: what its rows are taken for, where it does not say.
    """

    targets: NDArray[np.str_] | None = None
    others: dict[str, NDArray[Any]]
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> NDArray[np.str_]:
        """Row numbers, (M,)."""
        return np.array([f"{row:06}" for row in self.rows])

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The file's other arrays."""
        return {name: values[self.rows] for name, values in self.others.items()}


def join_outputs(split: SplitRows, names: Sequence[str]) -> SplitRows:
    """The rows with further outputs beside their features; without names, the same object. See `concatenate`.

    Raises:
        NotFoundError: the set lacks an output.
        ValueError: an output that is not one vector a row.
    """
    if not names:
        return split
    from featurebank.retrieval.descriptors import concatenate

    sides = [vectors(split), *(vectors(replace(split, features=split.output(name))) for name in names)]
    return replace(split, features=concatenate(*(side.features for side in sides)))


def read_queries(path: Path, gallery: SplitRows) -> FileRows:
    """Queries from ``.npy``, a row for each class of the gallery, or from ``.npz``.

    The latter holds ``features`` (M, D) and ``labels`` (M,), class numbers or names, or ``ids`` (M,) of the gallery
    rows that are looked for; other arrays of (M,) are columns.

    Raises:
        ValueError: another kind of file, arrays missing or of another shape, or a class that the gallery lacks.
    """
    arrays = _npz(path) if path.suffix == ".npz" else {FEATURES: load_array(path)}
    features = arrays.pop(FEATURES, np.empty(0))
    if features.ndim != 2 or features.dtype.kind != "f":
        raise ValueError(
            f"{path}: expected {FEATURES} (M, D) of floats, found shape {features.shape}, dtype {features.dtype}"
        )
    for name, values in arrays.items():
        if values.shape != features.shape[:1]:
            raise ValueError(f"{path}: expected {name} ({len(features)},), one for each query, found {values.shape}")
    targets, labels = arrays.pop(IDS, None), arrays.pop(LABELS, None)
    if targets is not None and labels is not None:
        raise ValueError(f"{path}: {LABELS} and {IDS} both say what is relevant; keep one of them")
    notes: list[str] = []
    if path.suffix != ".npz":
        labels, notes = _one_each(path, len(features), gallery)
    rows = np.arange(len(features))
    return FileRows(
        name=path.name,
        path=path,
        features=features,
        labels=np.full(len(rows), -1) if labels is None else _numbers(path, labels, gallery),
        class_names=gallery.class_names,
        rows=rows,
        failed=0,
        total=len(rows),
        targets=None if targets is None else targets.astype(np.str_),
        others=arrays,
        notes=tuple(notes),
    )


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: expected a .npz file of arrays without pickle, found {error}") from error


def _one_each(path: Path, count: int, gallery: SplitRows) -> tuple[NDArray[np.int64], list[str]]:
    """A class for each row, in the gallery's order, and what to say of that."""
    advice = f"or write {FEATURES} and {LABELS} or {IDS} into a .npz file"
    notes = ordered_classes(path, count, gallery, advice=advice)
    classes = int(gallery.labels.max(initial=-1)) + 1
    if not gallery.class_names and count != classes:
        raise ValueError(
            f"{path}: expected a row for each of the {classes} classes of {gallery.name}, found {count}; {advice}"
        )
    return np.arange(count), notes


def _numbers(path: Path, labels: NDArray[Any], gallery: SplitRows) -> NDArray[np.int64]:
    """Class numbers, of names if need be."""
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    numbers = {name: number for number, name in enumerate(gallery.class_names)}
    if twice := [name for name, count in Counter(gallery.class_names).items() if count > 1 and name in labels]:
        raise ValueError(f"{path}: several classes of {gallery.name} are called {twice[0]!r}; give numbers as {LABELS}")
    if unknown := [name for name in labels.tolist() if name not in numbers]:
        raise ValueError(
            f"{path}: expected {LABELS} to be numbers or class names of {gallery.name}, found {unknown[0]!r}"
        )
    return np.array([numbers[name] for name in labels.tolist()], np.int64)
