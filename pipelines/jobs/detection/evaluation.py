"""How good detections are: COCO's average precision and recall, by class and size, with intervals over images.

The numbers are hotcoco's, which are pycocotools' to the bit. A number without objects to find, as of a class that the
images do not show, is NaN: not measured. Without any detection numbers are 0.

Shapes: I images, K classes, T thresholds of the overlap, R recalls, n objects and m detections of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets.masks import RLE, Mask, Polygons
from featurebank.extract.datasets.objects import Objects
from featurebank.pipelines.jobs.detection.matches import Curves, Matches
from featurebank.probes.intervals import row_weights
from featurebank.probes.weighted import percentiles

if TYPE_CHECKING:
    from hotcoco import COCO

__all__ = ["METRICS", "Detections", "Evaluation", "difference", "evaluate", "judged"]

AREAS: Final = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""Of objects in pixels, small, medium and large: in COCO's order."""
MOST: Final = (1, 10, 100)
"""Detections of a class in an image, the best ones, that count."""
METRICS: Final = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In COCO's order. APs is the AP of small objects; AR10 the recall of the ten best detections of a class and image."""
DRAWN: Final = tuple(name for name in METRICS if name not in ("AR1", "AR10"))
"""Those that have intervals."""
DRAWS: Final = 1_000
SEVERAL: Final = 2
"""The fewest images that say something about others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """What was found in one image, the best first.

    Attributes:
        boxes: (m, 4) float64 x1, y1, x2, y2, continuous.
        scores: (m,) float64.
        labels: (m,) int64 index into the class names.
        masks: m of them, or none where boxes alone were found.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: tuple[RLE, ...] = ()

    def take(self, rows: NDArray[np.int64]) -> Detections:
        """The detections at these rows."""
        masks = tuple([self.masks[row] for row in rows]) if self.masks else ()
        return Detections(boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows], masks=masks)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What `evaluate` finds; NaN is what was not measured.

    Attributes:
        kind: whether boxes or masks were compared.
        class_names: K names; the one name ``object`` where classes were passed over.
        numbers: of each of `METRICS`.
        by_class: of each of `METRICS`, (K,).
        objects: (K,) int64, how many had to be found; crowds do not count.
        precision: (T, R, K) at the overlaps and recalls of `featurebank.pipelines.jobs.detection.matches`.
        intervals: of each of `DRAWN` that some draw measures, both ends; empty where none were asked for.
        class_intervals: of ``AP`` and ``AP50``, (K, 2).
        matches: of each range of sizes, "", "s", "m" and "l"; empty without intervals.
        notes: what to know about the numbers.
    """

    kind: Literal["box", "mask"]
    class_names: tuple[str, ...]
    numbers: Mapping[str, float]
    by_class: Mapping[str, NDArray[np.float64]]
    objects: NDArray[np.int64]
    precision: NDArray[np.float64]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    class_intervals: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    matches: Mapping[str, Matches] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def evaluate(
    truth: Sequence[Objects],
    found: Sequence[Detections],
    class_names: Sequence[str],
    *,
    kind: Literal["box", "mask"] = "box",
    agnostic: bool = False,
    resamples: int = DRAWS,
    seed: int = 0,
) -> Evaluation:
    """COCO's numbers of detections in I images, and percentile intervals over resampled images.

    The size of an object is the area of its mask, or of its box where the set has no masks; that of a detection is the
    area of what is compared.

    Args:
        truth: what each image shows.
        found: what was found in each.
        class_names: K names.
        kind: what overlaps are of.
        agnostic: whether classes are passed over: any detection may match any object.
        resamples: draws of I images each; 0 for no intervals, as where there is one image.
        seed: of the draws.

    Raises:
        ValueError: the lists differ in length, arrays in theirs, a number is not finite, a class has no name, or masks
            are to be compared that are not there.
    """
    if len(truth) != len(found):
        raise ValueError(f"each image must have one entry of each; found {len(truth)} of truth, {len(found)} found")
    for index, (shown, detected) in enumerate(zip(truth, found, strict=True)):
        _check(index, shown, detected, len(class_names), masks=kind == "mask")
    found = found if agnostic else judged(truth, found)
    evaluator = _evaluated(truth, found, class_names, kind, agnostic)
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    names = ("object",) if agnostic else tuple(class_names)
    counts = np.zeros(len(class_names), np.int64)
    for shown in truth:
        counts += np.bincount(shown.labels[~shown.crowd], minlength=len(class_names))
    objects = counts.sum(keepdims=True) if agnostic else counts
    evaluation = Evaluation(
        kind=kind,
        class_names=names,
        numbers=_numbers(precision, recall),
        by_class=_by_class(precision, recall),
        objects=objects,
        precision=_or_nan(precision[:, :, :, 0, -1]),
        notes=_notes(names, objects, sum(len(one.scores) for one in found)),
    )
    if resamples and len(truth) >= SEVERAL:
        return _resampled(evaluation, _matches(evaluator, (len(truth), len(names))), resamples, seed)
    return evaluation


def judged(truth: Sequence[Objects], found: Sequence[Detections]) -> list[Detections]:
    """Detections without those of classes that were not looked for in their image."""
    kept = []
    for shown, one in zip(truth, found, strict=True):
        rows = np.flatnonzero(np.isin(one.labels, shown.judged)) if shown.judged is not None else None
        kept.append(one if rows is None else one.take(rows))
    return kept


def difference(
    first: Evaluation, second: Evaluation, metric: str = "AP", *, resamples: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """The first's number minus the second's, and the interval's ends: both are scored on the same drawn images.

    Args:
        first: of the same images as ``second``, in the same order, evaluated with resamples.
        second: the other.
        metric: one of `DRAWN`.
        resamples: draws.
        seed: of the draws.

    Raises:
        ValueError: another metric, evaluations without intervals, or of other images or objects.
    """
    if metric not in DRAWN:
        raise ValueError(f"the metric must be one of {', '.join(DRAWN)}; found {metric}")
    if not (first.matches and second.matches):
        raise ValueError("both must be evaluated with resamples, of two images or more; found none")
    sides = [one.matches[_area(metric)] for one in (first, second)]
    if not np.array_equal(sides[0].objects, sides[1].objects):
        raise ValueError("both must be of the same images and objects; found others")
    drawn = []
    for weights in row_weights(len(sides[0].objects), draws=resamples, random_state=seed):
        one, other = (_mean(_parts(side.curves(weights), metric), (1, 2)) for side in sides)
        drawn.append(one - other)
    differences = np.concatenate(drawn)
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        raise ValueError(f"{metric} must be measured in some drawn images; found no object of its size in any")
    return (first.numbers[metric] - second.numbers[metric], *percentiles(differences, 0.95))


def _check(index: int, shown: Objects, detected: Detections, classes: int, *, masks: bool) -> None:
    """Raises ValueError where an image's arrays do not fit one another, the classes, or what is asked for."""
    m, n = len(detected.scores), len(shown.labels)
    if detected.boxes.shape != (m, 4) or detected.labels.shape != (m,) or len(detected.masks) not in (0, m):
        shapes = (detected.boxes.shape, detected.labels.shape, len(detected.masks))
        raise ValueError(f"image {index}: boxes, labels and masks must be of its {m} scores; found {shapes}")
    if not (np.isfinite(detected.boxes).all() and np.isfinite(detected.scores).all()):
        raise ValueError(f"image {index}: boxes and scores must be finite; found others: was the network trained?")
    for labels in (shown.labels, detected.labels):
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"image {index}: labels must be 0 to {classes - 1}; found {labels.min()}, {labels.max()}")
    if masks and (len(shown.masks) != n or len(detected.masks) != m):
        counts = f"{len(shown.masks)} of {n} objects, {len(detected.masks)} of {m} detections"
        raise ValueError(f"image {index}: each object and detection must have a mask; found {counts}; evaluate boxes")


