"""The accuracy of a head fitted on one set, on others.

Shapes: M rows of a set, D features, C classes of a head.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.answer import Answer, Score
from featurebank.pipelines.asking.classes import listed, match_classes
from featurebank.pipelines.asking.inputs import (
    Rows,
    SplitRows,
    class_notes,
    labelled,
    labelled_splits,
    left_out,
    match_notes,
    matched,
)
from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.questions.linear import fit_rows
from featurebank.probes.choice import CS
from featurebank.probes.linear import Protocol

if TYPE_CHECKING:
    from featurebank.pipelines.asking.results import Row
    from featurebank.pipelines.asking.sheet import Sheet
    from featurebank.probes.choice import Choice

__all__ = ["Shift", "corruption_of", "corruption_scores", "robustness"]

CORRUPTED = re.compile(r"(?P<corruption>[a-z_]+?)[-_/.]?(?P<severity>[1-5])")


@dataclass(frozen=True, kw_only=True)
class Shift(Question):
    """The accuracy on sets that a linear probe, or the backbone's own head, was not made for.

    A set with other class names than the train set is scored on the classes it names (a class mask), matched by name.
    A split called CORRUPTION_SEVERITY, or columns ``corruption`` and ``severity``, make a set one of corruptions.
    """

    name: ClassVar[str] = "shift"
    version: ClassVar[int] = 2
    layout: ClassVar[Layout] = Layout(index=("backbone", "set"), grouped=True)
    predicts_classes: ClassVar[bool] = True

    on: tuple[str, ...] = option((), "A set to score, DATASET or DATASET/SPLIT; repeatable.", metavar="KEY", role=True)
    head: Literal["own", "probe"] = option("probe", "The classifier: a probe, or the backbone's own.")
    classes: Path | None = option(None, "JSON of a set's name to the head's classes, in its order.", metavar="FILE")
    protocol: Protocol = option("logistic", "The protocol: how a probe is fitted.")
    cs: tuple[float, ...] = option(CS, "A candidate for C; repeatable.", flag="--c")
    device: str = option("cpu", "Of torch, such as cpu or cuda.", hashed=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.on:
            raise ValueError("shift needs --on DATASET/SPLIT, a set to score; it can be repeated")

    @property
    def fits(self) -> bool:
        """Only a probe does."""
        return self.head == "probe"

    def run(self, rows: Rows) -> Answer:
        """Accuracy on the test set and on every other, the loss between them, and corruption errors where there are.

        What is kept of predictions and labels has the head's numbers of classes.
        """
        from featurebank.pipelines.asking import intervals
        from featurebank.probes.choice import edge_notes

        train, validation, test = labelled_splits(rows)
        notes = class_notes(train, test, validation)
        others = [labelled(other) for other in rows["on"]]
        given = self._given([test.name, *(other.name for other in others)])
        placed = [_given_classes(labelled(rows.test), given[test.name]) if test.name in given else (test, None)]
        for other in others:
            if other.name in given:
                placed.append(_given_classes(other, given[other.name]))
            elif self.head == "own" and test.name in given:
                raise ValueError(f"{self.classes}: expected the head's classes of {other.name} too, found none")
            else:
                placed.append(_named_classes(other, train))
        head = self._own(rows) if self.head == "own" else self._probe(train, validation)
        scores: list[Score] = []
        arrays: dict[str, NDArray[Any]] = {}
        notes += edge_notes(head.choices)
        errors: dict[str, dict[int, float]] = {}
        for split, mask in placed:
            found = head.predict(split, mask)
            right = found == split.labels
            first = not scores
            scores.append(intervals.mean_score("accuracy", right, seed=self.seed, set="" if first else split.name))
            kept = intervals.predicted(split, found)
            arrays |= kept if first else {f"{split.name} {name}": array for name, array in kept.items()}
            if first:
                notes += _own_notes(rows, split, found, mask) if self.head == "own" else []
                continue
            notes += left_out(split) + match_notes(train, split)
            for corruption, severity, some in corruption_of(split):
                errors.setdefault(corruption, {})[severity] = float(1 - right[some].mean())
        scores += [_loss(scores[0], score) for score in scores[1:]]
        scores += corruption_scores(errors)
        return Answer(scores=scores, chosen=head.chosen, arrays=arrays, notes=notes)

    def sheets(self, rows: Sequence[Row]) -> Sequence[Sheet]:
        """How far each backbone's accuracy on each set lies above the line through all backbones."""
        from featurebank.pipelines.asking.sheet import Sheet

        accuracies = [row for row in rows if row.metric == "accuracy"]
        own = {row.backbone: row.value for row in accuracies if row.set == row.test}
        places = dict.fromkeys(row.set for row in accuracies if row.set != row.test)
        above = {at: robustness(own, {r.backbone: r.value for r in accuracies if r.set == at}) for at in places}
        if not any(above.values()):
            return ()
        lines: list[tuple[tuple[str, ...], tuple[Row | str | None, ...]]] = [
            ((name,), tuple(_robustness(rows[0], name, at, above[at].get(name)) for at in places)) for name in own
        ]
        title = "effective robustness: accuracy above the line through all backbones"
        return (Sheet(title=title, names=("backbone",), columns=[*places], lines=lines, signed=True),)

    def _probe(self, train: SplitRows, validation: SplitRows | None) -> _Head:
        fit = fit_rows(train, validation, protocol=self.protocol, cs=self.cs, seed=self.seed, device=self.device)
        return _Head(logits=fit.logits, classes=fit.classes, chosen=dict(fit.chosen), choices=fit.choices)

    def _own(self, rows: Rows) -> _Head:
        if rows.head is None:
            raise ValueError(f"{rows.backbone} has no classifier of its own in the store; leave out --head own")
        weight, bias = (np.asarray(part, np.float64) for part in rows.head)
        if rows.test.features.shape[1:] != weight.shape[1:]:
            raise ValueError(
                f"the head of {rows.backbone} reads {weight.shape[1:]} features, found "
                f"{rows.test.features.shape[1:]}; choose another --output"
            )

        from featurebank.probes._rows import row_slices

        def logits(features: NDArray[np.floating]) -> NDArray[np.float64]:
            found = np.empty((len(features), len(bias)))
            for block in row_slices(*features.shape):
                found[block] = features[block].astype(np.float64) @ weight.T + bias
            return found

        return _Head(logits=logits, classes=np.arange(len(bias)), chosen={})

    def _given(self, names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """The head's classes of each set that ``classes`` lists, in the order of the set's labels."""
        if self.classes is None:
            return {}
        read = json.loads(self.classes.read_text(encoding="utf-8"))
        if not isinstance(read, dict) or not all(
            isinstance(value, list) and value and all(type(number) is int for number in value)
            for value in read.values()
        ):
            raise ValueError(f'{self.classes}: expected {{"DATASET/SPLIT": [class, …]}}, found something else')
        if unknown := [name for name in read if name not in names]:
            raise ValueError(f"{self.classes}: expected sets that are scored, {', '.join(names)}; found {unknown[0]!r}")
        return {name: np.array(value, np.int64) for name, value in read.items()}


def _robustness(like: Row, backbone: str, place: str, value: float | None) -> Row | None:
    if value is None:
        return None
    about: dict[str, Any] = {"backbone": backbone, "set": place, "metric": "effective_robustness", "value": value}
    return replace(like, **{**about, "low": None, "high": None, "interval": "", "primary": False})


@dataclass(frozen=True, kw_only=True)
class _Head:
    """Logits (M, C) of features, and the class that each column stands for."""

    logits: Callable[[NDArray[np.floating]], NDArray[np.floating]]
    classes: NDArray[np.int64]
    chosen: dict[str, Any]
    choices: tuple[Choice, ...] = ()

    def predict(self, split: SplitRows, mask: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """The class of each row (M,), of some of the classes only where there is a mask."""
        from featurebank.probes.shift import class_mask

        if mask is None:
            return np.asarray(self.classes[self.logits(split.features).argmax(1)])
        if beyond := [c for c in mask.tolist() if not 0 <= c <= self.classes[-1]]:
            raise ValueError(
                f"{split.name}: expected classes of the head, 0..{self.classes[-1]}, found {beyond[:5]} too"
            )
        # A class that the head was fitted without is never predicted.
        columns = np.flatnonzero(np.isin(self.classes, mask))
        if not len(columns):
            raise ValueError(f"{split.name}: expected classes that the head was fitted on, found none")
        return np.asarray(self.classes[class_mask(self.logits(split.features), columns).predictions])


_Placed = tuple[SplitRows, NDArray[np.int64] | None]


def _given_classes(split: SplitRows, numbers: NDArray[np.int64]) -> _Placed:
    """The rows under the head's classes, and these."""
    if (highest := int(split.labels.max())) >= len(numbers):
        raise ValueError(
            f"{split.name}: expected a class of the head for each label up to {highest}, found {len(numbers)}"
        )
    return replace(split, labels=numbers[split.labels]), numbers


def _named_classes(split: SplitRows, train: SplitRows) -> _Placed:
    """The rows under the classes of the train set, and those that the set names if it lacks some."""
    if extra := match_classes(train.class_names, split.class_names).extra:
        raise ValueError(
            f"{split.name}: expected classes of the train set by name, found {len(extra)} others: "
            f"{listed([*map(repr, sorted(extra))])}; give --classes"
        )
    found = matched(split, train, advice="give --classes")
    some = found.match is not None and found.match.missing
    return found, np.array(found.match.numbers) if found.match and some else None


def _own_notes(
    rows: Rows, test: SplitRows, predictions: NDArray[np.int64], mask: NDArray[np.int64] | None
) -> list[str]:
    """What speaks against a head's classes being those of the test set in their order, where nobody said that."""
    from featurebank.probes.numbering import doubt

    if mask is not None or rows.head is None:
        return []
    K, known = len(rows.head[0]), len(test.class_names) or int(test.labels.max()) + 1
    if known > K or (test.class_names and known < K):
        raise ValueError(
            f"the head of {rows.backbone} has {K:,} classes, {test.name} {known:,}; say which are which: --classes"
        )
    reason = doubt(test.labels, predictions, K)
    taken = f"the head of {rows.backbone} names no classes: it is taken to have those of {test.name} in their order"
    return [f"{taken}, though {reason}" if reason else taken]


def _loss(own: Score, other: Score) -> Score:
    return Score(metric="accuracy_lost", value=own.value - other.value, set=other.set, n=other.n)


def corruption_of(split: SplitRows) -> list[tuple[str, int, NDArray[np.bool_]]]:
    """Corruption, severity and rows (M,) of the parts of a set that are corruptions; none where it is not one."""
    columns = split.columns
    kinds, severities = columns.get("corruption"), columns.get("severity")
    if kinds is not None and severities is not None:
        pairs = sorted({(str(kind), int(severity)) for kind, severity in zip(kinds, severities, strict=True)})
        return [(kind, severity, (kinds == kind) & (severities == severity)) for kind, severity in pairs]
    matched = CORRUPTED.fullmatch(split.name.rpartition("/")[2])
    if matched is None:
        return []
    return [(matched["corruption"], int(matched["severity"]), np.ones(len(split.labels), bool))]


def corruption_scores(errors: Mapping[str, Mapping[int, float]]) -> list[Score]:
    """The mean error over corruptions and severities, and the mCE where they are the fifteen of ImageNet-C."""
    from featurebank.probes.shift import ALEXNET_ERRORS, mean_corruption_error

    if not errors:
        return []
    means = {name: float(np.mean(list(of.values()))) for name, of in errors.items()}
    scores = [Score(metric="corruption_error", value=float(np.mean(list(means.values()))))]
    complete = all(set(of) == {1, 2, 3, 4, 5} for of in errors.values())
    if complete and set(ALEXNET_ERRORS) <= set(means):
        own = {name: means[name] for name in ALEXNET_ERRORS}
        scores.append(Score(metric="mce", value=mean_corruption_error(own)))
    return scores


def robustness(own: Mapping[str, float], shifted: Mapping[str, float]) -> dict[str, float]:
    """How far each backbone's shifted accuracy lies above the line through all of them; empty with fewer than three.

    Backbones at 0 or 1 have no place on the line and are left out.
    """
    from featurebank.probes.shift import effective_robustness

    names = [name for name in own if 0 < own[name] < 1 and 0 < shifted.get(name, 0) < 1]
    x, y = [own[name] for name in names], [shifted[name] for name in names]
    if len(names) < 3 or len(set(x)) < 2:
        return {}
    return dict(zip(names, effective_robustness(x, y, x, y).robustness.tolist(), strict=True))
