"""The ood task: every post-hoc score of one backbone on an in-distribution test set and on others.

Shapes: N rows of a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.ood.selection import OutSets
from featurebank.pipelines.probing.classification import check_choice
from featurebank.pipelines.probing.inputs import Inputs, SplitRows, left_out, unknown_classes
from featurebank.pipelines.probing.scores import Answer, Score, mean_score
from featurebank.pipelines.probing.task import Task
from featurebank.pipelines.results import Row
from featurebank.probes.choice import edge_notes
from featurebank.store import FeatureSet
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    from featurebank.pipelines.ood.classifier import Classifier
    from featurebank.pipelines.ood.roles import Roles
    from featurebank.probes.ood.contract import OODScore
    from featurebank.probes.ood.evaluation import Evaluation, Selection
    from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["FULL", "GROUPS", "HEADS", "METRICS", "OODTask", "build_task"]

METRICS = ("auroc", "fpr_at_95", "aupr_in", "aupr_out")
FULL = "full_spectrum_"
GROUPS = ("near", "far")
HEADS = ("own", "probe")
OVER = "rows of both sets"


@dataclass(frozen=True, kw_only=True)
class OODTask(Task):
    """Scores fitted on the train rows, higher for rows like them, of the test rows and of other sets.

    Attributes:
        on: the out-of-distribution sets, DATASET/SPLIT each.
        near: those of them that are near; where there are some, the others are far.
        shifted: covariate-shifted in-distribution sets, which the full spectrum counts as in-distribution.
        tuning: the out-of-distribution set that parameters of scores are chosen on; none if empty.
        id_classes: the classes that are in distribution, by number or name; all if empty. The test rows of the others
            are a near set.
        scores: names; all if empty.
        head: ``own``, ``probe``, or None; see `featurebank.pipelines.ood.classifier.find_classifier`. Where classes are
            held out it is a probe, of the classes that are left, unless the backbone's own is asked for.
        text: a ``.npz`` or ``.npy`` file of text embeddings (K, D) of the classes, in the order of their numbers.
        draws: bootstrap resamples of the intervals; 0 for none.
        device: of torch.

    Raises:
        UnknownNameError: a score that does not exist.
        ValueError: another head.
    """

    name: ClassVar[str] = "ood"
    version: ClassVar[int] = 2
    unhashed: ClassVar[tuple[str, ...]] = ("device",)

    on: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    shifted: tuple[str, ...] = ()
    tuning: tuple[str, ...] = ()
    id_classes: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    head: Literal["own", "probe"] | None = None
    text: Path | None = None
    draws: int = 1000
    device: str = "cpu"

    def __post_init__(self) -> None:
        from featurebank.probes.ood.registry import scores

        if self.head is not None:
            check_choice("head", self.head, HEADS)
        for name in self.scores:
            if name not in scores():
                raise unknown_name("score", name, scores())
        object.__setattr__(self, "scores", tuple(dict.fromkeys(self.scores)) or scores())

    @property
    def others(self) -> tuple[str, ...]:
        """The further sets, out of distribution, shifted, and to choose on."""
        return (*self.on, *self.shifted, *self.tuning)

    def settings(self) -> dict[str, Any]:
        """As every task's, with the parameters of each score."""
        from featurebank.probes.ood.registry import get

        return super().settings() | {"scores": {name: get(name)().get_params() for name in self.scores}}

    def key(self) -> dict[str, Any]:
        """As every task's, with all of the scores by name; another default of one of them takes another version."""
        return super().key() | {"scores": list(self.scores)}

    def fits(self, rows: Sequence[Row]) -> bool:
        """Whether every score has its parameters, and all metrics wherever it has one."""
        metrics: dict[tuple[str, str], set[str]] = {}
        for row in rows:
            settings = row.settings or {}
            if (name := settings.get("score")) is None:
                continue
            metrics.setdefault((name, row.dataset), set()).add(row.metric.partition(" ")[0])
            if name not in self.scores or not isinstance(settings["scores"][name], Mapping):
                return False
        return all(found >= {*METRICS} for found in metrics.values())

    def run(self, inputs: Inputs) -> Answer:
        """The head's accuracy on the in-distribution sets, then each score's metrics on each set and on groups."""
        from featurebank.pipelines.ood.classifier import missing
        from featurebank.pipelines.ood.roles import roles
        from featurebank.pipelines.ood.scoring import by_reason, score_sets
        from featurebank.pipelines.ood.text import class_texts
        from featurebank.pipelines.ood.tuning import choices, choose
        from featurebank.probes.ood.registry import get

        dealt = roles(inputs, on=self.on, shifted=self.shifted, tuning=self.tuning, id_classes=self.id_classes)
        text, text_notes = (None, []) if self.text is None else class_texts(self.text, dealt.train)
        fitted = partial(self._fitted, inputs, dealt, text)
        classifier, parts = fitted(dealt.train)
        selected: dict[str, Selection] = {}
        held = ""
        if dealt.tuning:
            selected, held = choose(dealt, self.scores, (classifier, parts), fitted, seed=self.seed)
        tried = [choice for name, one in selected.items() for choice in choices(name, one)]
        chosen = [get(name)(**(selected[name].parameters if name in selected else {})) for name in self.scores]
        values, reasons = score_sets(
            parts,
            {split.name: (split.features, classifier.stored_logits(split)) for split in dealt.tested},
            chosen,
            partial(missing, train=dealt.train, classifier=classifier),
        )
        accuracy, kept, notes = self._accuracy(dealt, classifier)
        if classifier.doubt:
            own = f"{inputs.backbone}'s own has as many classes as {dealt.train.name}, but {classifier.doubt}"
            probed = classifier.source == "probe"
            notes.insert(0, f"the head is a probe: {own}" if probed else f"the head was asked for: {own}")
        for split in dealt.tested:
            kept |= {f"{split.name} ids": split.ids, f"{split.name} rows": split.rows}
            kept |= {f"{split.name} {name}": scored for name, scored in values[split.name].items()}
        return Answer(
            scores=[*accuracy, *self._metrics(dealt, values, chosen, selected, held)],
            chosen=dict(classifier.chosen),
            arrays=kept,
            notes=[
                *left_out(inputs.train, inputs.validation, inputs.test, *inputs.others),
                *dealt.notes,
                *text_notes,
                *notes,
                *(f"not computed: {line}" for line in by_reason(reasons)),
                *edge_notes([*classifier.choices, *tried]),
                *_shared(inputs, self.on, self.tuning),
            ],
        )

    def _fitted(
        self, inputs: Inputs, dealt: Roles, text: NDArray[Any] | None, train: SplitRows
    ) -> tuple[Classifier, list[TrainingSet]]:
        """What gives logits, and the training sets of scores, for some of the train rows."""
        from featurebank.pipelines.ood.classifier import find_classifier, rows_with_classes, training_sets
        from featurebank.pipelines.ood.text import of_classes

        find = partial(find_classifier, output=self.output, seed=self.seed, device=self.device)
        wanted = self.head or ("probe" if self.id_classes else None)
        if self.id_classes and wanted == "own":
            whole = find(replace(inputs, train=rows_with_classes(inputs.train)), wanted=wanted)
            if whole.classes is not None:
                raise ValueError(
                    "--id-classes holds out classes that the backbone's own head was trained on; leave out --head own"
                )
        classifier = find(replace(inputs, train=train, validation=dealt.validation), wanted=wanted)
        own = None if text is None else of_classes(text, train)
        return classifier, training_sets(train, dealt.validation, classifier, self.device, own)

    def _metrics(
        self,
        dealt: Roles,
        values: Mapping[str, Mapping[str, NDArray[np.float64]]],
        chosen: list[OODScore],
        selected: Mapping[str, Selection],
        held: str,
    ) -> list[Score]:
        from featurebank.pipelines.ood.tuning import selection_settings
        from featurebank.probes.ood.evaluation import evaluate

        names = [split.name for split in dealt.outside]
        near = (
            [name for name in names if name in self.near or name not in self.on] if self.near or self.id_classes else []
        )
        far = [name for name in names if name not in near]
        groups = {group: of for group, of in zip(GROUPS, (near, far), strict=True) if near and of}
        found = []
        for score in chosen:
            name = score.name
            if name not in values[dealt.inside.name]:
                continue
            result = evaluate(
                values[dealt.inside.name][name],
                {outside: values[outside][name] for outside in names},
                groups=groups,
                shifted=np.concatenate([values[split.name][name] for split in dealt.shifted])
                if dealt.shifted
                else None,
                draws=self.draws,
                seed=self.seed,
            )
            settings: dict[str, Any] = {"score": name, "scores": {name: score.get_params()}}
            if name in selected:
                settings["selected"] = selection_settings(selected[name], inside=held, outside=self.tuning[0])
            found += _rows(result, name, settings)
        return found

    def _accuracy(self, dealt: Roles, classifier: Classifier) -> tuple[list[Score], dict[str, NDArray[Any]], list[str]]:
        """The head's accuracy on rows that have a class, what is kept of it, or a note why there is none."""
        from featurebank.pipelines.ood.classifier import missing

        if not classifier.source:
            return [], {}, []
        if classifier.classes is None:
            return [], {}, [f"no accuracy: {missing('labels', train=dealt.train, classifier=classifier)}"]
        found, kept, notes = [], {}, []
        for split in (dealt.inside, *dealt.shifted):
            if split.labels.ndim != 1 or not (split.labels >= 0).any():
                notes.append(f"no accuracy: {split.name} has no classes")
                continue
            known = split.where(split.labels >= 0)
            predictions = classifier.predict(known)
            notes += unknown_classes(known, dealt.train)
            right = predictions == known.labels
            found.append(mean_score("accuracy", right, seed=self.seed, dataset=split.name, settings={"scores": {}}))
            if split is dealt.inside:
                kept = {"rows": known.rows, "labels": known.labels, "predictions": predictions}
        return found, kept, notes


