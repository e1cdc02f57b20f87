"""What a task reads: the usable rows of feature sets, as views of the files wherever no row has to be left out.

Shapes: N rows, D features, L labels of a multi-label set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store import Entry, FeatureSet
from featurebank.store.rows import plain_text

__all__ = [
    "Inputs",
    "SplitRows",
    "check_alike",
    "class_notes",
    "labelled",
    "left_out",
    "load_array",
    "read_rows",
    "vectors",
]


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """The rows of one feature set that have features.

    Attributes:
        name: ``"dataset/split"``.
        path: the set's file.
        features: (N, …) of one output, in the stored dtype.
        labels: int64 (N,) or (N, L); below 0 where a row has none.
        class_names: of the dataset; may be empty.
        rows: (N,) their numbers in the set.
        failed: rows of the set without features.
        total: rows of the set.
    """

    name: str
    path: Path
    features: NDArray[np.floating]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    rows: NDArray[np.intp]
    failed: int
    total: int

    @property
    def ids(self) -> NDArray[np.str_]:
        """The rows' ids (N,), read from the file."""
        with FeatureSet(self.path) as feature_set:
            return plain_text(feature_set.ids[self.rows])

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The rows' extra columns, (N,) each, read from the file."""
        with FeatureSet(self.path) as feature_set:
            return {name: values[self.rows] for name, values in feature_set.columns.items()}

    def where(self, mask: NDArray[np.bool_]) -> SplitRows:
        """Only some rows; the same object, and no copy, where that is all of them."""
        if mask.all():
            return self
        return replace(self, features=self.features[mask], labels=self.labels[mask], rows=self.rows[mask])

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where it has none."""
        return repr(self.class_names[label]) if 0 <= label < len(self.class_names) else str(label)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a task is handed.

    Attributes:
        backbone: its name.
        train: rows to fit on.
        validation: rows to choose settings on, where the store has them.
        test: rows to score.
        others: the further sets that the task names.
        head: the backbone's own classifier, weight (C, D) and bias (C,).
    """

    backbone: str
    train: SplitRows
    test: SplitRows
    validation: SplitRows | None = None
    others: tuple[SplitRows, ...] = ()
    head: tuple[NDArray[Any], NDArray[Any]] | None = None


def read_rows(entry: Entry, output: str) -> SplitRows:
    """The rows of a sealed set that have features.

    Raises:
        NotFoundError: the set has no such output.
        CorruptError: the file is damaged.
    """
    with entry.open() as feature_set:
        ok = feature_set.ok
        every = SplitRows(
            name=f"{entry.dataset}/{entry.split}",
            path=entry.path,
            features=feature_set[output],
            labels=feature_set.labels,
            class_names=tuple(feature_set.class_names),
            rows=np.arange(feature_set.n_rows),
            failed=int((~ok).sum()),
            total=feature_set.n_rows,
        )
        return every.where(ok)


def load_array(path: Path) -> NDArray[Any]:
    """An array of numbers in a ``.npy`` file, mapped.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path}: expected a .npy file of numbers, found something else: {error}") from error


def check_alike(splits: Sequence[SplitRows]) -> None:
    """Raises ValueError where the rows of the splits do not have the same shape."""
    first = splits[0]
    for other in splits[1:]:
        if other.features.shape[1:] != first.features.shape[1:]:
            raise ValueError(
                f"the rows of {first.name} and {other.name} must have the same shape, found {first.features.shape[1:]} "
                f"and {other.features.shape[1:]}; extract one of them again, or choose another --output"
            )


def vectors(split: SplitRows) -> SplitRows:
    """The split, if its features are one vector a row.

    Raises:
        ValueError: they are something else, or there is no row.
    """
    if split.features.ndim != 2:
        raise ValueError(
            f"{split.name}: expected one vector a row, found {split.features.shape[1:]} a row; choose another --output"
        )
    if len(split.features) == 0:
        raise ValueError(
            f"{split.name}: expected rows with features, found none: {split.failed} of {split.total} failed"
        )
    return split


def labelled(split: SplitRows) -> SplitRows:
    """The rows that have a class, one vector each.

    Raises:
        ValueError: labels of a multi-label set, no labelled row, or features that are no vectors.
    """
    vectors(split)
    if split.labels.ndim != 1:
        raise ValueError(
            f"{split.name}: expected one class a row, found labels {split.labels.shape[1:]} a row; "
            "use --task multilabel"
        )
    kept = split.where(split.labels >= 0)
    if len(kept.labels) == 0 and (values := split.columns.get("label")) is not None and values.dtype.kind == "f":
        raise ValueError(
            f"{split.name}: expected classes, found labels with decimals; --task regression predicts those"
        )
    if len(kept.labels) == 0:
        raise ValueError(f"{split.name}: expected labelled rows, found none among {len(split.labels)}")
    return kept


def left_out(*splits: SplitRows | None) -> list[str]:
    """For each split that lost rows, how many and why."""
    notes = []
    for split in splits:
        if split is not None and (missing := split.total - len(split.rows)):
            reasons = {"failed": split.failed, "unlabelled": missing - split.failed}
            why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
            notes.append(f"{split.name}: {missing:,} of {split.total:,} rows left out: {why}")
    return notes


def class_notes(train: SplitRows, test: SplitRows, validation: SplitRows | None = None) -> list[str]:
    """Rows left out, and classes that only one of the splits has."""
    notes = left_out(train, validation, test)
    for have, lack in ((test, train), (train, test)):
        missing = np.setdiff1d(have.labels, lack.labels)
        if len(missing):
            names = ", ".join(have.class_name(int(label)) for label in missing[:5]) + (
                ", …" if len(missing) > 5 else ""
            )
            note = f"classes of {have.name} without rows in {lack.name}: {names}; {len(missing)} in all"
            wrong = f", rows counted as wrong: {np.isin(test.labels, missing).sum():,}" if have is test else ""
            notes.append(note + wrong)
    return notes
