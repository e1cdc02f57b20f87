"""What scores look like: histograms, ROC curves, and the images that the first score has most wrongly.

Shapes: N in-distribution rows, M others. Scores are higher for in-distribution rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.page import figure, name_html
from featurebank.pipelines.asking.sheet import interval_of
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.questions.ood.parts import HELD_OUT
from featurebank.pipelines.questions.ood.standings import Standing, is_random, standings
from featurebank.store.text import html_text

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.results import Results, Row
    from featurebank.store import Entry

__all__ = ["histogram", "roc_curve", "scores_html", "worst_rows"]

BINS = 48
TAILS = 0.01  # share of a set's rows at each end that the histogram gathers in its outermost bins
WIDTH, HEIGHT, SIDE = 360, 180, 180
COLOURS = 6
WORST = 8  # images of each set
ABOUT = (
    "Each score is higher for rows that are more like the train rows. Histograms show the share of each set's rows; "
    "the last 1 % at either end stand in the outermost bars."
)
Floats = NDArray[np.float64]


def scores_html(answered: Sequence[Answered], results: Results, album: Album) -> str:
    """A section for each backbone, its scores with the greatest mean AUROC first, and images below or why not.

    Raises:
        ConfigError: images that were named cannot be opened.
        ValueError: kept scores are gone or damaged.
    """
    best = {one.backbone: one for one in reversed(standings(row for some in answered for row in some.rows))}
    order = sorted(answered, key=lambda one: -best[one.case.backbone].mean if one.case.backbone in best else 1.0)
    sections = [_backbone(one, results, album) for one in order]
    return f"<section><h2>Scores</h2><p>{ABOUT}</p></section>{''.join(sections)}"


def histogram(inside: Floats, outside: Mapping[str, Floats]) -> tuple[Floats, Floats, dict[str, Floats]]:
    """Edges (B + 1,) common to all sets, and each set's share of rows in each bin (B,), which sums to 1.

    >>> edges, shares, others = histogram(np.array([1.0, 2.0, 3.0]), {"far": np.array([0.0])})
    >>> len(edges) - 1 == len(shares), round(float(shares.sum()), 6), float(others["far"].max())
    (True, 1.0, 1.0)
    """
    ends = np.array([np.quantile(values, (TAILS, 1 - TAILS)) for values in (inside, *outside.values())])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)

    def shares(values: Floats) -> Floats:
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        return counts / len(values)

    return edges, shares(inside), {name: shares(values) for name, values in outside.items()}


def roc_curve(inside: Floats, outside: Floats) -> tuple[Floats, Floats]:
    """Share of the others (T,) and of the in-distribution rows (T,) at or above each threshold, from 0 to 1.

    >>> [axis.tolist() for axis in roc_curve(np.array([2.0, 1.0]), np.array([1.0, 0.0]))]
    [[0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0]]
    """
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    found = []
    for values in (outside, inside):
        below = np.sort(values).searchsorted(thresholds, "left")
        found.append(np.concatenate([[0.0], 1 - below / len(values)]))
    return found[0], found[1]


def worst_rows(values: Floats, count: int, *, highest: bool) -> list[int]:
    """The rows with the highest or lowest values, most extreme first, of equal ones the first row.

    >>> worst_rows(np.array([1.0, 3.0, 2.0, 3.0]), 3, highest=True)
    [1, 3, 2]
    """
    order: list[int] = np.argsort(-values if highest else values, kind="stable")[:count].tolist()
    return order


def _backbone(one: Answered, results: Results, album: Album) -> str:
    try:
        ranked = standings(one.rows)
        kept = {result.part: results.arrays(result) for result in one.results if result.rows}
        kept[""] = results.arrays(one.results[0])
        test, whole = one.case.place("test"), kept[""]
        others = [name for name in ranked[0].rows if f"{name} ids" in whole]
        key = f'<li><i class="in"></i>{name_html(test)} (in distribution)'
        key += "".join(f'<li><i class="{_colour(at)}"></i>{name_html(name)}' for at, name in enumerate(others))
        cards = "".join(_card(standing, kept[standing.score], test, others) for standing in ranked)
        first = ranked[0]
        accuracy = "none" if first.accuracy is None else f"{first.accuracy.value:.3f}"
        name = first.backbone + (" (random weights)" if is_random(first.backbone) else "")
        about = f"head: {html_text(first.head or 'none')}; ID accuracy: {accuracy}"
        return (
            f"<section><h2>{name_html(name)}</h2><p>{about}</p>"
            f'<ul class="key">{key}</ul><div class="cards">{cards}</div>'
            f"{_worst(one, first.score, kept, (test, *others), album)}</section>"
        )
    except (LookupError, TypeError, StopIteration) as error:
        raise ValueError(f"the results of {one.case.backbone} must have all that a page shows; use --force") from error


def _worst(
    one: Answered, score: str, kept: Mapping[str, Mapping[str, NDArray[Any]]], places: Sequence[str], album: Album
) -> str:
    values, whole = kept[score], kept[""]
    entries = {entry.place: entry for entry in one.case.every}
    parts = []
    for place in places:
        inside = place == places[0]
        parts.append(f"<h4>{name_html(place)}: the {'lowest' if inside else 'highest'} {html_text(score)}</h4>")
        source = place.removesuffix(HELD_OUT)
        try:
            image = album.pictures(entries[source].path, source)
            classes = _classes(entries[source])
            shown = [
                figure(
                    image(row := int(whole[f"{place} rows"][at])),
                    [f"{values[place][at]:.4g}", str(whole[f"{place} ids"][at])],
                    about=f'data-item data-class="{html_text(classes(row))}"',
                )
                for at in worst_rows(values[place], WORST, highest=not inside)
            ]
        except (ConfigError, ValueError, OSError) as error:
            if album.named(source.rpartition("/")[0]):
                raise
            parts.append(f"<p>No images: {html_text(str(error))}</p>")
        else:
            parts.append(f'<div class="row">{"".join(shown)}</div>')
    return "".join(parts)


def _classes(entry: Entry) -> Callable[[int], str]:
    """The name of a row's class by its number; empty where it has none."""
    with entry.open() as opened:
        names, labels = opened.class_names, np.array(opened.labels)

    def one(row: int) -> str:
        return names[labels[row]] if labels.ndim == 1 and 0 <= labels[row] < len(names) else ""

    return one


