"""What a task reads: the usable rows of feature sets, as views of the files wherever no row has to be left out.

Shapes: N rows, D features, L labels of a multi-label set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.classes import AMBIGUOUS, ClassMatch, listed, match_classes
from featurebank.store import Entry, FeatureSet
from featurebank.store.rows import plain_text

__all__ = [
    "Rows",
    "SplitRows",
    "check_alike",
    "class_notes",
    "labelled",
    "labelled_splits",
    "left_out",
    "load_array",
    "match_notes",
    "matched",
    "ordered_classes",
    "read_rows",
    "unknown_classes",
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
        match: how its classes were found in those of another set, whose numbers and names it then has; see `matched`.
    """

    name: str
    path: Path
    features: NDArray[np.floating]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    rows: NDArray[np.intp]
    failed: int
    total: int
    match: ClassMatch | None = None

    @property
    def dataset(self) -> str:
        """The name without the split."""
        return self.name.rpartition("/")[0]

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

    def output(self, name: str) -> NDArray[np.floating]:
        """The rows' features of another output, (N, …), as views of the file where no row is left out.

        Raises:
            NotFoundError: the set has no such output.
        """
        with FeatureSet(self.path) as feature_set:
            return feature_set[name] if len(self.rows) == self.total else feature_set[name][self.rows]

    def where(self, mask: NDArray[np.bool_]) -> SplitRows:
        """Only some rows; the same object, and no copy, where that is all of them."""
        if mask.all():
            return self
        return replace(self, features=self.features[mask], labels=self.labels[mask], rows=self.rows[mask])

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where it has none."""
        return repr(self.class_names[label]) if 0 <= label < len(self.class_names) else str(label)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a question is handed.

    Attributes:
        backbone: its name.
        sets: rows by the part that they play; a role of several sets has them in the order given.
        head: the backbone's own classifier, weight (C, D) and bias (C,).
        workshop: where a job works, `featurebank.pipelines.jobs.workshop.Workshop`; ``None`` for other questions.
    """

    backbone: str
    sets: Mapping[str, tuple[SplitRows, ...]]
    head: tuple[NDArray[Any], NDArray[Any]] | None = None
    workshop: Any = None

    def __getitem__(self, role: str) -> tuple[SplitRows, ...]:
        return self.sets.get(role, ())

    def one(self, role: str) -> SplitRows:
        """The only set of a role."""
        (split,) = self.sets[role]
        return split

    @property
    def train(self) -> SplitRows:
        """Rows to fit on; the scored ones where nothing is fitted."""
        return self.one("train" if "train" in self.sets else "test")

    @property
    def validation(self) -> SplitRows | None:
        """Rows to choose settings on, where the store has them."""
        return next(iter(self["validation"]), None)

    @property
    def test(self) -> SplitRows:
        """Rows to score."""
        return self.one("test")


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


def vectors(split: SplitRows, axes: int = 1) -> SplitRows:
    """The split, if its features are one vector a row; or a matrix a row, with two axes.

    Raises:
        ValueError: they are something else, or there is no row.
    """
    if split.features.ndim != axes + 1:
        what = "one vector" if axes == 1 else "tokens, (T, D)"
        raise ValueError(
            f"{split.name}: expected {what} a row, found {split.features.shape[1:]} a row; choose another --output"
        )
    if len(split.features) == 0:
        raise ValueError(
            f"{split.name}: expected rows with features, found none: {split.failed} of {split.total} failed"
        )
    return split


def labelled(split: SplitRows, axes: int = 1) -> SplitRows:
    """The rows that have a class; see `vectors`.

    Raises:
        ValueError: labels of a multi-label set, no labelled row, or features of other axes.
    """
    vectors(split, axes)
    if split.labels.ndim != 1:
        raise ValueError(
            f"{split.name}: expected one class a row, found labels {split.labels.shape[1:]} a row; ask multilabel"
        )
    kept = split.where(split.labels >= 0)
    if len(kept.labels) == 0:
        values = split.columns.get("label") if split.path.is_file() else None
        if values is not None and values.dtype.kind == "f":
            raise ValueError(f"{split.name}: expected classes, found labels with decimals; regression predicts those")
        raise ValueError(f"{split.name}: expected labelled rows, found none among {len(split.labels)}")
    return kept


def matched(split: SplitRows, reference: SplitRows, *, by_number: bool = False, advice: str = "") -> SplitRows:
    """The rows with the classes of another set: its numbers and names, behind these those of classes that it lacks.

    Classes meet by name where both sets have names, else by number; `SplitRows.match` says which. Where labels keep
    their meaning nothing is copied. Rows without any label, or with another kind of labels, stay as they are.

    Args:
        split: the rows.
        reference: the set whose classes are wanted.
        by_number: whether numbers may stand for names that one side lacks; within a dataset they always may.
        advice: what to do where they may not.

    Raises:
        ValueError: no class is shared, or a row's class cannot be told.
    """
    sides = (split, reference)
    if split.labels.ndim != reference.labels.ndim or not all((side.labels >= 0).any() for side in sides):
        return split
    match = match_classes(_names(reference), _names(split))
    if len(match.nameless) == 1 and not by_number and split.dataset != reference.dataset:
        nameless = split.name if match.nameless == ("set",) else reference.name
        raise ValueError(
            f"the classes of {split.name} and {reference.name} must be comparable; found no class names in {nameless}"
            f"{advice and '; '}{advice}"
        )
    if match.by == "number":
        if split.labels.ndim > 1 and split.labels.shape[1] != reference.labels.shape[1]:
            widths = " and ".join(str(side.labels.shape[1]) for side in sides)
            raise ValueError(f"{split.name} and {reference.name} must have as many labels, unnamed; found {widths}")
        return replace(split, match=match)
    if len(match.extra) == len(match.numbers):
        few = " and ".join(listed([*map(repr, side.class_names)]) for side in sides)
        raise ValueError(f"{split.name} and {reference.name} must share classes by name; found {few}")
    return replace(split, labels=_renumbered(split, match), class_names=match.names, match=match)


