"""The question: every post-hoc score of one backbone on an in-distribution test set and on others.

Shapes: N rows of a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.text_sets import EMBEDDING
from featurebank.pipelines.asking.answer import Answer, Score
from featurebank.pipelines.asking.inputs import Rows, SplitRows, left_out, unknown_classes
from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.option import Option, file_of, option
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.texts import names_texts
from featurebank.pipelines.errors import ConfigError
from featurebank.store import FeatureSet
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered, Case
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.results import Results, Row
    from featurebank.pipelines.asking.sheet import Sheet
    from featurebank.pipelines.questions.ood.classifier import Classifier
    from featurebank.pipelines.questions.ood.parts import Parts
    from featurebank.probes.ood.evaluation import DetectionSummary, SelectedParameters
    from featurebank.probes.ood.statistics import TrainingSet
    from featurebank.store import FeatureStore

__all__ = ["FULL", "METRICS", "OOD"]

METRICS = ("auroc", "fpr_at_95", "aupr_in", "aupr_out")
FULL = "full_spectrum_"
OVER = "rows of both sets"
BENCHMARK = "A benchmark"


@dataclass(frozen=True, kw_only=True)
class OOD(Question):
    """Tell in-distribution rows, of KEY, from others by every post-hoc score of cached features, best score first.

    Scores are fitted on the train rows and are higher for rows like them. The head is the backbone's own where it has
    the train rows' classes, else a logistic probe; see `find_classifier`.
    """

    name: ClassVar[str] = "ood"
    version: ClassVar[int] = 4
    primary: ClassVar[str] = "auroc"
    methods: ClassVar[str] = "scores"
    layout: ClassVar[Layout] = Layout(
        index=("backbone", "score"), grouped=True, shown=("auroc", "fpr_at_95", FULL + "auroc"),
        apart=("ood", "near", "shifted", "tuning"), within=("near", "ood"),
    )  # fmt: skip
    extra: ClassVar[Mapping[str, tuple[Any, Option]]] = {
        "benchmark": (
            str,
            Option(help="OpenOOD v1.5's sets, not KEY: cifar10, cifar100, imagenet200 or imagenet1k.", panel=BENCHMARK),
        ),
        "data": (Path, Option(help="OpenOOD's folder; what lacks is extracted.", folder=True, panel=BENCHMARK)),
        "lists": (Path, Option(help="Of image lists, if not in --data.", folder=True, panel=BENCHMARK)),
    }  # fmt: skip

    ood: tuple[str, ...] = option((), "An out-of-distribution set; repeatable.", metavar="KEY", role=True)
    near: tuple[str, ...] = option(
        (), "As --ood, and counted as near; the others are far. Repeatable.", metavar="KEY", role=True
    )
    shifted: tuple[str, ...] = option(
        (),
        "A covariate-shifted in-distribution set: the full spectrum has it too. Repeatable.",
        metavar="KEY",
        role=True,
    )
    tuning: str | None = option(
        None, "An out-of-distribution set to choose the scores' parameters on.", flag="--validation", metavar="KEY",
        role=True,
    )  # fmt: skip
    id_classes: tuple[str, ...] = option(
        (), "Numbers or names, by commas, repeatable: only these are in distribution, others of KEY a near set.",
        metavar="CLASSES",
    )  # fmt: skip
    scores: tuple[str, ...] = option((), "A score; repeatable. Without it, all.", flag="--score", metavar="NAME")
    head: Literal["own", "probe"] | None = option(
        None,
        "The classifier: a probe fitted on the train rows, or the backbone's own; without it own, if it fits.",
    )
    text: str | None = option(
        None, "Text features, for mcm: DATASET/SPLIT that featurebank texts made, or (K, D) in .npz or "
        ".npy, in the order of their numbers.", metavar="FILE|KEY", role=True, suffixes=(".npy", ".npz"),
    )  # fmt: skip
    resamples: int = option(1000, "Of the intervals; 0 for none.", least=0)
    device: str = option("cpu", "Of torch, such as cpu or cuda.", hashed=False)

    def __post_init__(self) -> None:
        from featurebank.probes.ood.names import scores

        super().__post_init__()
        for name in self.scores:
            if name != "all" and name not in scores():
                raise unknown_name("score", name, scores())
        every = not self.scores or "all" in self.scores
        object.__setattr__(self, "scores", scores() if every else tuple(dict.fromkeys(self.scores)))
        classes = [name.strip() for some in self.id_classes for name in some.split(",")]
        object.__setattr__(self, "id_classes", tuple(dict.fromkeys(name for name in classes if name)))
        file_of(self, "text")
        if self.text and names_texts(self.text) and self.output != EMBEDDING:
            raise ValueError(f"{self.text} lies in the space of {EMBEDDING}: --output {EMBEDDING}; found {self.output}")
        if not (self.ood or self.near or self.id_classes):
            raise ValueError("ood needs --ood DATASET/SPLIT, a set to tell apart from KEY; it can be repeated")

    @classmethod
    def prepare(
        cls, given: Mapping[str, Any], extra: Mapping[str, Any], keys: Sequence[str], store: FeatureStore
    ) -> list[tuple[Self, Sequence[str]]]:
        """The sets of a benchmark in place of KEY, extracted where a folder of data is given."""
        benchmark, data, lists = (extra.get(name) for name in cls.extra)
        if benchmark is None:
            if data is not None or lists is not None:
                raise ConfigError("--data and --lists are for --benchmark NAME; found none")
            return [(cls.of(given), keys)]
        if keys or {"ood", "near", "shifted", "tuning", "id_classes"} & given.keys():
            raise ConfigError(
                "--benchmark has its own sets; leave out KEY, --ood, --near, --shifted, --validation and --id-classes"
            )
        from featurebank.pipelines.questions.ood.benchmark import benchmark_sets, extracted, get_benchmark

        recipe, backbones = get_benchmark(benchmark), extra.get("backbone") or ()
        if data is not None:
            from featurebank.pipelines.extracting.display import live
            from featurebank.pipelines.streams import console

            with live(console(stderr=True)) as observer:
                extra["opened"].update(
                    extracted(
                        recipe, store, backbones, data=data, lists=lists, device=given.get("device", "auto"),
                        observer=observer,
                    )
                )  # fmt: skip
        elif lists is not None:
            raise ConfigError("--lists must come with --data, the folder of the images; found none")
        return [(cls.of({**given, **benchmark_sets(recipe, store, backbones)}), [recipe.dataset])]

    def check(self, cases: Sequence[Case]) -> None:
        """Raises ConfigError where parameters were to be chosen on several sets."""
        for case in cases:
            if len(several := case.sets.get("tuning", ())) > 1:
                raise ConfigError(f"--validation must be one set; found {', '.join(e.place for e in several)}")

    def settings(self, part: str = "") -> dict[str, Any]:
        """As every question's, with the parameters of a score."""
        if not part:
            return super().settings()
        from featurebank.probes.ood.registry import get

        return super().settings(part) | {"parameters": get(part)().get_params()}

    def run(self, rows: Rows) -> Answer:
        """The head's accuracy on the in-distribution sets; each score's metrics on each set and on groups."""
        from featurebank.pipelines.questions.ood.classifier import missing
        from featurebank.pipelines.questions.ood.parts import parts_of
        from featurebank.pipelines.questions.ood.scoring import score_sets
        from featurebank.pipelines.questions.ood.text import class_texts
        from featurebank.pipelines.questions.ood.tuning import choices, choose, selection_settings
        from featurebank.probes.choice import edge_notes
        from featurebank.probes.ood.registry import get

        parts = parts_of(rows, self.id_classes)
        text, text_notes = class_texts(file_of(self, "text"), rows["text"], parts.train)
        fitted = partial(self._fitted, rows, parts, text)
        classifier, sets = fitted(parts.train)
        selected: dict[str, SelectedParameters] = {}
        held = ""
        if parts.tuning:
            selected, held = choose(parts, self.scores, (classifier, sets), fitted, seed=self.seed)
        chosen = [get(name)(**(selected[name].parameters if name in selected else {})) for name in self.scores]
        values, unmet, failed = score_sets(
            sets,
            {split.name: (split.features, classifier.stored_logits(split)) for split in parts.tested},
            chosen,
            partial(missing, train=parts.train, classifier=classifier),
        )
        accuracy, kept, notes = self._accuracy(parts, classifier)
        if classifier.doubt:
            own = f"{rows.backbone}'s own has as many classes as {parts.train.name}, but {classifier.doubt}"
            probed = classifier.source == "probe"
            notes.insert(0, f"the head is a probe: {own}" if probed else f"the head was asked for: {own}")
        for split in parts.tested:
            kept |= {f"{split.name} ids": split.ids, f"{split.name} rows": split.rows}
        answers = {name: Answer(scores=(), notes=[f"not computed: {why}"]) for name, why in unmet.items()}
        answers |= {name: Answer(scores=(), notes=[f"not computed: {why}"], keep=False) for name, why in failed.items()}
        for score in chosen:
            if score.name in answers:
                continue
            one = selected.get(score.name)
            edges = edge_notes(choices(score.name, one)) if one else []
            own_values = {name: of[score.name] for name, of in values.items()}
            details: dict[str, Any] = {"head": classifier.source, "parameters": score.get_params()}
            if one is not None and parts.tuning is not None:
                details["selected"] = selection_settings(one, inside=held, outside=parts.tuning.name)
            scores = self._metrics(parts, own_values, details)
            answers[score.name] = Answer(scores=scores, arrays=own_values, notes=edges)
        return Answer(
            scores=accuracy,
            chosen=dict(classifier.chosen),
            arrays=kept,
            notes=[
                *left_out(*(split for splits in rows.sets.values() for split in splits)),
                *parts.notes,
                *text_notes,
                *notes,
                *edge_notes(classifier.choices),
                *_shared(rows),
            ],
            parts=answers,
        )

    def _fitted(
        self, rows: Rows, parts: Parts, text: NDArray[Any] | None, train: SplitRows
    ) -> tuple[Classifier, list[TrainingSet]]:
        """What gives logits, and the training sets of scores, for some of the train rows."""
        from featurebank.pipelines.questions.ood.classifier import find_classifier, rows_with_classes, training_sets
        from featurebank.pipelines.questions.ood.text import of_classes

        find = partial(find_classifier, rows, output=self.output, seed=self.seed, device=self.device)
        wanted = self.head or ("probe" if self.id_classes else None)
        if self.id_classes and wanted == "own":
            whole = find(rows_with_classes(rows.train), rows.validation, wanted=wanted)
            if whole.classes is not None:
                raise ValueError(
                    "--id-classes holds out classes that the backbone's own head was trained on; leave out --head own"
                )
        classifier = find(train, parts.validation, wanted=wanted)
        own = None if text is None else of_classes(text, train)
        return classifier, training_sets(train, parts.validation, classifier, self.device, own)

    def _metrics(
        self, parts: Parts, values: Mapping[str, NDArray[np.float64]], details: Mapping[str, Any]
    ) -> list[Score]:
        """What one score's values of each set (N,) say."""
        from featurebank.probes.ood.evaluation import evaluate

        result = evaluate(
            values[parts.inside.name],
            {split.name: values[split.name] for split in parts.outside},
            groups=parts.groups,
            shifted=np.concatenate([values[split.name] for split in parts.shifted]) if parts.shifted else None,
            draws=self.resamples,
            random_state=self.seed,
        )
        return _scores(result, len(parts.inside.rows), {s.name: len(s.rows) for s in parts.outside}, details)

    def _accuracy(self, parts: Parts, classifier: Classifier) -> tuple[list[Score], dict[str, NDArray[Any]], list[str]]:
        """The head's accuracy on rows that have a class, what is kept of it, or a note why there is none."""
        from featurebank.pipelines.asking.intervals import mean_score
        from featurebank.pipelines.questions.ood.classifier import missing

        if not classifier.source:
            return [], {}, []
        if classifier.classes is None:
            return [], {}, [f"no accuracy: {missing('labels', train=parts.train, classifier=classifier)}"]
        scores, kept, notes = [], {}, []
        for split in (parts.inside, *parts.shifted):
            if split.labels.ndim != 1 or not (split.labels >= 0).any():
                notes.append(f"no accuracy: {split.name} has no classes")
                continue
            known = split.where(split.labels >= 0)
            predictions = classifier.predict(known)
            notes += unknown_classes(known, parts.train)
            right, details = predictions == known.labels, {"head": classifier.source}
            scores.append(mean_score("accuracy", right, seed=self.seed, set=split.name, details=details))
            if split is parts.inside:
                kept = {"rows": known.rows, "labels": known.labels, "predictions": predictions}
        return scores, kept, notes

    @property
    def title(self) -> str:
        """What is told apart from KEY."""
        others = [*self.ood, *self.near, *(["its other classes"] if self.id_classes else [])]
        return f"ood, {', '.join(others)}"

    def faint(self, row: Row) -> bool:
        """Whether the weights are random, by the backbone's name."""
        from featurebank.pipelines.questions.ood.standings import is_random

        return is_random(row.backbone)

    def sheet(self, rows: Sequence[Row], title: str, failed: Mapping[tuple[str, ...], Sequence[str]]) -> Sheet:
        """Every score of every backbone, best mean AUROC first, with the head and its accuracy."""
        from featurebank.pipelines.questions.ood.standings import main_sheet

        return main_sheet(super().sheet, rows, title, failed)

    def remarks(self, rows: Sequence[Row]) -> Sequence[str]:
        """That the order of the table is a choice on the test rows."""
        from featurebank.pipelines.questions.ood.standings import selection, standings

        ranked = standings(rows)
        return (selection(ranked),) if len(ranked) > 1 else ()

    def sheets(self, rows: Sequence[Row]) -> Sequence[Sheet]:
        """Published values beside ours, and families of scores on families of networks."""
        from featurebank.pipelines.questions.ood.families import families_sheet
        from featurebank.pipelines.questions.ood.published import published_sheet
        from featurebank.pipelines.questions.ood.standings import standings

        ranked = standings(rows)
        return [sheet for sheet in (published_sheet(ranked), families_sheet(ranked)) if sheet is not None]

    def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:
        """Histograms, ROC curves and the images that the first score has most wrongly, of each backbone."""
        from featurebank.pipelines.questions.ood.section import scores_html

        return scores_html(answered, results, album)


