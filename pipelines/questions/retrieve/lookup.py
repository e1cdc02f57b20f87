"""What is looked for in what: the usable rows of a query and a gallery set, and what is relevant among them.

Shapes: M queries, N gallery rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import SplitRows, left_out, match_notes, matched, vectors
from featurebank.pipelines.questions.retrieve.queries import FileRows
from featurebank.retrieval.protocols import Protocol
from featurebank.retrieval.relevance import LabelRelevance, ListRelevance, Relevance, rows_of_ids, two_level_split
from featurebank.store import FeatureSet
from featurebank.store.errors import unknown_name

__all__ = ["DISTRACTED", "TWO_LEVEL", "Lookup", "pose"]

DISTRACTED = ("copydays", "disc21")  # protocols whose rows without a label are there to distract
TWO_LEVEL = ("bob", "bob-compat")  # protocols that split a set into queries and gallery


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Queries and the gallery they are looked for in.

    Attributes:
        queries: M rows.
        gallery: N rows; the very object of the queries where each is looked for among the others.
        relevance: what is relevant to which query.
        notes: rows that were left out, rows that distract, and how classes were matched.
    """

    queries: SplitRows
    gallery: SplitRows
    relevance: Relevance
    notes: list[str]


def pose(
    queries: SplitRows,
    gallery: SplitRows,
    protocol: Protocol,
    *,
    by: str | None = None,
    ground_truth: Path | None = None,
    per_class: int | None = None,
) -> Lookup:
    """What a protocol looks for in two sets, or in one, whose rows are looked for among each other.

    Rows are relevant to each other where their labels, or values of a column, are the same; sets with other classes
    are compared by the names of these. Rows without features or a label are left out; in protocols with distractors,
    rows without a label stay and are like nothing. Protocols of two levels split a single set. Queries of a file may
    name the row that they look for.

    Args:
        queries: M rows.
        gallery: N rows; the very object of the queries where each is looked for among the others.
        protocol: the protocol.
        by: an extra column instead of the labels.
        ground_truth: JSON that lists the ids of each query's rows by level, instead of both.
        per_class: rows of each class that `two_level_split` keeps.

    Raises:
        UnknownNameError: a set lacks the column.
        ValueError: rows that are no vectors, several labels a row, no labelled row, classes that cannot be compared, or
            a ground truth that does not fit.
    """
    itself = queries is gallery
    queries, gallery = vectors(queries), vectors(gallery)
    if ground_truth is not None:
        relevance, lost = _listed(queries, gallery, protocol, ground_truth)
        notes = [*left_out(queries, gallery), *lost]
        return Lookup(queries=queries, gallery=gallery, relevance=relevance, notes=notes)
    if by is None and isinstance(queries, FileRows) and queries.targets is not None:
        aimed = _aimed(queries, queries.targets, gallery)
        return Lookup(queries=queries, gallery=gallery, relevance=aimed, notes=left_out(gallery))
    sides = [queries] if itself else [queries, gallery]
    notes = [*queries.notes] if by is None and isinstance(queries, FileRows) else []
    if by is None and not itself and not isinstance(queries, FileRows):
        sides = [matched(queries, gallery, advice="name a column that says what is relevant: --by COLUMN"), gallery]
        notes = match_notes(gallery, sides[0])
    values = [_values(side, by) for side in sides]
    known = [_known(array, labels=by is None) for array in values]
    codes = _codes(sides, values, known)
    if protocol.name in DISTRACTED:
        notes += [
            f"{side.name}: {int((~mask).sum()):,} of {side.total:,} rows have no label and are there to distract"
            for side, mask in zip(sides, known, strict=True)
            if not mask.all()
        ]
    else:
        sides = [side.where(mask) for side, mask in zip(sides, known, strict=True)]
        codes = [array[mask] for array, mask in zip(codes, known, strict=True)]
    notes = left_out(*sides) + notes
    if itself and protocol.name in TWO_LEVEL:
        sides, codes = _two_levels(sides[0], codes[0], per_class)
    return Lookup(queries=sides[0], gallery=sides[-1], relevance=LabelRelevance(*codes), notes=notes)


def _values(split: SplitRows, by: str | None) -> NDArray[Any]:
    if by is not None:
        columns = split.columns
        if by not in columns:
            raise unknown_name(f"column of {split.name}", by, columns)
        return columns[by]
    if split.labels.ndim != 1:
        raise ValueError(
            f"{split.name}: expected one class a row, found labels {split.labels.shape[1:]} a row; "
            "name a column that says what is relevant: --by COLUMN"
        )
    return split.labels


