"""What a page shows of a detector: the images it is best and worst at, and which classes it confuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.page import name_html
from featurebank.pipelines.jobs.confusion import confusion_html
from featurebank.pipelines.jobs.detection.kept import Kept
from featurebank.pipelines.jobs.detection.pairs import Pairs
from featurebank.pipelines.jobs.drawing import (
    SIDE,
    Drawn,
    box_path,
    each,
    galleries_html,
    key_html,
    mask_path,
    scene_html,
    short,
)

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.results import Results
    from featurebank.store import Entry

__all__ = ["detections_section"]

LINES: Final = 200
"""Objects, and detections, that are drawn over an image."""
KEY: Final = {
    "object": "object, found",
    "object wrong": "object, missed (thick)",
    "detection": "detection, right",
    "detection wrong": "detection, false (thick)",
}


def detections_section(answered: Sequence[Answered], results: Results, album: Album, *, agnostic: bool) -> str:
    """Of each backbone its worst and its best images of the scored set, and a table of confusions.

    Raises:
        ValueError: an image is not the one that the features were made from, or kept arrays are gone.
    """
    most = each(len(answered))
    parts = [_backbone(one, results, album, most=most, agnostic=agnostic) for one in answered]
    about = (
        "An object and a detection are a pair where their boxes overlap by half (IoU .5). Detections count from the "
        "score on at which the F-score of all images together is highest; below an image stands its own. Names and "
        "scores are the lines' titles."
    )
    place = name_html(answered[0].case.place("test"))
    return f"<section><h2>Detections on {place}</h2><p>{about}</p>{key_html(KEY)}{''.join(parts)}</section>"


def _backbone(one: Answered, results: Results, album: Album, *, most: int, agnostic: bool) -> str:
    name, arrays = one.case.backbone, results.arrays(one.results[0])
    try:
        kept = Kept.read(arrays)
        pairs = Pairs.of(kept.truth, kept.found, agnostic=agnostic)
        counts = pairs.confusion(len(kept.class_names))
        groups = {"Worst images": kept.worst[:most], "Best images": kept.best[:most]}
        right = sum(pairs.right(image) for image in range(len(kept.truth)))
    except (LookupError, TypeError, ValueError, StopIteration) as error:
        raise ValueError(f"the results of {name} must have all that a page shows; use --force") from error
    said = f"From a score of {short(pairs.least)} on, {right:,} of {counts[:-1].sum():,} objects are found, and "
    said += f"{counts[:, :-1].sum() - right:,} detections are false."
    entry = one.case.one("test")
    drawn = galleries_html({title: _figures(kept, pairs, images, entry, album) for title, images in groups.items()})
    if not agnostic and len(kept.class_names) > 1:
        caption = f"Objects, and what {name} detects them as"
        drawn += confusion_html(counts, kept.class_names, caption, beyond=("no object", "missed"))
    return f"<h3>{name_html(name)}</h3><p>{said}</p>{drawn}"


def _figures(kept: Kept, pairs: Pairs, images: Sequence[int], entry: Entry, album: Album) -> Iterator[str]:
    picture = album.thumbnails(entry.path, entry.place, side=SIDE)
    for at in images:
        shown, seen, right = kept.truth[at], pairs.looked_at(at), pairs.right(at)
        told = f"{right} of {int((~shown.crowd).sum())} found, {len(seen) - right} false"
        drawn = [*_objects(kept, at, pairs.missed(at)), *_detections(kept, at, seen, pairs.objects[at])]
        lines = [f"F {short(pairs.f_score(at))} · {told}", kept.ids[at]]
        yield scene_html(picture(int(kept.rows[at])), (shown.height, shown.width), drawn, lines)


def _objects(kept: Kept, at: int, missed: NDArray[np.int64]) -> Iterator[Drawn]:
    shown = kept.truth[at]
    for index in np.flatnonzero(~shown.crowd)[:LINES].tolist():
        wrong = index in missed
        name = kept.class_names[shown.labels[index]]
        path = _path(shown.boxes[index], shown.masks[index] if shown.masks else None, (shown.height, shown.width))
        yield Drawn(kind="object wrong" if wrong else "object", path=path, title=f"{name}{', missed' if wrong else ''}")


def _detections(kept: Kept, at: int, seen: NDArray[np.int64], objects: NDArray[np.int64]) -> Iterator[Drawn]:
    shown, found = kept.truth[at], kept.found[at]
    for index in seen[:LINES].tolist():
        wrong = objects[index] < 0
        name = f"{kept.class_names[found.labels[index]]} {short(found.scores[index])}{', false' if wrong else ''}"
        path = _path(found.boxes[index], found.masks[index] if found.masks else None, (shown.height, shown.width))
        yield Drawn(kind="detection wrong" if wrong else "detection", path=path, title=name)


def _path(box: NDArray[np.float64], mask: Any, size: tuple[int, int]) -> str:
    """Of a mask where there is one, else of the box."""
    if mask is None:
        return box_path(box)
    scale = min(1.0, SIDE / 2 / max(size))
    small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return mask_path(mask.inside((0, 0, size[1], size[0]), small), size) or box_path(box)
