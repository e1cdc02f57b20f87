"""The curves of a run on a page: loss and validation score of each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featurebank.pipelines.asking.page import name_html
from featurebank.store.text import html_text

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered

__all__ = ["curve_svg", "curves_section"]

WIDTH, HEIGHT = 260, 120
DASHES = ("", "6 3", "2 3", "8 3 2 3")


def curves_section(answered: Sequence[Answered]) -> str:
    """For each backbone its training loss and its validation score by epoch, a line for each seed."""
    figures = []
    for one in answered:
        runs: Mapping[str, Any] = one.results[0].chosen.get("history", {})
        if not runs:
            continue
        drawn = "".join(
            f"<div><h4>{html_text(title)}</h4>{curve_svg(runs, name)}</div>"
            for name, title in (("loss", "training loss"), ("score", "validation score"))
        )
        figures.append(f'<h3>{name_html(one.case.backbone)}</h3>{_seeds(runs)}<div class="row">{drawn}</div>')
    if not figures:
        return ""
    place = name_html(answered[0].rows[0].train)
    about = "Over epochs; where a phase ends the line has a dot."
    return f"<section><h2>Training on {place}</h2><p>{about}</p>{''.join(figures)}</section>"


def _seeds(runs: Mapping[str, Any]) -> str:
    """Which dash is which seed's, where there are several."""
    if len(runs) < 2:
        return ""
    items = ""
    for seed, dash in zip(runs, DASHES * len(runs), strict=False):
        line = f'<path class="whisker" stroke-dasharray="{dash or "none"}" d="M0 7H28"/>'
        items += f'<li><svg width="34" height="14" aria-hidden="true">{line}</svg>seed {html_text(seed)}</li>'
    return f'<ul class="key">{items}</ul>'


def curve_svg(runs: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> str:
    """One value of each epoch, a line a run; what is not finite leaves a gap."""
    values = [epoch[name] for run in runs.values() for epoch in run if isinstance(epoch.get(name), float)]
    if not values:
        return "<p>no values</p>"
    low, high = min(values), max(values)
    longest = max(len(run) for run in runs.values())
    lines = []
    for (seed, run), dash in zip(runs.items(), DASHES * len(runs), strict=False):
        points = [
            (WIDTH * at / max(longest - 1, 1), HEIGHT * (high - epoch[name]) / ((high - low) or 1.0), epoch["phase"])
            for at, epoch in enumerate(run)
            if isinstance(epoch.get(name), float)
        ]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in points)
        ends = [points[at] for at in range(len(points)) if at + 1 == len(points) or points[at + 1][2] != points[at][2]]
        dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y, _ in ends)
        style = f' stroke-dasharray="{dash}"' if dash else ""
        lines.append(
            f'<path class="whisker" fill="none"{style} d="M{path}"><title>seed {html_text(seed)}</title></path>{dots}'
        )
    return (
        f'<svg width="{WIDTH + 56}" height="{HEIGHT + 34}" viewBox="-44 -8 {WIDTH + 56} {HEIGHT + 34}" role="img" '
        f'aria-label="{html_text(name)} by epoch"><path class="axis" d="M0 0V{HEIGHT}H{WIDTH}"/>{"".join(lines)}'
        f'<text x="-6" y="4" text-anchor="end">{high:.3g}</text>'
        f'<text x="-6" y="{HEIGHT}" text-anchor="end">{low:.3g}</text>'
        f'<text x="0" y="{HEIGHT + 18}">1</text>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT + 18}" text-anchor="middle">epoch</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 18}" text-anchor="end">{longest}</text></svg>'
    )
