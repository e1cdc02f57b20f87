"""The numbers of a fine-tuning: probe and tuned network side by side, each seed, each shifted set, each attack.

Shapes: N rows, K outputs of the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking import intervals
from featurebank.pipelines.asking.answer import Answer, Score
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.jobs.finetune.job import Job, Tuned
from featurebank.pipelines.jobs.finetune.sets import Sets, sets_of
from featurebank.pipelines.jobs.seeds import over_seeds
from featurebank.probes.linear import fit_linear
from featurebank.store import FeatureSet

if TYPE_CHECKING:
    from featurebank.pipelines.asking.inputs import Rows, SplitRows
    from featurebank.pipelines.jobs.finetune.recipe import Recipe
    from featurebank.probes.linear import LinearFit

__all__ = ["Wanted", "answer"]

RANKING_DRAWS = 200  # each takes a pass over all rows and labels
PROBE, TUNED = "probe", "tuned"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked; see `featurebank.pipelines.jobs.finetune.question.Finetune`."""

    recipe: Recipe
    seed: int
    seeds: tuple[int, ...]
    wise: tuple[float, ...]
    attacks: tuple[str, ...]
    precision: str
    cached: bool
    flips: bool


def answer(wanted: Wanted, rows: Rows) -> Answer:
    """Trains what is not trained yet, and scores it once.

    Raises:
        ConfigError: there is nowhere to work: images can be had of a configuration alone.
        ValueError: the rows do not allow it, or training cannot go on.
    """
    if rows.workshop is None:
        raise ConfigError("finetune reads images; ask it of a configuration: featurebank finetune CONFIG")
    recipe = wanted.recipe
    sets = sets_of(rows, fraction=recipe.label_fraction, shots=recipe.shots, seed=wanted.seed)
    probe = None if sets.several else _probe(sets, wanted.seed)
    with FeatureSet(sets.train.path) as feature_set:
        spec = rows.workshop.spec_of(feature_set)
    job = Job(
        spec=spec,
        recipe=recipe,
        sets=sets,
        probe=probe,
        workshop=rows.workshop,
        precision=wanted.precision,
        cached=wanted.cached,
        flips=wanted.flips,
        score=_Judge(sets),
    )
    runs = {seed: job.tune(seed) for seed in wanted.seeds}
    return _answer(wanted, job, runs)


def _probe(sets: Sets, seed: int) -> LinearFit:
    held = (sets.validation.features, sets.validation.labels)
    return fit_linear(sets.train.features, sets.train.labels, validation=held, random_state=seed)


class _Judge:
    """Metrics of logits of the validation rows, the deciding one first."""

    def __init__(self, sets: Sets) -> None:
        self._sets = sets

    def __call__(self, logits: NDArray[np.float32]) -> Mapping[str, float]:
        from featurebank.probes.metrics import multilabel_auroc

        labels, classes = self._sets.validation.labels, self._sets.classes
        if self._sets.several:
            return {"auroc": float(multilabel_auroc(labels, logits).mean)}
        rows = intervals.row_probabilities(labels, classes, logits[:, classes])
        return {"accuracy": float(rows.correct.mean()), "nll": float(-rows.log_likelihood.mean())}


def _answer(wanted: Wanted, job: Job, runs: Mapping[int, Tuned]) -> Answer:
    sets, first = job.sets, runs[wanted.seeds[0]]
    places = [sets.test, *sets.others]
    arrays: dict[str, Any] = {}
    every: list[list[Score]] = []
    for run in runs.values():
        own = []
        for place in places:
            logits = job.logits(run.network, place, run.numerics)
            own += _scores_of(sets, place, logits, seed=wanted.seed)
            if run is first:
                arrays |= _kept(sets, place, logits, first=place is sets.test)
        every.append([*own, *_further(wanted, job, run, places)])
    tuned = [over_seeds(some) for some in zip(*every, strict=True)]
    probe = [] if job.probe is None else [_probed(job.probe, place, sets.test, wanted.seed) for place in places]
    each = [
        replace(score, group=f"seed {seed}")
        for scores in zip(*every, strict=True)
        if len(runs) > 1 and scores[0].metric == tuned[0].metric and scores[0].score == TUNED
        for seed, score in zip(runs, scores, strict=True)
    ]
    return Answer(
        scores=[*tuned, *probe, *each],
        chosen={
            "rate": first.rate,
            "tuned": {str(seed): run.name for seed, run in runs.items()},
            "history": {str(seed): list(run.history) for seed, run in runs.items()},
        },
        arrays=arrays,
        notes=[*sets.notes, *dict.fromkeys(note for run in runs.values() for note in run.notes), *_told(runs)],
    )