def _aimed(queries: SplitRows, targets: NDArray[np.str_], gallery: SplitRows) -> ListRelevance:
    """The one row that each query looks for."""
    rows = rows_of_ids(targets, gallery.ids)
    if len(unknown := targets[rows < 0]):
        raise ValueError(
            f"{queries.name}: expected ids of {gallery.name} that have features, found {len(unknown)} others: "
            f"{str(unknown[0])!r}"
        )
    return ListRelevance(rows[:, None].tolist(), len(gallery.rows))


def _known(values: NDArray[Any], *, labels: bool) -> NDArray[np.bool_]:
    """(N,) where a row has a label: not below 0 for labels, not NaN or blank for columns."""
    if values.dtype.kind == "f":
        return np.asarray(np.isfinite(values))
    if values.dtype.kind == "U":
        return np.asarray(values != "")
    return np.asarray(values >= 0) if labels else np.ones(len(values), bool)


def _codes(
    sides: Sequence[SplitRows], values: Sequence[NDArray[Any]], known: Sequence[NDArray[np.bool_]]
) -> list[NDArray[np.int64]]:
    """Numbers that are equal where the values are; each row without a value has one of its own, below 0."""
    for side, mask in zip(sides, known, strict=True):
        if not mask.any():
            raise ValueError(f"{side.name}: expected labelled rows, found none among {len(mask)}")
    values = _comparable(sides, values)
    numbers = np.unique(np.concatenate(values), return_inverse=True)[1]
    codes = np.where(np.concatenate(known), numbers, -1 - np.arange(len(numbers)))
    return np.split(codes, np.cumsum([len(array) for array in values])[:-1])


def _comparable(sides: Sequence[SplitRows], values: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """Values of one kind, none of which merge: whole numbers are texts where the other side has some, with gaps."""
    kinds = {array.dtype.kind for array in values}
    if "U" in kinds and kinds <= {"U", "i", "u"}:
        return [array.astype(np.str_) for array in values]
    inexact = np.result_type(*values).kind == "f"
    large = any(array.dtype.kind in "iu" and np.abs(array.astype(np.float64)).max() >= 1 << 53 for array in values)
    if len({kind == "U" for kind in kinds}) > 1 or (inexact and large):
        raise ValueError(
            f"{sides[0].name} and {sides[1].name} must have the same kind of values in that column; "
            f"found {values[0].dtype} and {values[1].dtype}"
        )
    return values


def _two_levels(
    side: SplitRows, codes: NDArray[np.int64], per_class: int | None
) -> tuple[list[SplitRows], list[NDArray[np.int64]]]:
    split = two_level_split(codes, side.ids, per_class=per_class)
    levels = [np.isin(np.arange(len(codes)), rows) for rows in split]
    return [side.where(mask) for mask in levels], [codes[mask] for mask in levels]


def _listed(queries: SplitRows, gallery: SplitRows, protocol: Protocol, path: Path) -> tuple[ListRelevance, list[str]]:
    """The relevance that a file lists, and a note of the listed rows that have no features."""
    levels, truth, ids = sorted({*protocol.positives, *protocol.junk}), _read(path), queries.ids.tolist()
    for name in ids:
        if lacking := [level for level in levels if level not in truth.get(name, {})]:
            raise ValueError(f"{path}: expected {', '.join(levels)} of query {name!r}, found no {', '.join(lacking)}")
    lists = [truth[name][level] for name in ids for level in levels]
    listed = np.array([name for names in lists for name in names], np.str_)
    with FeatureSet(gallery.path) as feature_set:
        rows = rows_of_ids(listed, feature_set.ids)
    if len(unknown := listed[rows < 0]):
        raise ValueError(f"{path}: expected ids of {gallery.name}, found {len(unknown)} others: {str(unknown[0])!r}")
    place = np.full(gallery.total, -1)
    place[gallery.rows] = np.arange(len(gallery.rows))
    found = place[rows]
    parts = iter(np.split(found, np.cumsum([len(names) for names in lists])[:-1]))
    revisited = [{level: part[part >= 0] for level, part in zip(levels, parts, strict=False)} for _ in ids]
    relevance = ListRelevance.revisited(revisited, len(gallery.rows), positives=protocol.positives, junk=protocol.junk)
    lost = int((found < 0).sum())
    return relevance, [f"{path.name}: {lost:,} of {len(listed):,} listed rows have no features"] if lost else []


def _read(path: Path) -> dict[str, dict[str, list[str]]]:
    shape = f'{path}: expected {{"query id": {{"easy": ["gallery id", …], "hard": […], "junk": […]}}, …}}'
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{shape}, found no JSON: {error}") from error
    if not isinstance(truth, dict) or not all(
        isinstance(levels, dict)
        and all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in levels.values())
        for levels in truth.values()
    ):
        raise ValueError(f"{shape}, found something else")
    return truth
