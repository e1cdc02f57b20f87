"""The numbers of a detector: COCO's, of boxes and masks, of the scored set and of others, over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featurebank.pipelines.asking.answer import Answer, Score
from featurebank.pipelines.jobs.detection.evaluation import Detections, evaluate, judged
from featurebank.pipelines.jobs.detection.job import Job
from featurebank.pipelines.jobs.detection.kept import Kept, detected
from featurebank.pipelines.jobs.detection.pairs import Pairs
from featurebank.pipelines.jobs.detection.task import detections_of
from featurebank.pipelines.jobs.seeds import over_seeds

if TYPE_CHECKING:
    from featurebank.extract.datasets.objects import Objects
    from featurebank.pipelines.asking.inputs import Rows, SplitRows
    from featurebank.pipelines.jobs.detection.job import DetectorTraining
    from featurebank.pipelines.training.trial import Precision

__all__ = ["Wanted", "answer"]

NAMES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "APs": "ap_small",
    "APm": "ap_medium",
    "APl": "ap_large",
    "AR100": "ar",
}
"""COCO's names, and those of rows."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked; see `featurebank.pipelines.jobs.detection.question.Detect`."""

    training: DetectorTraining
    seed: int
    seeds: tuple[int, ...]
    agnostic: bool
    least_score: float
    detections: int
    precision: Precision
    cache_gb: float


def answer(wanted: Wanted, rows: Rows) -> Answer:
    """Trains what is not trained yet, and scores it once.

    Raises:
        ConfigError: there is nowhere to work: images can be had of a configuration alone.
        ValueError: the rows do not allow it, or training cannot go on.
    """
    job = Job.of(rows, training=wanted.training, precision=wanted.precision, cache_gb=wanted.cache_gb)
    runs = {seed: job.run(seed) for seed in wanted.seeds}
    for run in runs.values():
        run.model.heads.score_thresh, run.model.heads.detections_per_img = wanted.least_score, wanted.detections
    places = [rows.test, *rows["on"]]
    scenes = [job.scenes(place) for place in places]
    arrays: dict[str, Any] = {}
    every: list[list[Score]] = []
    for seed, run in runs.items():
        scores: list[Score] = []
        for place, shown in zip(places, scenes, strict=True):
            truth = _in_classes(job.class_names, shown.split.class_names, shown.objects)
            found = detections_of(run.model, shown, run.numerics)
            found = found if wanted.agnostic else judged(truth, found)
            about = "" if place is rows.test else place.name
            scores += _scores(wanted, job, truth, found, about)
            if seed == wanted.seeds[0] and about:
                arrays |= {f"{about} {name}": values for name, values in detected(found).items()}
            elif seed == wanted.seeds[0]:
                arrays |= _pictured(wanted, job, place, truth, found)
        every.append(scores)
    return Answer(
        scores=[over_seeds(some) for some in zip(*every, strict=True)],
        chosen={
            "detectors": {str(seed): run.name for seed, run in runs.items()},
            "history": {str(seed): list(run.history) for seed, run in runs.items()},
        },
        arrays=arrays,
        notes=job.told(runs),
    )


def _scores(
    wanted: Wanted, job: Job, truth: Sequence[Objects], found: Sequence[Detections], about: str
) -> Iterator[Score]:
    """AP and AP50 first: readers have taken one for the other."""
    kinds: list[Literal["box", "mask"]] = ["box", "mask"] if job.training.shape.masks else ["box"]
    for kind in kinds:
        result = evaluate(truth, found, job.class_names, kind=kind, agnostic=wanted.agnostic, seed=wanted.seed)
        for name, metric in NAMES.items():
            value = result.numbers[name]
            if not math.isnan(value):
                low, high = result.intervals.get(name, (None, None))
                yield Score(
                    metric=metric,
                    value=value,
                    low=low,
                    high=high,
                    interval="" if low is None else "images, bootstrap",
                    set=about,
                    score=kind,
                    n=len(truth),
                )
        if len(result.class_names) > 1:
            for number, called in enumerate(result.class_names):
                value = float(result.by_class["AP50"][number])
                if not math.isnan(value):
                    yield Score(metric="ap50", value=value, set=about, score=kind, group=called)


def _pictured(
    wanted: Wanted, job: Job, rows: SplitRows, truth: Sequence[Objects], found: Sequence[Detections]
) -> dict[str, Any]:
    """What was found in the scored set, with all that a page shows of it."""
    best, worst = Pairs.of(truth, found, agnostic=wanted.agnostic).extremes()
    kept = Kept(
        class_names=job.class_names,
        rows=rows.rows,
        ids=tuple(rows.ids.tolist()),
        truth=truth,
        found=found,
        best=tuple(best),
        worst=tuple(worst),
    )
    return kept.arrays(masks=job.training.shape.masks)


def _in_classes(names: Sequence[str], own: Sequence[str], objects: Sequence[Objects]) -> list[Objects]:
    """Objects of another set in the classes of the train images, by name; of other classes they are left out."""
    if tuple(own) == tuple(names):
        return list(objects)
    number = np.array([names.index(one) if one in names else -1 for one in own], np.int64)
    if (number < 0).all():
        raise ValueError(f"the sets must share a class by name; found {', '.join(own)} and {', '.join(names)}")
    moved = []
    for one in objects:
        labels, classes = number[one.labels], one.judged
        classes = None if classes is None else np.setdiff1d(number[classes], [-1])
        moved.append(replace(one, labels=labels, judged=classes).take(labels >= 0))
    return moved
