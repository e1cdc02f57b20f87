"""The page of a ranking: who is first, the critical-difference picture, how settings agree, every number ranked.

Shapes: B backbones, S settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from featurebank.pipelines.asking.page import document, name_html, sheet_html, table_html
from featurebank.pipelines.summaries.rank_sheets import answer, notes_of, standings_sheet, values_sheet
from featurebank.pipelines.summaries.standings import SIGNIFICANT, Agreement, Standings
from featurebank.probes.rank_statistics import cliques
from featurebank.store.text import html_text

__all__ = ["difference_picture", "page", "sections"]

WIDTH, ROW, LANE = 280, 20, 10  # of the picture of mean ranks, its rows and the bars beside it, in pixels
MOST_LANES = 12
CELL = 46  # of the matrix
LARGEST_MATRIX = 60


def page(ranked: Standings, command: str) -> str:
    """A whole page, offline; the command is what made it."""
    again = f"<section><h2>Again</h2><p><code>{html_text(command)}</code></p></section>"
    return document("Ranking of backbones", answer(ranked), [*sections(ranked), again])


def sections(ranked: Standings) -> Iterator[str]:
    """The parts of the page, as HTML."""
    notes = "".join(f"<li>{html_text(note)}</li>" for note in notes_of(ranked))
    yield f'<section>{sheet_html(standings_sheet(ranked))}<ul class="notes">{notes}</ul></section>'
    if len(ranked.table.settings) > 1:
        yield difference_picture(ranked)
        yield from (_correlations(one) for one in ranked.agreements if len(one.names) <= LARGEST_MATRIX)
    yield f"<section><h2>Every number ranked</h2>{sheet_html(values_sheet(ranked))}</section>"


def difference_picture(ranked: Standings) -> str:
    """Mean ranks with half a critical difference to each side, and bars beside those that it does not tell apart.

    Demšar's picture (2006), with a line for each backbone: names have room, and it fits a phone.
    """
    order = np.argsort(ranked.mean_rank, kind="stable")
    mean = ranked.mean_rank[order]
    lanes = _lanes(cliques(mean, ranked.difference))
    drawn = lanes[:MOST_LANES]
    lines = []
    for at, rank in enumerate(mean.tolist()):
        name = ranked.table.backbones[order[at]]
        dot = _dot(ranked, rank)
        bars = f'<td class="lanes">{_bars(drawn, at)}</td>' if drawn else ""
        lines.append(f'<tr><th scope="row">{name_html(name)}</th><td>{rank:.2f}</td><td>{dot}</td>{bars}</tr>')
    size, settings = len(mean), len(ranked.table.settings)
    about = (
        f"Whiskers reach half a critical difference to each side ({ranked.difference:.2f} in all; Nemenyi, "
        f"{SIGNIFICANT:g}, {size} backbones, {settings} settings): two that do not overlap are told apart. That "
        "depends on who else is ranked; the p of the table above does not."
    )
    hidden = f" {len(lanes) - len(drawn)} further bars are not drawn." if len(lanes) > len(drawn) else ""
    beside = f" Each bar joins backbones that are not told apart.{hidden}" if drawn else ""
    head = '<th class="name" scope="col">backbone</th><th scope="col">mean<br>rank</th>'
    head += f'<th scope="col">{_axis(size)}</th>' + (
        f'<th scope="col">alike<br><svg width="{LANE * len(drawn)}" height="1" aria-hidden="true"></svg></th>'
        if drawn
        else ""
    )
    caption = "Who is told apart by rank"
    table = table_html(caption, head, lines, called=caption, sort=False)
    return f"<section><h2>Mean ranks</h2><p>{html_text(about + beside)}</p>{table}</section>"


def _lanes(runs: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Runs put into as few lanes as none of them overlaps in."""
    lanes: list[list[tuple[int, int]]] = []
    for run in runs:
        free = next((lane for lane in lanes if lane[-1][1] < run[0]), None)
        if free is None:
            lanes.append([run])
        else:
            free.append(run)
    return lanes


def _bars(lanes: Sequence[Sequence[tuple[int, int]]], line: int) -> str:
    """The pieces of the bars that pass a line: they fill its cell, however high that is."""
    pieces = ""
    for at, lane in enumerate(lanes):
        for first, last in lane:
            if first <= line <= last:
                top, end = (50 if line == first else 0), (50 if line == last else 100)
                pieces += f'<path class="whisker" vector-effect="non-scaling-stroke" d="M{LANE * at + 5} {top}V{end}"/>'
    width = LANE * len(lanes)
    return (
        f'<svg width="{width}" height="100%" viewBox="0 0 {width} 100" preserveAspectRatio="none" aria-hidden="true">'
        f"{pieces}</svg>"
    )


def _at(size: int, rank: float) -> float:
    return round(6 + (WIDTH - 12) * (min(max(rank, 1.0), size) - 1) / (size - 1), 1)


def _dot(ranked: Standings, rank: float) -> str:
    size, half = len(ranked.mean_rank), ranked.difference / 2
    low, middle, high = (_at(size, end) for end in (rank - half, rank, rank + half))
    return (
        f'<svg width="{WIDTH}" height="{ROW}" aria-hidden="true"><path class="axis" d="M6 10H{WIDTH - 6}"/>'
        f'<path class="whisker" d="M{low} 10H{high}"/><circle class="dot" cx="{middle}" cy="10" r="4"/></svg>'
    )


def _axis(size: int) -> str:
    ends = f'<text x="6" y="12">1, best</text><text x="{WIDTH - 6}" y="12" text-anchor="end">{size}</text>'
    return f'<svg width="{WIDTH}" height="{ROW}" role="img" aria-label="mean rank, 1 to {size}">{ends}</svg>'


def _correlations(agreement: Agreement) -> str:
    """Spearman's correlations above the diagonal, Pearson's below it."""
    heads = "".join(f'<th scope="col">{at + 1}</th>' for at in range(len(agreement.names)))
    lines = []
    for row, name in enumerate(agreement.names):
        above = agreement.spearman[row].tolist()[row:]
        cells = "".join(f"<td>{_shade(one)}</td>" for one in agreement.pearson[row].tolist()[:row] + above)
        lines.append(f'<tr><th scope="row">{row + 1} {name_html(name)}</th>{cells}</tr>')
    about = "Above the diagonal Spearman's correlation over backbones, below it Pearson's; at 1 two judge alike."
    caption = f"Correlation of {agreement.of}"
    heads = f'<th class="name" scope="col">{agreement.of}</th>{heads}'
    table = table_html(caption, heads, lines, called=caption, kind="heat", sort=False)
    return f"<section><h2>How {agreement.of} agree</h2><p>{about}</p>{table}</section>"


def _shade(value: float) -> str:
    """A correlation on a ground that is the stronger the higher it is."""
    if np.isnan(value):
        return ""
    text = f"{round(value, 2) + 0.0:.2f}"
    text = text.replace("0.", ".", 1) if abs(value) < 1 else text
    return (
        f'<svg width="{CELL}" height="{ROW + 4}"><rect width="{CELL}" height="{ROW + 4}" '
        f'fill-opacity="{max(value, 0) * 0.35:.2f}"/><text x="{CELL - 8}" y="16" text-anchor="end">{text}</text></svg>'
    )
