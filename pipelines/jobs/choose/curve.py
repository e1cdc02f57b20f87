"""What a race saw, as a picture: accuracy over how many images decide, each backbone up to where it was dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from featurebank.pipelines.asking.axes import BOTTOM, DASHES, HEIGHT, LEFT, NEAR, TOP, WIDTH, Axis, frame
from featurebank.pipelines.asking.page import shortened
from featurebank.store.text import html_text

if TYPE_CHECKING:
    from featurebank.pipelines.jobs.choose.running import Line

__all__ = ["ENDS", "curve_svg"]

NAMES = 148  # pixels at the right for the names of those who are left
TICKS = 32  # pixels between two numbers below the axis
LABELLED, COLOURS = 12, 6
ENDS = {
    "worse": ("M-3.5 -3.5L3.5 3.5M-3.5 3.5L3.5 -3.5", "a cross: proven worse"),
    "cut by time alone": ("M0 -7V7", "a bar: cut by time alone"),
}
"""The mark at the end of a line, by what became of the backbone, and what it says; others have a dot."""


def curve_svg(lines: Mapping[str, Line]) -> str:
    """A line for each backbone; names of those who are left, of others on hover and focus.

    Args:
        lines: by backbone, the best first; at least one of them was on a rung.
    """
    drawn = {name: line for name, line in lines.items() if line.curve}
    rungs = sorted({rows for line in drawn.values() for rows in line.curve})
    across = Axis.of([*map(float, rungs)], LEFT, WIDTH - NAMES, log=True)
    up = Axis.of([share for line in drawn.values() for share in line.curve.values()], HEIGHT - BOTTOM, TOP)
    ticks: list[int] = []
    for rows in reversed(rungs):
        if not ticks or across.at(ticks[-1]) - across.at(rows) >= TICKS:
            ticks.append(rows)
    left = [name for name, line in drawn.items() if line.state not in ENDS]
    heights = _heights({name: _end(drawn[name], across, up) for name in left[:LABELLED]})
    parts = []
    for number, (name, line) in enumerate(lines.items()):
        if line.curve:
            at = left.index(name) if name in left else None
            inner = _line(name, line, across, up, at=at, text_y=heights.get(name))
            parts.append(f'<a href="#b{number}">{inner}</a>')
    # Those who are left come first, and are drawn above the others.
    return (
        f'<svg class="chart" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" '
        f'aria-label="accuracy over images that decide">'
        f"{frame(across, up, 'images that decide', 'accuracy, left out', ticks=ticks)}{''.join(reversed(parts))}</svg>"
    )


def _end(line: Line, across: Axis, up: Axis) -> tuple[float, float]:
    rows = max(line.curve)
    return across.at(rows), up.at(line.curve[rows])


def _heights(ends: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Where each name stands, the uppermost first, so that names are in the order of the lines."""
    heights: dict[str, float] = {}
    last = 0.0
    for name, (_, y) in sorted(ends.items(), key=lambda one: one[1][1]):
        heights[name] = last = max(y, last + NEAR)
    return heights


def _line(name: str, line: Line, across: Axis, up: Axis, *, at: int | None, text_y: float | None) -> str:
    """The line, the mark at its end, and the name, which has a height where it always shows."""
    path = "L".join(f"{across.at(rows)} {up.at(share)}" for rows, share in sorted(line.curve.items()))
    x, y = _end(line, across, up)
    said = f"{name}: {line.state}, {line.curve[max(line.curve)]:.3f} of {max(line.curve):,} images"
    colour = "in" if at is None else f"s{at % COLOURS}"
    dash = DASHES[at % len(DASHES)] if at else ""
    end = f'<circle cx="{x}" cy="{y}" r="3.5" fill="var(--c)"/>'
    if line.state in ENDS:
        end = f'<path class="curve" d="{ENDS[line.state][0]}" transform="translate({x} {y})"/>'
    place = f'class="tip" x="{x}" y="{y - 7:.1f}" text-anchor="middle"'
    if text_y is not None:
        place = f'x="{x + 18}" y="{text_y + 4:.1f}"'
        end += f'<path class="curve" d="M{x} {y}L{x + 14} {text_y:.1f}"/>'
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<title>{html_text(said)}</title><g class="{colour}"><path class="curve"{dashed} d="M{path}"/>{end}</g>'
        f'<text {place} aria-hidden="true">{html_text(shortened(name))}</text>'
    )