def _probed(probe: LinearFit, place: SplitRows, test: SplitRows, seed: int) -> Score:
    """What the cached probe has right, where training begins."""
    right = probe.classes[probe.logits(place.features).argmax(1)] == place.labels
    return _share("accuracy", right, place, test, score=PROBE, seed=seed)


def _scores_of(sets: Sets, place: SplitRows, logits: NDArray[np.float32], *, seed: int) -> list[Score]:
    """The main metric of a set, and further ones."""
    about = "" if place is sets.test else place.name
    if sets.several:
        from featurebank.probes.metrics import multilabel_auroc, multilabel_map
        from featurebank.probes.weighted import label_auroc, label_precision

        pairs = (("auroc", multilabel_auroc, label_auroc), ("map", multilabel_map, label_precision))
        own = [
            intervals.resampled(
                name,
                value(place.labels, logits).mean,
                statistic(place.labels, logits),
                len(logits),
                seed=seed,
                draws=RANKING_DRAWS,
            )
            for name, value, statistic in pairs
        ]
        return [replace(score, set=about, score=TUNED) for score in own]
    rows = intervals.row_probabilities(place.labels, sets.classes, logits[:, sets.classes])
    main = intervals.mean_score("accuracy", rows.correct, seed=seed)
    return [replace(score, set=about, score=TUNED) for score in (main, *intervals.probability_scores(rows, seed=seed))]


def _further(wanted: Wanted, job: Job, run: Tuned, places: Sequence[SplitRows]) -> Iterator[Score]:
    """Interpolated weights on every set, and attacks on the test set."""
    from featurebank.pipelines.jobs.finetune.attacking import robust_rows
    from featurebank.pipelines.jobs.finetune.network import interpolated
    from featurebank.pipelines.training.state import weights_of

    tuned = weights_of(run.network)
    start = {name: value.to(tuned[name].device) for name, value in run.start.items()}
    for alpha in wanted.wise:
        run.network.load_state_dict(interpolated(start, tuned, alpha), strict=False)
        for place in places:
            right = _classes(job.sets, job.logits(run.network, place, run.numerics)) == place.labels
            yield _share("accuracy", right, place, job.sets.test, score=f"alpha {alpha:g}", seed=wanted.seed)
    run.network.load_state_dict(tuned, strict=False)
    if wanted.attacks:
        for attack, robust in zip(wanted.attacks, robust_rows(wanted.attacks, job, run), strict=True):
            score = intervals.mean_score("robust_accuracy", robust, seed=wanted.seed)
            yield replace(score, score=TUNED, group=attack)


def _share(metric: str, right: NDArray[np.bool_], place: SplitRows, test: SplitRows, *, score: str, seed: int) -> Score:
    about = "" if place is test else place.name
    return intervals.mean_score(metric, right, seed=seed, set=about, score=score)


def _classes(sets: Sets, logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N,) the predicted ones, of those that train rows have."""
    predicted: NDArray[np.int64] = sets.classes[logits[:, sets.classes].argmax(1)]
    return predicted


def _kept(sets: Sets, place: SplitRows, logits: NDArray[np.float32], *, first: bool) -> dict[str, Any]:
    """What is kept of each row."""
    if sets.several:
        own: dict[str, Any] = {"ids": place.ids, "rows": place.rows, "labels": place.labels, "logits": logits}
    else:
        own = intervals.predicted(place, _classes(sets, logits))
        if first:
            rows = intervals.row_probabilities(place.labels, sets.classes, logits[:, sets.classes])
            own |= intervals.likelihoods(rows)
    return own if first else {f"{place.name} {name}": array for name, array in own.items()}


def _told(runs: Mapping[int, Tuned]) -> list[str]:
    """How the networks were computed, and what they are called."""
    first = next(iter(runs.values()))
    epochs = mean(len(run.history) for run in runs.values())
    how = f"{first.numerics.precision}{', channels last' if first.numerics.channels_last else ''}"
    return [
        f"trained in {how}, {epochs:g} epochs, rate {first.rate:g}",
        "backbones: " + ", ".join(f"tuned:{run.name}" for run in runs.values()),
    ]
