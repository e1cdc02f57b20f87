"""Pictures of a report as SVG: numbers against cost, seconds by stage, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featurebank.pipelines.asking.axes import BOTTOM, DASHES, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, frame, free
from featurebank.store.text import html_text

__all__ = ["Point", "bar_svg", "colour_key", "curves_svg", "scatter_svg"]

BAR = 160
COLOURS = 6
LETTER = 5.6  # width of a letter, about


@dataclass(frozen=True, kw_only=True)
class Point:
    """A backbone in a picture.

    Attributes:
        name: its name.
        number: of its line in the table of backbones.
        x: what it costs, above 0.
        y: its number.
        low: lower end of the number's interval.
        high: upper end.
        said: number and cost in words.
        front: whether no other is better in both.
    """

    name: str
    number: int
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    said: str
    front: bool


def scatter_svg(points: Sequence[Point], x_title: str, y_title: str, *, higher: bool = True) -> str:
    """Numbers against costs on a logarithmic axis, the front as steps; names of others show on hover and focus.

    Args:
        points: at least one.
        x_title: of the costs.
        y_title: of the numbers.
        higher: whether more is better, which is then above.
    """
    ends = [end for one in points for end in (one.low, one.y, one.high) if end is not None]
    across = Axis.of([one.x for one in points], LEFT, WIDTH - RIGHT, log=True)
    up = Axis.of(ends, *((HEIGHT - BOTTOM, TOP) if higher else (TOP, HEIGHT - BOTTOM)))
    front = sorted((one for one in points if one.front), key=lambda one: (one.x, one.y))
    steps = ""
    for at, one in enumerate(front):
        steps += f"H{across.at(one.x)}V{up.at(one.y)}" if at else f"M{across.at(one.x)} {up.at(one.y)}"
    if front:
        steps += f"H{WIDTH - RIGHT}"
    placed: list[tuple[float, float, float]] = []
    drawn = "".join(
        _point(one, across, up, placed) for one in sorted(points, key=lambda one: (not one.front, one.name))
    )
    return (
        f'<svg class="chart" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" '
        f'aria-label="{html_text(f"{y_title} against {x_title}")}">{frame(across, up, x_title, y_title)}'
        f'<path class="front" d="{steps}"/>{drawn}</svg>'
    )


def bar_svg(seconds: Mapping[str, float], most: float, stages: Sequence[str]) -> str:
    """Seconds of each stage, one behind the other, on a scale that ends at most."""
    x, parts = 0.0, ""
    for stage, value in seconds.items():
        width = BAR * value / most if most > 0 else 0.0
        colour = f"s{stages.index(stage) % COLOURS}"
        parts += f'<rect class="{colour}" x="{x:.1f}" y="1" width="{width:.1f}" height="12"><title>'
        parts += f"{html_text(stage)} {value:,.1f} s</title></rect>"
        x += width
    return f'<svg class="bar" width="{BAR}" height="14" aria-hidden="true">{parts}</svg>'


def colour_key(names: Sequence[str]) -> str:
    """Which colour each stage of `bar_svg` or line of `curves_svg` has."""
    items = "".join(f'<li><i class="s{at % COLOURS}"></i>{html_text(name)}</li>' for at, name in enumerate(names))
    return f'<ul class="key">{items}</ul>'


def curves_svg(
    lines: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]], titles: tuple[str, str]
) -> str:
    """Numbers over a logarithmic axis, a line for each name with the band of its intervals.

    Args:
        lines: x, value, low and high of each point, by name.
        titles: of both axes.
    """
    every = [point for line in lines.values() for point in line]
    ends = [end for _, *values in every for end in values if end is not None]
    across = Axis.of([x for x, *_ in every], LEFT, WIDTH - RIGHT, log=True)
    up = Axis.of(ends, HEIGHT - BOTTOM, TOP)
    drawn = ""
    for at, (name, line) in enumerate(lines.items()):
        points = sorted(line)
        path = "L".join(f"{across.at(x)} {up.at(value)}" for x, value, _, _ in points)
        banded = [(x, low, high) for x, _, low, high in points if low is not None and high is not None]
        there = "L".join(f"{across.at(x)} {up.at(high)}" for x, _, high in banded)
        back = "L".join(f"{across.at(x)} {up.at(low)}" for x, low, _ in reversed(banded))
        band = f'<path class="band" d="M{there}L{back}Z"/>' if banded else ""
        dash = f' stroke-dasharray="{DASHES[at % len(DASHES)]}"' if at % len(DASHES) else ""
        title = f"<title>{html_text(name)}</title>"
        drawn += f'<g class="s{at % COLOURS}">{band}<path class="curve"{dash} d="M{path}">{title}</path></g>'
    return (
        f'<svg class="chart" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html_text(f"{titles[1]} over {titles[0]}")}">{frame(across, up, *titles)}{drawn}</svg>'
    )


def _point(one: Point, across: Axis, up: Axis, placed: list[tuple[float, float, float]]) -> str:
    x, y = across.at(one.x), up.at(one.y)
    whisker = ""
    if one.low is not None and one.high is not None:
        whisker = f'<path class="whisker" d="M{x} {up.at(one.low)}V{up.at(one.high)}"/>'
    name = html_text(one.name)
    width, right = LETTER * len(one.name), x < (LEFT + WIDTH) / 2
    text_x = x + 8 if right else x - 8
    begin = text_x if right else text_x - width
    text_y = y - 6
    if one.front:
        text_y = free(begin, begin + width, y - 6, placed)
        placed.append((begin, begin + width, text_y))
    kind = "" if one.front else ' class="tip"'
    anchor = "start" if right else "end"
    return (
        f'<a href="#b{one.number}" data-item data-b="{one.number}" >'
        f"<title>{name}: {html_text(one.said)}</title>{whisker}"
        f'<circle class="{"dot" if one.front else "other"}" cx="{x}" cy="{y}" r="4.5"/>'
        f'<text{kind} x="{text_x:.1f}" y="{text_y:.1f}" text-anchor="{anchor}" aria-hidden="true">{name}</text></a>'
    )