def _rows(result: Evaluation, name: str, settings: Mapping[str, Any]) -> list[Score]:
    """A score's metrics on each set and group, and those of the full spectrum."""
    found = []
    for prefix, places in (
        ("", result.sets | result.groups),
        (FULL, result.full_spectrum | result.full_spectrum_groups),
    ):
        for place, detection in places.items():
            for metric in METRICS:
                low, high = (None, None) if prefix else result.intervals.get(place, {}).get(metric, (None, None))
                found.append(
                    Score(
                        metric=f"{prefix}{metric} {name}",
                        value=getattr(detection, metric),
                        low=low,
                        high=high,
                        interval="" if low is None else _interval(metric, getattr(detection, metric)),
                        dataset=place,
                        settings=settings,
                    )
                )
    return found


def _interval(metric: str, value: float) -> str:
    """How an interval was made; see `featurebank.probes.ood.evaluation`."""
    alike = value in (0.0, 1.0) and metric in ("auroc", "fpr_at_95")
    return f"{OVER}, {'score interval' if alike else 'bootstrap'}"


def build_task(sets: OutSets, options: Mapping[str, Any]) -> OODTask:
    """The task with the options given; ``None`` leaves an option at its default, a score called ``all`` means all.

    Raises:
        UnknownNameError: a score that does not exist.
        ConfigError: a value that is not allowed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    scores = tuple(given.pop("scores", ()))
    try:
        return OODTask(
            on=sets.names,
            near=sets.near,
            shifted=sets.shifted,
            tuning=sets.tuning,
            scores=() if "all" in scores else scores,
            **given,
        )
    except ValueError as error:
        raise ConfigError(f"ood: {error}") from error


def _shared(inputs: Inputs, on: Sequence[str], tuning: Sequence[str]) -> list[str]:
    """For each out-of-distribution set, how many of its rows are in-distribution or tested images too, by content."""
    from featurebank.probes.ood.evaluation import shared_rows

    own = np.concatenate([_hashes(inputs.train), _hashes(inputs.test)])
    notes = [
        f"{other.name}: {count:,} of {len(other.rows):,} rows have the content of rows of {inputs.train.name} "
        f"or {inputs.test.name}, and count as out of distribution"
        for other in inputs.others
        if other.name in (*on, *tuning) and (count := int(shared_rows(_hashes(other), own).sum()))
    ]
    tested = [other for other in inputs.others if other.name in on]
    for chosen_on in (other for other in inputs.others if other.name in tuning and tested):
        rows = shared_rows(_hashes(chosen_on), np.concatenate([_hashes(other) for other in tested]))
        if count := int(rows.sum()):
            notes.append(f"{chosen_on.name}: {count:,} of its rows are in the tested sets too; choose on another set")
    return notes


def _hashes(split: SplitRows) -> NDArray[np.uint8]:
    with FeatureSet(split.path) as feature_set:
        return feature_set.content_hash[split.rows]