def _number(row: Row) -> str:
    """A value with its interval."""
    ends = interval_of(row)
    return f"{row.value:.3f}" + (f" ({ends})" if ends else "")


def _card(standing: Standing, values: Mapping[str, Floats], test: str, others: Sequence[str]) -> str:
    inside, outside = values[test], {name: values[name] for name in others}
    numbers = "".join(
        f'<div><i class="{_colour(at)}">■</i> {name_html(name)}: AUROC {_number(rows["auroc"])}, '
        f"FPR@95 {_number(rows['fpr_at_95'])}</div>"
        for at, (name, rows) in enumerate((name, standing.rows[name]) for name in others)
    )
    return (
        f"<article data-item><h3>{html_text(standing.score)}</h3><small>{numbers}</small>"
        f'<div class="plots">{_histogram_svg(standing.score, inside, outside)}'
        f"{_roc_svg(standing.score, inside, outside)}</div></article>"
    )


def _histogram_svg(score: str, inside: Floats, outside: Mapping[str, Floats]) -> str:
    edges, own, shares = histogram(inside, outside)
    top = max(float(own.max()), *(float(of.max()) for of in shares.values()))
    x = np.linspace(0, WIDTH, BINS + 1)

    def steps(values: Floats) -> tuple[Floats, Floats]:
        return np.repeat(x, 2)[1:-1], np.repeat(HEIGHT * (1 - values / top), 2)

    return (
        f'<svg viewBox="0 -4 {WIDTH} {HEIGHT + 22}" role="img" aria-label="{html_text(score)}: histograms">'
        f'<polygon class="inside" points="0,{HEIGHT} {_points(*steps(own))} {WIDTH},{HEIGHT}"/>'
        f"{_lines(map(steps, shares.values()))}"
        f'<path class="axis" d="M0 {HEIGHT}H{WIDTH}"/><text x="0" y="{HEIGHT + 14}">{edges[0]:.4g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{edges[-1]:.4g}</text></svg>'
    )


def _roc_svg(score: str, inside: Floats, outside: Mapping[str, Floats]) -> str:
    def curve(values: Floats) -> tuple[Floats, Floats]:
        found, kept = roc_curve(inside, values)
        return found * SIDE, (1 - kept) * SIDE

    return (
        f'<svg viewBox="0 -4 {SIDE} {SIDE + 22}" role="img" aria-label="{html_text(score)}: ROC curves">'
        f'<path class="axis" d="M0 0V{SIDE}H{SIDE}M0 {SIDE}L{SIDE} 0"/>{_lines(map(curve, outside.values()))}'
        f'<text x="{SIDE / 2:g}" y="{SIDE + 14}" text-anchor="middle">kept: others → ID ↑</text></svg>'
    )


def _lines(curves: Iterable[tuple[Floats, Floats]]) -> str:
    return "".join(
        f'<polyline class="curve {_colour(at)}" points="{_points(*curve)}"/>' for at, curve in enumerate(curves)
    )


def _points(x: Floats, y: Floats) -> str:
    """SVG points to half a unit, without those that repeat the one before."""
    grid = np.round(2 * np.stack([x, y], 1)) / 2
    new = np.concatenate([[True], (np.diff(grid, axis=0) != 0).any(1)])
    return " ".join(f"{a:g},{b:g}" for a, b in grid[new].tolist())


def _colour(at: int) -> str:
    return f"s{at % COLOURS}"
