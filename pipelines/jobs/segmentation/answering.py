"""The numbers of a segmenter: overlaps with the truth, of the scored set and of others, over seeds.

Shapes: M images, K classes with the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.answer import Answer, Score
from featurebank.pipelines.asking.intervals import mask_scores
from featurebank.pipelines.jobs.seeds import over_seeds
from featurebank.pipelines.jobs.segmentation.job import Job, part_of
from featurebank.pipelines.jobs.segmentation.task import confusions_of
from featurebank.probes.segmentation import mean_iou

if TYPE_CHECKING:
    from featurebank.pipelines.asking.inputs import Rows, SplitRows
    from featurebank.pipelines.jobs.maps.job import Training
    from featurebank.pipelines.jobs.segmentation.network import Shape
    from featurebank.pipelines.training.trial import Precision

__all__ = ["Wanted", "answer"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked; see `featurebank.pipelines.jobs.segmentation.question.Segment`."""

    training: Training[Shape]
    seed: int
    seeds: tuple[int, ...]
    fraction: float
    masks: str
    classes: tuple[str, ...]
    precision: Precision
    cache_gb: float


def answer(wanted: Wanted, rows: Rows) -> Answer:
    """Trains what is not trained yet, and scores it once.

    Raises:
        ConfigError: there is nowhere to work: images can be had of a configuration alone.
        ValueError, DatasetError: the rows do not allow it, or training cannot go on.
    """
    part = part_of(rows.train, wanted.fraction, wanted.seed)
    own = replace(rows, sets={**rows.sets, "train": (part,)})
    job = Job.of(
        own,
        training=wanted.training,
        precision=wanted.precision,
        cache_gb=wanted.cache_gb,
        masks=wanted.masks,
        classes=wanted.classes,
    )
    runs = {seed: job.run(seed) for seed in wanted.seeds}
    arrays: dict[str, Any] = {}
    every: list[list[Score]] = [[] for _ in runs]
    for place in (rows.test, *rows["on"]):
        shown, about = job.pictures(place), "" if place is rows.test else place.name
        for scores, (seed, run) in zip(every, runs.items(), strict=True):
            parts, canvases = confusions_of(run.model, shown, len(job.class_names), run.numerics)
            scores.extend(_scores(parts, job.class_names, about, wanted.seed))
            if seed == wanted.seeds[0]:
                kept = {"ids": place.ids, "rows": place.rows, "predictions": canvases, "confusion": parts}
                arrays |= {f"{about} {name}".strip(): values for name, values in kept.items()}
        if not about:
            arrays |= shown.looked_at() | {"names": np.array(job.class_names, np.str_)}
    return Answer(
        scores=[over_seeds(some) for some in zip(*every, strict=True)],
        chosen={
            "segmenters": {str(seed): run.name for seed, run in runs.items()},
            "history": {str(seed): list(run.history) for seed, run in runs.items()},
        },
        arrays=arrays,
        notes=[*job.told(runs), *_fewer(part, rows.train)],
    )


def _scores(parts: NDArray[np.int64], names: Sequence[str], about: str, seed: int) -> Iterator[Score]:
    """Of all classes together, and the IoU of each that the images show."""
    whole = parts.sum(0)
    for score in mask_scores(parts, seed=seed):
        yield replace(score, set=about)
    for number in np.flatnonzero(whole.sum(1)).tolist():
        yield Score(metric="iou", value=float(mean_iou(whole).values[number]), set=about, group=names[number])


def _fewer(part: SplitRows, whole: SplitRows) -> list[str]:
    own, every = len(part.rows), len(whole.rows)
    return [f"{whole.name}: {own:,} of {every:,} images are trained on"] if own < every else []