def _names(split: SplitRows) -> tuple[str, ...]:
    """Of its classes, where it has one for each."""
    if split.labels.ndim > 1:
        return split.class_names if len(split.class_names) == split.labels.shape[1] else ()
    highest = int(split.labels.max())
    if 0 < len(split.class_names) <= highest:
        raise ValueError(
            f"{split.name}: expected a class name for each label up to {highest}, found {len(split.class_names)}"
        )
    return split.class_names


def _renumbered(split: SplitRows, match: ClassMatch) -> NDArray[np.int64]:
    """The labels in the reference's numbering, (N,), or (N, L) with -1 for the labels that the set lacks."""
    if not match.renumbers and (split.labels.ndim == 1 or len(match.names) == split.labels.shape[1]):
        return split.labels
    numbers = np.array(match.numbers)
    if split.labels.ndim > 1:
        unclear = (split.labels[:, numbers == AMBIGUOUS] >= 0).any()
        found = np.full((len(split.labels), len(match.names)), -1, np.int64)
        found[:, numbers[numbers >= 0]] = split.labels[:, numbers >= 0]
    else:
        found = np.where(split.labels < 0, split.labels, numbers[split.labels])
        unclear = (found[split.labels >= 0] == AMBIGUOUS).any()
    if unclear:
        raise ValueError(
            f"{split.name}: expected names that stand for one class each, found several classes called "
            f"{listed([*map(repr, match.ambiguous)])}, there or in the set it is compared with"
        )
    return found


def labelled_splits(rows: Rows, axes: int = 1) -> tuple[SplitRows, SplitRows | None, SplitRows]:
    """The rows of the train, validation and test sets that have a class, all in the train set's classes.

    Raises:
        ValueError: see `labelled` and `matched`.
    """
    train = labelled(rows.train, axes)
    validation = None if rows.validation is None else matched(labelled(rows.validation, axes), train)
    test = train if rows.test is rows.train else matched(labelled(rows.test, axes), train)
    return train, validation, test


def ordered_classes(path: Path, count: int, split: SplitRows, *, advice: str = "") -> list[str]:
    """What to say of a file with a row for each class of a set and no names: they are taken in the set's order.

    Raises:
        ValueError: the set names more classes, or fewer.
    """
    if split.class_names and count != len(split.class_names):
        raise ValueError(
            f"{path}: expected a row for each of the {len(split.class_names)} classes of {split.name}, in their order; "
            f"found {count}{advice and '; '}{advice}"
        )
    return [f"{path.name} names no classes: its rows are taken in the order of those of {split.name}"]


def left_out(*splits: SplitRows | None) -> list[str]:
    """For each split that lost rows, how many and why."""
    notes = []
    for split in splits:
        if split is not None and (missing := split.total - len(split.rows)):
            reasons = {"failed": split.failed, "unlabelled": missing - split.failed}
            why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
            notes.append(f"{split.name}: {missing:,} of {split.total:,} rows left out: {why}")
    return notes


def match_notes(reference: SplitRows, *splits: SplitRows | None) -> list[str]:
    """How the classes of splits were found in those of another; see `matched`."""
    matches = [(split.name, split.match) for split in splits if split is not None and split.match is not None]
    return [note for name, match in matches for note in match.notes(name, reference.name)]


def class_notes(train: SplitRows, test: SplitRows, validation: SplitRows | None = None) -> list[str]:
    """Rows left out, classes that only one of the splits has, and how classes were matched."""
    notes = [*left_out(train, validation, test), *unknown_classes(test, train), *_without_rows(train, test)]
    return [*notes, *match_notes(train, validation, test)]


def unknown_classes(test: SplitRows, train: SplitRows) -> list[str]:
    """What to say of rows whose class no train row has."""
    missing = np.setdiff1d(test.labels, train.labels)
    wrong = np.isin(test.labels, missing).sum()
    return [f"{note}, rows counted as wrong: {wrong:,}" for note in _without_rows(test, train)]


def _without_rows(have: SplitRows, lack: SplitRows) -> list[str]:
    missing = np.setdiff1d(have.labels, lack.labels)
    if not len(missing):
        return []
    names = listed([have.class_name(int(label)) for label in missing])
    return [f"classes of {have.name} without rows in {lack.name}: {names}; {len(missing)} in all"]
