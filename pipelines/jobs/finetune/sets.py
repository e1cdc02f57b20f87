"""What a backbone is tuned on, chosen by and scored on: rows with their classes, all in the numbers of the head.

Shapes: N rows, K classes or L labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import (
    SplitRows,
    class_notes,
    labelled,
    labelled_splits,
    left_out,
    match_notes,
    matched,
    vectors,
)
from featurebank.probes._holding import stratified_part

if TYPE_CHECKING:
    from featurebank.pipelines.asking.inputs import Rows

__all__ = ["Sets", "sets_of"]

HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The parts of a run.

    Attributes:
        train: to fit on.
        validation: to choose by.
        test: to score, once.
        others: shifted sets.
        classes: those that train rows have, ascending, in the numbers of ``train``; of several labels, 0..L-1.
        several: whether a row has several labels.
        notes: for people.
    """

    train: SplitRows
    validation: SplitRows
    test: SplitRows
    others: tuple[SplitRows, ...]
    classes: NDArray[np.int64]
    several: bool
    notes: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """K of the head: one for each class that has a name, or a number, whether train rows have it or not."""
        return max(len(self.train.class_names), int(self.classes[-1]) + 1)

    @property
    def names(self) -> tuple[str, ...]:
        """(K,) of the classes; their numbers where they have none."""
        known = self.train.class_names
        return (*known, *(str(number) for number in range(len(known), self.outputs)))


def sets_of(rows: Rows, *, fraction: float, shots: int | None, seed: int) -> Sets:
    """The rows of a case, of the train rows only a part where that is asked for.

    Without validation rows a stratified fifth of the train rows takes their place, which is noted.

    Raises:
        ValueError: see `labelled_splits`; or a class has no two rows.
    """
    several = rows.train.labels.ndim == 2
    if several:
        train, test = vectors(rows.train), matched(vectors(rows.test), rows.train)
        validation = rows.validation and matched(vectors(rows.validation), rows.train)
        others = tuple(matched(vectors(other), train) for other in rows["on"])
        notes = [*left_out(train, validation, test), *match_notes(train, validation, test, *others)]
    else:
        train, validation, test = labelled_splits(rows)
        others = tuple(matched(labelled(other), train) for other in rows["on"])
        notes = [*class_notes(train, test, validation), *left_out(*others), *match_notes(train, *others)]
    part = _part(train, fraction=fraction, shots=shots, seed=seed)
    if len(part.rows) < len(train.rows):
        notes.append(f"{train.name}: {len(part.rows):,} of {len(train.rows):,} rows are trained on")
    if validation is None:
        fitting, held = _held_out(part, seed)
        part, validation = _taken(part, fitting), _taken(part, held)
        how = "at random" if several else "a stratified fifth"
        notes.append(f"{train.name}: {len(held):,} rows, {how}, are held out to choose by: there is no validation set")
    classes = np.arange(part.labels.shape[1]) if several else np.unique(part.labels)
    if not several and len(classes) < 2:
        raise ValueError(f"{train.name} must have rows of at least two classes; found one")
    known = validation if several else validation.where(np.isin(validation.labels, classes))
    return Sets(
        train=part,
        validation=known,
        test=test,
        others=others,
        classes=classes,
        several=several,
        notes=tuple(notes),
    )


def _part(train: SplitRows, *, fraction: float, shots: int | None, seed: int) -> SplitRows:
    """As many rows of each class, or a share of the rows, of each class where rows have one."""
    several = train.labels.ndim == 2
    if several and shots is not None:
        raise ValueError(f"shots must be of rows with one class each; found several labels in {train.name}")
    if shots is None and fraction >= 1.0:
        return train
    labels = np.zeros(len(train.rows), np.int64) if several else train.labels
    order = np.random.default_rng(seed).permutation(len(labels))
    kept = (
        np.maximum(1, np.round(fraction * np.bincount(labels))) if shots is None else np.full(labels.max() + 1, shots)
    )
    return _taken(train, order[_rank_in_class(labels[order]) < kept[labels[order]]])


def _rank_in_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) how many rows of the same class stand before each."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return rank


def _held_out(train: SplitRows, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows to fit on, and those to choose by."""
    if train.labels.ndim == 1:
        return stratified_part(train.labels, HELD_OUT, seed)
    order = np.random.default_rng(seed).permutation(len(train.labels))
    count = max(1, round(HELD_OUT * len(order)))
    return order[count:], order[:count]


def _taken(split: SplitRows, rows: NDArray[np.intp]) -> SplitRows:
    mask = np.zeros(len(split.rows), bool)
    mask[rows] = True
    return split.where(mask)
