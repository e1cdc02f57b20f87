"""The shift task: a head fitted on one set, scored on others.

Shapes: M rows of a set, D features, C classes of a head.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.probing.classification import check_choice, fit_rows
from featurebank.pipelines.probing.inputs import Inputs, SplitRows, class_notes, labelled, left_out
from featurebank.pipelines.probing.scores import Answer, Score, mean_score, predicted
from featurebank.pipelines.probing.task import Task
from featurebank.probes._rows import row_slices
from featurebank.probes.choice import Choice, edge_notes
from featurebank.probes.linear import CS, Protocol

__all__ = ["ShiftTask", "corruption_of", "corruption_scores", "robustness"]

CORRUPTED = re.compile(r"(?P<corruption>[a-z_]+?)[-_/.]?(?P<severity>[1-5])")


@dataclass(frozen=True, kw_only=True)
class ShiftTask(Task):
    """A linear probe, or the backbone's own head, on test sets that it was not made for.

    A set with other class names than the train set is scored on the classes it names (a class mask), matched by name.
    A split called CORRUPTION_SEVERITY, or columns ``corruption`` and ``severity``, make a set one of corruptions.

    Attributes:
        on: the sets, DATASET/SPLIT each.
        own_head: score the backbone's own classifier instead of a probe; its classes are those of ``classes``.
        classes: JSON of set name to the head's classes, in the order of that set's labels, where names do not tell.
        protocol: of the probe, as for the linear task.
        cs: candidates for C.
        device: of torch.
    """

    name: ClassVar[str] = "shift"
    version: ClassVar[int] = 2
    predicts_classes: ClassVar[bool] = True
    unhashed: ClassVar[tuple[str, ...]] = ("device",)

    on: tuple[str, ...] = ()
    own_head: bool = False
    classes: Path | None = None
    protocol: Protocol = "logistic"
    cs: tuple[float, ...] = CS
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, get_args(Protocol))
        if not self.on:
            raise ValueError("shift needs --on DATASET/SPLIT, a set to score; it can be repeated")

    @property
    def reads_train(self) -> bool:
        """Only a probe does."""
        return not self.own_head

    @property
    def others(self) -> tuple[str, ...]:
        """The sets to score."""
        return self.on

    def run(self, inputs: Inputs) -> Answer:
        """Accuracy on the test set and on every other, the loss between them, and corruption errors where there are."""
        train, test = labelled(inputs.train), labelled(inputs.test)
        validation = None if inputs.validation is None else labelled(inputs.validation)
        splits = (test, *(labelled(other) for other in inputs.others))
        masks = self._masks(() if self.own_head else train.class_names, splits)
        head = self._own(inputs) if self.own_head else self._probe(train, validation)
        scores: list[Score] = []
        arrays: dict[str, NDArray[Any]] = {}
        notes = [*class_notes(train, test, validation), *edge_notes(head.choices)]
        errors: dict[str, dict[int, float]] = {}
        for split in splits:
            found = head.predict(split, masks.get(split.name))
            right = found == split.labels
            first = split is test
            scores.append(mean_score("accuracy", right, seed=self.seed, dataset="" if first else split.name))
            kept = predicted(split, found)
            arrays |= kept if first else {f"{split.name} {name}": array for name, array in kept.items()}
            if not first:
                notes += left_out(split)
                for corruption, severity, rows in corruption_of(split):
                    errors.setdefault(corruption, {})[severity] = float(1 - right[rows].mean())
        scores += [_loss(scores[0], score) for score in scores[1:]]
        scores += corruption_scores(errors)
        return Answer(scores=scores, chosen=head.chosen, arrays=arrays, notes=notes)

    def _probe(self, train: SplitRows, validation: SplitRows | None) -> _Head:
        fit = fit_rows(train, validation, protocol=self.protocol, cs=self.cs, seed=self.seed, device=self.device)
        return _Head(logits=fit.logits, classes=fit.classes, chosen=dict(fit.chosen), choices=fit.choices)

    def _own(self, inputs: Inputs) -> _Head:
        if inputs.head is None:
            raise ValueError(f"{inputs.backbone} has no classifier of its own in the store; leave out --own-head")
        weight, bias = (np.asarray(part, np.float64) for part in inputs.head)
        if inputs.test.features.shape[1:] != weight.shape[1:]:
            raise ValueError(
                f"the head of {inputs.backbone} reads {weight.shape[1:]} features, found "
                f"{inputs.test.features.shape[1:]}; choose another --output"
            )

        def logits(features: NDArray[np.floating]) -> NDArray[np.float64]:
            found = np.empty((len(features), len(bias)))
            for block in row_slices(*features.shape):
                found[block] = features[block].astype(np.float64) @ weight.T + bias
            return found

        return _Head(logits=logits, classes=np.arange(len(bias)), chosen={})

    def _masks(self, names: tuple[str, ...], splits: Sequence[SplitRows]) -> dict[str, Sequence[int]]:
        """The head's classes that a set has, in the set's order, for sets that do not have the head's own classes."""
        masks: dict[str, Sequence[int]] = {
            split.name: _by_name(names, split)
            for split in splits
            if names and split.class_names not in ((), names) and self.classes is None
        }
        if self.classes is not None:
            read = json.loads(self.classes.read_text(encoding="utf-8"))
            if not isinstance(read, dict) or not all(isinstance(value, list) for value in read.values()):
                raise ValueError(f'{self.classes}: expected {{"DATASET/SPLIT": [class, …]}}, found something else')
            masks |= read
        return masks


@dataclass(frozen=True, kw_only=True)
class _Head:
    """Logits (M, C) of features, and the class that each column stands for."""

    logits: Callable[[NDArray[np.floating]], NDArray[np.floating]]
    classes: NDArray[np.int64]
    chosen: dict[str, Any]
    choices: tuple[Choice, ...] = ()

    def predict(self, split: SplitRows, mask: Sequence[int] | None) -> NDArray[np.int64]:
        """The class of each row (M,) in the split's own numbering, restricted to the classes that it has."""
        from featurebank.probes.shift import class_mask

        if mask is None:
            return np.asarray(self.classes[self.logits(split.features).argmax(1)])
        if beyond := [c for c in mask if not 0 <= c <= self.classes[-1]]:
            raise ValueError(
                f"{split.name}: expected classes of the head, 0..{self.classes[-1]}, found {beyond[:5]} too"
            )
        # A class that the head was fitted without is never predicted.
        places = np.flatnonzero(np.isin(mask, self.classes))
        columns = np.searchsorted(self.classes, np.asarray(mask)[places])
        return np.asarray(places[class_mask(self.logits(split.features), columns).positions])


def _by_name(names: tuple[str, ...], split: SplitRows) -> list[int]:
    if unknown := sorted(set(split.class_names) - set(names)):
        raise ValueError(
            f"{split.name}: expected classes of the train set by name, found {len(unknown)} others: "
            f"{', '.join(map(repr, unknown[:5]))}; give --classes"
        )
    return [names.index(name) for name in split.class_names]


def _loss(own: Score, other: Score) -> Score:
    return Score(metric="accuracy_lost", value=own.value - other.value, dataset=other.dataset)


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

    names = [name for name in own if 0 < own[name] < 1 and 0 < shifted[name] < 1]
    x, y = [own[name] for name in names], [shifted[name] for name in names]
    if len(names) < 3 or len(set(x)) < 2:
        return {}
    return dict(zip(names, effective_robustness(x, y, x, y).robustness.tolist(), strict=True))