def _scores(
    result: DetectionSummary, inside: int, outside: Mapping[str, int], details: Mapping[str, Any]
) -> list[Score]:
    """A score's metrics on each set and group, and those of the full spectrum."""
    scores = []
    for prefix, places in (
        ("", result.sets | result.groups),
        (FULL, result.full_spectrum | result.full_spectrum_groups),
    ):
        for place, detection in places.items():
            for metric in METRICS:
                value = getattr(detection, metric)
                low, high = (None, None) if prefix else result.intervals.get(place, {}).get(metric, (None, None))
                scores.append(
                    Score(
                        metric=prefix + metric,
                        value=value,
                        low=low,
                        high=high,
                        interval="" if low is None else _interval(metric, value),
                        set=place,
                        n=inside + outside[place] if place in outside and not prefix else None,
                        details=details,
                    )
                )
    return scores


def _interval(metric: str, value: float) -> str:
    """How an interval was made; see `featurebank.probes.ood.evaluation`."""
    if value in (0.0, 1.0) and metric in ("auroc", "fpr_at_95"):
        return f"{OVER}, score interval"
    return f"{OVER}, {'DeLong' if metric == 'auroc' else 'bootstrap'}"


def _shared(rows: Rows) -> list[str]:
    """For each out-of-distribution set, how many of its rows are in-distribution or tested images too, by content."""
    from featurebank.probes.ood.evaluation import shared_rows

    own = np.concatenate([_hashes(rows.train), _hashes(rows.test)])
    tested = [*rows["ood"], *rows["near"]]
    notes = [
        f"{other.name}: {count:,} of {len(other.rows):,} rows have the content of rows of {rows.train.name} "
        f"or {rows.test.name}, and count as out of distribution"
        for other in (*tested, *rows["tuning"])
        if (count := int(shared_rows(_hashes(other), own).sum()))
    ]
    for chosen_on in rows["tuning"] if tested else ():
        shared = shared_rows(_hashes(chosen_on), np.concatenate([_hashes(other) for other in tested]))
        if count := int(shared.sum()):
            notes.append(f"{chosen_on.name}: {count:,} of its rows are in the tested sets too; choose on another set")
    return notes


def _hashes(split: SplitRows) -> NDArray[np.uint8]:
    with FeatureSet(split.path) as feature_set:
        return feature_set.content_hash[split.rows]
