"""What a page shows of a segmenter: the images it is worst and best at, and which classes it confuses.

Shapes: N images, K classes with the background, s side of a canvas that is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets.mask_files import BACKGROUND, IGNORED
from featurebank.pipelines.asking.page import name_html
from featurebank.pipelines.jobs.confusion import confusion_html
from featurebank.pipelines.jobs.drawing import SIDE, Drawn, each, galleries_html, key_html, mask_path, scene_html, short

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.results import Results

__all__ = ["segments_section"]

KEY: Final = {"object": "class, as annotated", "detection": "class, as predicted", "area": "pixels of a wrong class"}


def segments_section(answered: Sequence[Answered], results: Results, album: Album) -> str:
    """Of each backbone its worst and its best images of the scored set, and a table of confusions.

    Raises:
        ValueError: an image is not the one that the features were made from, or kept arrays are gone.
    """
    parts = [_backbone(one, results, album, most=each(len(answered))) for one in answered]
    about = (
        "In order of the mean IoU of the classes that an image shows or is predicted to show. What is background has "
        "no line."
    )
    place = name_html(answered[0].case.place("test"))
    return f"<section><h2>Classes on {place}</h2><p>{about}</p>{key_html(KEY)}{''.join(parts)}</section>"


def _backbone(one: Answered, results: Results, album: Album, *, most: int) -> str:
    name, arrays, entry = one.case.backbone, results.arrays(one.results[0]), one.case.one("test")
    try:
        counts, names = arrays["confusion"], arrays["names"].tolist()
        scores = _scores(counts)
        order = [int(at) for at in np.argsort(scores, kind="stable") if not np.isnan(scores[at])]
        worst = order[: min(most, -(-len(order) // 2))]
        groups = {"Worst images": worst, "Best images": order[len(worst) :][: -most - 1 : -1]}
        drawn = {at: [*_drawn(arrays, names, at)] for images in groups.values() for at in images}
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"the results of {name} must have all that a page shows; use --force") from error

    def figures(images: Sequence[int]) -> Iterator[str]:
        picture = album.thumbnails(entry.path, entry.place, side=SIDE)
        for at in images:
            lines = [f"IoU {short(scores[at])}", str(arrays["ids"][at])]
            yield scene_html(picture(int(arrays["rows"][at])), _size(arrays, at), drawn[at], lines)

    shown = galleries_html({title: figures(images) for title, images in groups.items()})
    table = confusion_html(counts.sum(0), names, f"Pixels of each class, and what {name} takes them for")
    return f"<h3>{name_html(name)}</h3>{shown}{table}"


def _scores(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) mean IoU of each image from its confusions (N, K, K); NaN of one of which no pixel counts."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    unions = counts.sum(1) + counts.sum(2) - hits
    ious = np.divide(hits, unions, out=np.zeros(hits.shape), where=unions > 0)
    n = (unions > 0).sum(1)
    return np.where(n > 0, ious.sum(1) / np.maximum(n, 1), np.nan)


def _size(arrays: Mapping[str, NDArray[Any]], at: int) -> tuple[int, int]:
    top, bottom, left, right = arrays["places"][at].tolist()
    return bottom - top, right - left


def _drawn(arrays: Mapping[str, NDArray[Any]], names: Sequence[str], at: int) -> Iterator[Drawn]:
    top, bottom, left, right = arrays["places"][at].tolist()
    truth, predicted = (arrays[name][at, top:bottom, left:right] for name in ("truth", "predictions"))
    size = _size(arrays, at)
    wrong = mask_path((truth != predicted) & (truth != IGNORED), size)
    yield Drawn(kind="area", path=wrong, title="taken for another class")
    without = [number for number, name in enumerate(names) if name == BACKGROUND]
    for kind, classes, about in (("object", truth, ""), ("detection", predicted, ", predicted")):
        for number in np.setdiff1d(classes, [*without, IGNORED]).tolist():
            yield Drawn(kind=kind, path=mask_path(classes == number, size), title=f"{names[number]}{about}")
