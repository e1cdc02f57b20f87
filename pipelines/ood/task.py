"""The ood task: every post-hoc score of one backbone on an in-distribution test set and on others.

Shapes: N rows of a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.errors import nearest
from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.ood.selection import OutSets
from featurebank.pipelines.probing.classification import check_choice
from featurebank.pipelines.probing.inputs import Inputs, SplitRows, left_out, vectors
from featurebank.pipelines.probing.scores import Answer, Score, mean_score
from featurebank.pipelines.probing.task import Task
from featurebank.store import FeatureSet

if TYPE_CHECKING:
    from featurebank.pipelines.ood.classifier import Classifier

__all__ = ["GROUPS", "HEADS", "METRICS", "OODTask", "build_task"]

METRICS = ("auroc", "fpr_at_95", "aupr_in", "aupr_out")
GROUPS = ("near", "far")
HEADS = ("own", "probe")


@dataclass(frozen=True, kw_only=True)
class OODTask(Task):
    """Scores fitted on the train rows, higher for rows like them, of the test rows and of other sets.

    Attributes:
        on: the out-of-distribution sets, DATASET/SPLIT each.
        near: those of them that are near; where there are some, the others are far.
        scores: names; all if empty.
        head: ``own``, ``probe``, or None; see `featurebank.pipelines.ood.classifier.find_classifier`.
        draws: bootstrap resamples of the intervals; 0 for none.
        device: of torch.

    Raises:
        UnknownNameError: a score that does not exist.
        ValueError: another head.
    """

    name: ClassVar[str] = "ood"
    unhashed: ClassVar[tuple[str, ...]] = ("device",)

    on: tuple[str, ...]
    near: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    head: Literal["own", "probe"] | None = None
    draws: int = 1000
    device: str = "cpu"

    def __post_init__(self) -> None:
        from featurebank.probes.ood.registry import scores

        if self.head is not None:
            check_choice("head", self.head, HEADS)
        for name in self.scores:
            if name not in scores():
                raise nearest("score", name, scores())
        object.__setattr__(self, "scores", tuple(dict.fromkeys(self.scores)) or scores())

    @property
    def others(self) -> tuple[str, ...]:
        """The out-of-distribution sets."""
        return self.on

    def settings(self) -> dict[str, Any]:
        """As every task's, with the parameters of each score."""
        from featurebank.probes.ood.registry import get

        return super().settings() | {"scores": {name: get(name)().get_params() for name in self.scores}}

    def run(self, inputs: Inputs) -> Answer:
        """The head's accuracy on the test rows, then each score's metrics on each set and their near and far means."""
        from featurebank.pipelines.ood.classifier import (
            find_classifier,
            has_classes,
            missing,
            rows_with_classes,
            training_sets,
        )
        from featurebank.pipelines.ood.scoring import by_reason, score_sets
        from featurebank.probes.ood.registry import get

        train, test = rows_with_classes(inputs.train), vectors(inputs.test)
        held = None if inputs.validation is None else rows_with_classes(inputs.validation)
        validation = held if held is not None and has_classes(held) else None
        others = [vectors(other) for other in inputs.others]
        usable = replace(inputs, train=train, validation=validation)
        classifier = find_classifier(usable, wanted=self.head, output=self.output, seed=self.seed, device=self.device)
        sets = {split.name: (split.features, classifier.stored_logits(split)) for split in (test, *others)}
        values, reasons = score_sets(
            training_sets(train, validation, classifier, self.device),
            sets,
            [get(name)() for name in self.scores],
            partial(missing, train=train, classifier=classifier),
        )
        accuracy, kept, notes = self._accuracy(test, train, classifier)
        for split in (test, *others):
            kept |= {f"{split.name} ids": split.ids, f"{split.name} rows": split.rows}
            kept |= {f"{split.name} {name}": scored for name, scored in values[split.name].items()}
        return Answer(
            scores=[*accuracy, *self._metrics(test.name, values)],
            chosen=dict(classifier.chosen),
            arrays=kept,
            notes=[
                *left_out(train, validation, test, *others),
                *notes,
                *(f"not computed: {line}" for line in by_reason(reasons)),
                *_shared(inputs),
            ],
        )

    def _metrics(self, inside: str, values: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> list[Score]:
        from featurebank.probes.ood.evaluation import evaluate
        from featurebank.probes.ood.registry import get

        far = tuple(name for name in self.on if name not in self.near)
        groups = {group: of for group, of in zip(GROUPS, (self.near, far), strict=True) if self.near and of}
        found = []
        for name, known in values[inside].items():
            outside = {other: values[other][name] for other in self.on}
            result = evaluate(known, outside, groups=groups, draws=self.draws, seed=self.seed)
            settings = {"score": name, "scores": {name: get(name)().get_params()}}
            for place, detection in (result.sets | result.groups).items():
                for metric in METRICS:
                    low, high = result.intervals.get(place, {}).get(metric, (None, None))
                    found.append(
                        Score(
                            metric=f"{metric} {name}",
                            value=getattr(detection, metric),
                            low=low,
                            high=high,
                            dataset=place,
                            settings=settings,
                        )
                    )
        return found

    def _accuracy(
        self, test: SplitRows, train: SplitRows, classifier: Classifier
    ) -> tuple[list[Score], dict[str, NDArray[Any]], list[str]]:
        """The head's accuracy on the test rows that have a class, what is kept of it, or a note why there is none."""
        from featurebank.pipelines.ood.classifier import missing

        if not classifier.source:
            return [], {}, []
        if classifier.classes is None:
            return [], {}, [f"no accuracy: {missing('labels', train=train, classifier=classifier)}"]
        if test.labels.ndim != 1 or not (test.labels >= 0).any():
            return [], {}, [f"no accuracy: {test.name} has no classes"]
        known = test.where(test.labels >= 0)
        predictions = classifier.predict(known)
        accuracy = mean_score("accuracy", predictions == known.labels, seed=self.seed, settings={"scores": {}})
        return [accuracy], {"rows": known.rows, "labels": known.labels, "predictions": predictions}, []


def build_task(sets: OutSets, options: Mapping[str, Any]) -> OODTask:
    """The task with the options given; ``None`` leaves an option at its default, a score called ``all`` means all.

    Raises:
        UnknownNameError: a score that does not exist.
        ConfigError: a value that is not allowed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    scores = tuple(given.pop("scores", ()))
    try:
        return OODTask(on=sets.names, near=sets.near, scores=() if "all" in scores else scores, **given)
    except ValueError as error:
        raise ConfigError(f"ood: {error}") from error


def _shared(inputs: Inputs) -> list[str]:
    """For each other set, how many of its rows are in-distribution images too, by their content."""
    from featurebank.probes.ood.evaluation import shared_rows

    own = np.concatenate([_hashes(inputs.train), _hashes(inputs.test)])
    return [
        f"{other.name}: {count:,} of {len(other.rows):,} rows have the content of rows of {inputs.train.name} "
        f"or {inputs.test.name}, and count as out of distribution"
        for other in inputs.others
        if (count := int(shared_rows(_hashes(other), own).sum()))
    ]


def _hashes(split: SplitRows) -> NDArray[np.uint8]:
    with FeatureSet(split.path) as feature_set:
        return feature_set.content_hash[split.rows]
