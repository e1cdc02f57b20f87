"""What a page shows of a detector: the images it is best and worst at, and which classes it confuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.page import name_html, table_html
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.jobs.detection.kept import Kept
from featurebank.pipelines.jobs.detection.pairs import EACH, Pairs
from featurebank.pipelines.jobs.drawing import SIDE, Drawn, box_path, mask_path, scene_html
from featurebank.store.text import html_text

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.results import Results
    from featurebank.store import Entry

__all__ = ["detections_section"]

IMAGES: Final = 48
"""Of all backbones together, about."""
LINES: Final = 200
"""Objects, and detections, that are drawn over an image."""
CLASSES: Final = 12
"""Of a table of confusions."""
CELL, ROW = 64, 26
KEY: Final = (
    ("object", "object, found"),
    ("object wrong", "object, missed (thick)"),
    ("detection", "detection, right"),
    ("detection wrong", "detection, false (thick)"),
)


def detections_section(answered: Sequence[Answered], results: Results, album: Album, *, agnostic: bool) -> str:
    """Of each backbone its worst and its best images of the scored set, and a table of confusions.

    Raises:
        ValueError: an image is not the one that the features were made from, or kept arrays are gone.
    """
    most = max(1, min(EACH, IMAGES // (2 * len(answered))))
    parts = [_backbone(one, results, album, most=most, agnostic=agnostic) for one in answered]
    key = "".join(f"<li>{_sample(kind)}{about}</li>" for kind, about in KEY)
    about = (
        "An object and a detection are a pair where their boxes overlap by half (IoU .5). Detections count from the "
        "score on at which the F-score of all images together is highest; below an image stands its own. Names and "
        "scores are the lines' titles."
    )
    place = name_html(answered[0].case.place("test"))
    return f'<section><h2>Detections on {place}</h2><p>{about}</p><ul class="key">{key}</ul>{"".join(parts)}</section>'


def _sample(kind: str) -> str:
    """A line of the key."""
    path = "M2 2H32V12H2Z"
    lines = f'<path class="case {kind}" d="{path}"/><path class="{kind}" d="{path}"/>'
    return f'<svg class="scene" width="34" height="14" aria-hidden="true">{lines}</svg>'


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
    said = f"From a score of {_short(pairs.least)} on, {right:,} of {counts[:-1].sum():,} objects are found, and "
    said += f"{counts[:, :-1].sum() - right:,} detections are false."
    drawn, entry = "", one.case.one("test")
    try:
        for title, images in groups.items():
            figures = "".join(_figures(kept, pairs, images, entry, album))
            drawn += f'<h4>{title}</h4><div class="scenes">{figures}</div>' if figures else ""
    except (ConfigError, OSError) as error:
        drawn = f"<p>No images: {html_text(str(error))}</p>"
    table = "" if agnostic or len(kept.class_names) == 1 else _confusion(counts, kept.class_names, name)
    return f"<h3>{name_html(name)}</h3><p>{said}</p>{drawn}{table}"


def _figures(kept: Kept, pairs: Pairs, images: Sequence[int], entry: Entry, album: Album) -> Iterator[str]:
    picture = album.thumbnails(entry.path, entry.place, side=SIDE)
    for at in images:
        shown, seen, right = kept.truth[at], pairs.looked_at(at), pairs.right(at)
        told = f"{right} of {int((~shown.crowd).sum())} found, {len(seen) - right} false"
        drawn = [*_objects(kept, at, pairs.missed(at)), *_detections(kept, at, seen, pairs.objects[at])]
        lines = [f"F {_short(pairs.f_score(at))} · {told}", kept.ids[at]]
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
        name = f"{kept.class_names[found.labels[index]]} {_short(found.scores[index])}{', false' if wrong else ''}"
        path = _path(found.boxes[index], found.masks[index] if found.masks else None, (shown.height, shown.width))
        yield Drawn(kind="detection wrong" if wrong else "detection", path=path, title=name)


def _path(box: NDArray[np.float64], mask: Any, size: tuple[int, int]) -> str:
    """Of a mask where there is one, else of the box."""
    if mask is None:
        return box_path(box)
    scale = min(1.0, SIDE / 2 / max(size))
    small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return mask_path(mask.inside((0, 0, size[1], size[0]), small), size) or box_path(box)


def _short(value: float) -> str:
    """A number from 0 to 1, in two digits without the zero before the point."""
    return f"{value:.2f}".removeprefix("0")


def _cell(count: int, share: float, *, right: bool) -> str:
    """A number on a ground that is the stronger the more of its line it is; nothing for none."""
    if not count:
        return "<td></td>"
    kind = "right" if right else "wrong"
    return (
        f'<td class="{kind}"><svg width="{CELL}" height="{ROW}"><rect width="{CELL}" height="{ROW}" '
        f'fill-opacity="{0.5 * share:.2f}"/><text x="{CELL - 8}" y="17" text-anchor="end">{count:,}</text></svg></td>'
    )


def _confusion(counts: NDArray[np.int64], names: Sequence[str], called: str) -> str:
    """A table of what objects are detected as; of many classes, of those with the most mistakes.

    Args:
        counts: see `Pairs.confusion`.
        names: K of the classes.
        called: whose it is.
    """
    wrong = counts.sum(0)[:-1] + counts.sum(1)[:-1] - 2 * np.diag(counts)[:-1]
    kept = np.sort(np.argsort(-wrong, kind="stable")[:CLASSES])
    others = np.setdiff1d(np.arange(len(names)), kept)
    groups = [*([int(k)] for k in kept), *([others.tolist()] if len(others) else []), [len(names)]]
    table = np.array([[counts[np.ix_(row, column)].sum() for column in groups] for row in groups])
    table[len(kept), len(kept)] = np.diag(counts)[others].sum()
    titles = [*(names[k] for k in kept), *(["other classes"] if len(others) else [])]
    heads = "".join(f'<th scope="col">{name_html(name)}</th>' for name in [*titles, "missed"])
    whole = table.sum(1, keepdims=True)
    lines = []
    for row, name in enumerate([*titles, "no object"]):
        cells = "".join(
            _cell(int(count), count / max(1, int(whole[row, 0])), right=row == column)
            for column, count in enumerate(table[row].tolist())
        )
        lines.append(f'<tr><th scope="row">{name_html(name)}</th>{cells}</tr>')
    few = f", the {len(kept)} of {len(names)} classes with the most mistakes" if len(others) else ""
    caption = f"Objects of {called}, and what they are detected as{few}"
    heads = f'<th class="name" scope="col">object</th>{heads}'
    return table_html(html_text(caption), heads, lines, called=caption, kind="heat", sort=False)