def _evaluated(
    truth: Sequence[Objects], found: Sequence[Detections], class_names: Sequence[str], kind: str, agnostic: bool
) -> Any:
    """What hotcoco evaluated and accumulated; images and categories are numbered from 0."""
    from hotcoco import COCOeval

    objects = _objects(truth, class_names)
    evaluator = COCOeval(objects, _detections(objects, found, kind), "bbox" if kind == "box" else "segm")
    parameters = evaluator.params
    parameters.use_cats = not agnostic
    parameters.img_ids, parameters.cat_ids = list(range(len(truth))), list(range(len(class_names)))
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _objects(truth: Sequence[Objects], class_names: Sequence[str]) -> COCO:
    from hotcoco import COCO, mask

    boxes = _xywh([shown.boxes for shown in truth])
    area = boxes[:, 2] * boxes[:, 3]
    runs = [_runs(one, shown.height, shown.width) for shown in truth for one in shown.masks]
    if runs:
        area[np.repeat([bool(shown.masks) for shown in truth], [len(shown.labels) for shown in truth])] = mask.area(
            runs
        )
    return COCO.from_arrays(
        [{"id": k, "width": shown.width, "height": shown.height} for k, shown in enumerate(truth)],
        [{"id": k, "name": name} for k, name in enumerate(class_names)],
        np.repeat(np.arange(len(truth)), [len(shown.labels) for shown in truth]),
        _joined([shown.labels for shown in truth], np.int64),
        boxes,
        area=area,
        iscrowd=_joined([shown.crowd for shown in truth], np.bool_),
        segmentation=[*runs] if runs and len(runs) == len(boxes) else None,
    )


def _detections(objects: COCO, found: Sequence[Detections], kind: str) -> COCO:
    """What was found, as hotcoco reads it; of masks, the area is the mask's, where a row with a box has the box's."""
    from hotcoco import mask

    images = np.repeat(np.arange(len(found)), [len(one.scores) for one in found])
    scores = _joined([one.scores for one in found], np.float64)
    labels = _joined([one.labels for one in found], np.float64)
    rows = np.column_stack([images, _xywh([one.boxes for one in found]), scores, labels])
    if kind == "box" or not len(rows):
        return objects.load_res(rows)
    runs = [{"size": list(one.size), "counts": one.text} for detected in found for one in detected.masks]
    loaded = objects.load_res(rows, segmentation=[*runs])
    loaded.update_anns(ids=np.arange(1, len(rows) + 1), area=np.array(mask.area(runs), np.float64))
    return loaded


