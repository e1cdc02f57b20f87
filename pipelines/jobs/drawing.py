"""Images with what they show and what was found drawn over them, as SVG that keeps to a page's own styles.

Shapes: H, W an image's size; h, w a mask's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.pipelines.asking.page import data_uri, shortened
from featurebank.pipelines.errors import ConfigError
from featurebank.store.text import html_text

__all__ = ["SIDE", "Drawn", "box_path", "each", "galleries_html", "key_html", "mask_path", "scene_html", "short"]

SIDE: Final = 360
"""Of a picture, in pixels."""
SAMPLE: Final = "M2 2H32V12H2Z"
SIDES: Final = (
    ((-1, 0), (0, 0), (1, 0)),
    ((0, 1), (1, 0), (1, 1)),
    ((1, 0), (1, 1), (0, 1)),
    ((0, -1), (0, 1), (0, 0)),
)
"""Of a pixel: where its neighbour is, down and across, and the ends of what is between them, x and y."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A line over an image.

    Attributes:
        kind: classes of the page's style: ``object`` or ``detection``, and ``wrong`` where it is missed or false.
        path: SVG's, in pixels of the image.
        title: a text.
    """

    kind: str
    path: str
    title: str


def scene_html(image: bytes, size: tuple[int, int], drawn: Iterable[Drawn], lines: Sequence[str]) -> str:
    """A figure: an image in a square, lines over it, a caption.

    Args:
        image: of a JPEG, PNG, GIF or WebP file.
        size: H, W of the image that lines are in pixels of.
        drawn: the first one lowest.
        lines: of the caption; the last is the image's name.

    Raises:
        ValueError: bytes of another format.
    """
    height, width = size
    text = "".join(
        f'<path class="case {one.kind}" d="{one.path}"/><path class="{one.kind}" d="{one.path}">'
        f"<title>{html_text(one.title)}</title></path>"
        for one in drawn
    )
    about = html_text("; ".join(lines))
    caption = "<br>".join([*map(html_text, lines[:-1]), html_text(shortened(lines[-1]))])
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{about}"><image width="{width}" '
        f'height="{height}" preserveAspectRatio="none" href="{data_uri(image)}"/>{text}</svg>'
        f'<figcaption title="{about}">{caption}</figcaption></figure>'
    )


def galleries_html(groups: Mapping[str, Iterable[str]]) -> str:
    """Figures below a heading for each group; why there are none, where images cannot be had.

    Raises:
        ValueError: an image is not the one that the features were made from.
    """
    text = ""
    try:
        for title, figures in groups.items():
            drawn = "".join(figures)
            text += f'<h4>{html_text(title)}</h4><div class="scenes">{drawn}</div>' if drawn else ""
    except (ConfigError, OSError) as error:
        return f"<p>No images: {html_text(str(error))}</p>"
    return text


def each(backbones: int) -> int:
    """How many images of each group are shown of each backbone, where there are so many."""
    return max(1, min(6, 24 // backbones))


def key_html(kinds: Mapping[str, str]) -> str:
    """What lines of each kind are."""
    items = ""
    for kind, about in kinds.items():
        lines = f'<path class="case {kind}" d="{SAMPLE}"/><path class="{kind}" d="{SAMPLE}"/>'
        items += (
            f'<li><svg class="scene" width="34" height="14" aria-hidden="true">{lines}</svg>{html_text(about)}</li>'
        )
    return f'<ul class="key">{items}</ul>'


def short(value: float) -> str:
    """A number from 0 to 1 in two digits, without the zero before the point.

    >>> short(0.5), short(1.0)
    ('.50', '1.00')
    """
    return f"{value:.2f}".removeprefix("0")


def box_path(box: ArrayLike) -> str:
    """A box x1, y1, x2, y2 as a path.

    >>> box_path([1, 2, 30.5, 4])
    'M1 2H30.5V4H1Z'
    """
    x1, y1, x2, y2 = (f"{value:.1f}".removesuffix(".0") for value in np.asarray(box, np.float64).tolist())
    return f"M{x1} {y1}H{x2}V{y2}H{x1}Z"


def mask_path(mask: NDArray[np.bool_], size: tuple[int, int]) -> str:
    """The borders of what is true in a mask (h, w) of an image (H, W), holes too, as a path along its pixels' sides.

    >>> mask_path(np.array([[True, True], [False, True]]), (2, 4))
    'M0 0H4V2H2V1H0Z'
    """
    down, across = size[0] / mask.shape[0], size[1] / mask.shape[1]
    text = ""
    for loop in _loops(mask):
        corners = [
            (x, y) for (x, y), (a, b), (c, d) in zip(loop, loop[-1:] + loop[:-1], loop[1:] + loop[:1], strict=True)
            if (x - a, y - b) != (c - x, d - y)
        ]  # fmt: skip
        shown = [(f"{x * across:.1f}".removesuffix(".0"), f"{y * down:.1f}".removesuffix(".0")) for x, y in corners]
        text += f"M{shown[0][0]} {shown[0][1]}"
        for (x, y), (before, _) in zip(shown[1:], shown, strict=False):
            text += f"V{y}" if x == before else f"H{x}"
        text += "Z"
    return text


def _loops(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Closed lines of whole steps, x and y, with what is true on their right."""
    inside = np.pad(mask, 1)
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (down, across), (x1, y1), (x2, y2) in SIDES:
        border = inside & ~np.roll(inside, (-down, -across), (0, 1))
        for y, x in (np.argwhere(border) - 1).tolist():
            after.setdefault((x + x1, y + y1), []).append((x + x2, y + y2))
    loops = []
    while after:
        loop = [min(after)]
        while (place := _step(after, loop[-1])) != loop[0]:
            loop.append(place)
        loops.append(loop)
    return loops


def _step(after: dict[tuple[int, int], list[tuple[int, int]]], place: tuple[int, int]) -> tuple[int, int]:
    """Where a line goes on from a place; that step is taken away."""
    following = after[place].pop()
    if not after[place]:
        del after[place]
    return following