def _runs(shape: Mask, height: int, width: int) -> dict[str, Any]:
    """A mask in COCO's compressed form; polygons are filled as COCO fills them."""
    from hotcoco import mask

    if isinstance(shape, Polygons):
        return mask.merge(mask.fr_py_objects([points.ravel().tolist() for points in shape.points], height, width))
    runs = shape if isinstance(shape, RLE) and shape.size == (height, width) else RLE.of(shape.full(height, width))
    return {"size": [height, width], "counts": runs.text}


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype)


def _xywh(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    boxes = np.concatenate([np.empty((0, 4)), *parts])
    return np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


def _numbers(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    """`METRICS` of (T, R, K, A, M) and (T, K, A, M): each the mean of what was measured, in COCO's order of adding."""
    numbers = {}
    for name in METRICS:
        values = _selected(precision, recall, name)
        measured = values[values > -1]
        numbers[name] = float(np.mean(measured)) if measured.size else float("nan")
    return numbers


def _by_class(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """`_numbers` of each class alone, (K,)."""
    each = [_numbers(precision[:, :, k : k + 1], recall[:, k : k + 1]) for k in range(recall.shape[1])]
    return {name: np.array([numbers[name] for numbers in each], np.float64) for name in METRICS}


def _selected(precision: NDArray[np.float64], recall: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """What a metric is the mean of: (T, R, K) or (1, R, K) of the precision, (T, K) of the recall."""
    area = [*AREAS].index(_area(name))
    if name.startswith("AR"):
        most = MOST.index(int(name[2:])) if name[2:].isdigit() else -1
        return recall[:, :, area, most]
    return precision[_thresholds(name), :, :, area, -1]


def _area(name: str) -> str:
    """The key into `AREAS` of a metric's name."""
    return name[2:] if name[2:] in AREAS else ""


def _thresholds(name: str) -> slice:
    """Which of `OVERLAPS` a metric is the mean over."""
    return {"AP50": slice(0, 1), "AP75": slice(5, 6)}.get(name, slice(None))


def _or_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """hotcoco, as pycocotools, gives -1 for what was not measured."""
    return np.where(values > -1, values, np.nan)


def _notes(names: Sequence[str], objects: NDArray[np.int64], detections: int) -> tuple[str, ...]:
    notes = []
    if missing := [name for name, n in zip(names, objects, strict=True) if not n]:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} others" if len(missing) > 10 else "")
        notes.append(f"not measured, as no image shows one: {shown}; means are over the other classes")
    if not detections:
        notes.append("nothing was detected in any image")
    return tuple(notes)


def _matches(evaluator: Any, shape: tuple[int, int]) -> dict[str, Matches]:
    """The matches of each of `AREAS`; shape: images, classes."""
    pairs = [pair for pair in evaluator.eval_imgs if pair is not None]
    matches = {}
    for name, area in AREAS.items():
        own = [pair for pair in pairs if tuple(pair["aRng"]) == area]
        # One class has no category's number.
        columns = np.array([pair["category_id"] if shape[1] > 1 else 0 for pair in own], np.int64)
        matches[name] = Matches.of(own, columns, shape)
    return matches


def _resampled(evaluation: Evaluation, matches: Mapping[str, Matches], draws: int, seed: int) -> Evaluation:
    """With intervals, and what they are made from."""
    numbers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in DRAWN}
    by_class: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ("AP", "AP50")}
    for weights in row_weights(len(matches[""].objects), draws=draws, random_state=seed):
        curves = {area: of.curves(weights) for area, of in matches.items()}
        for name, blocks in numbers.items():
            blocks.append(_mean(_parts(curves[_area(name)], name), (1, 2)))
        for name, blocks in by_class.items():
            blocks.append(_mean(_parts(curves[""], name), (2,)))
    ends = {name: _ends(np.concatenate(blocks)) for name, blocks in numbers.items()}
    return replace(
        evaluation,
        matches=matches,
        intervals={name: both for name, both in ends.items() if not np.isnan(both[0])},
        class_intervals={
            name: np.array([_ends(drawn) for drawn in np.concatenate(blocks).T]) for name, blocks in by_class.items()
        },
    )


def _ends(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of an interval of what was measured, NaN where nothing was."""
    measured = drawn[~np.isnan(drawn)]
    return percentiles(measured, 0.95) if len(measured) else (float("nan"), float("nan"))


def _parts(curves: Curves, name: str) -> NDArray[np.float64]:
    """What a metric is the mean of, (B, K, T)."""
    return curves.recall if name.startswith("AR") else curves.precision[:, :, _thresholds(name)]


def _mean(values: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean of what was measured, NaN where nothing was."""
    n = (~np.isnan(values)).sum(axes)
    return np.asarray(np.where(n > 0, np.nansum(values, axes) / np.maximum(n, 1), np.nan))
