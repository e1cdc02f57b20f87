"""What scores look like: one HTML page that needs no network, with histograms, ROC curves, and the worst images.

Shapes: N in-distribution rows, M others. Scores are higher for in-distribution rows.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.ood.display import Standing, is_random, selection, standings
from featurebank.pipelines.ood.wrong import Album, Picture
from featurebank.pipelines.probing.run import Probed, ProbeReport
from featurebank.pipelines.results import Results
from featurebank.store.text import html_text as escape

__all__ = ["histogram", "render_page", "roc_curve"]

BINS = 48
TAILS = 0.01  # share of a set's rows at each end that the histogram gathers in its outermost bins
WIDTH, HEIGHT, SIDE = 360, 180, 180
COLOURS = 6
Floats = NDArray[np.float64]

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1c1c1f; --faint: #6b6b73; --line: #d9d9de; --id: #8b93a3;
  --c0: #c8431f; --c1: #1f6fb8; --c2: #17835a; --c3: #9a4fb3; --c4: #a87400; --c5: #0e8a94; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #17181b; --ink: #e9e9ec; --faint: #a0a1aa; --line: #3a3b42; --id: #70798a;
    --c0: #ff8a66; --c1: #6db5f5; --c2: #5fcf9d; --c3: #d596ec; --c4: #e8b94d; --c5: #58cdd8; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 80rem;
  background: var(--ground); color: var(--ink); }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 0; }
p, small { color: var(--faint); margin: .2rem 0; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
a { color: inherit; }
section { border-top: 2px solid var(--line); padding: 1.2rem 0; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; padding: 0; margin: .5rem 0 1rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(34rem, 100%), 1fr)); gap: 1rem; }
article { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; min-width: 0; }
.plots { display: flex; gap: .8rem; }
.plots svg:first-child { flex: 2 1 0; } .plots svg { flex: 1 1 0; min-width: 0; height: auto; }
svg { overflow: visible; } svg text { font-size: 11px; fill: var(--faint); }
.axis { stroke: var(--line); fill: none; } .in { fill: var(--id); fill-opacity: .55; }
.out { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
h4 { font-size: .95rem; margin: 1.2rem 0 .3rem; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; } figure { margin: 0; width: 96px; font-size: .75rem; }
figure img { width: 96px; height: 96px; object-fit: contain; background: var(--line); }
figcaption { overflow-wrap: anywhere; color: var(--faint); }
""".strip()


def render_page(report: ProbeReport, results: Results, album: Album) -> str:
    """The page as HTML: a section for each backbone, its scores with the greatest mean AUROC first.

    Below them are the images that the first score has most wrongly, or why they cannot be shown.

    Args:
        report: of an ood run.
        results: where the scores of each row are kept.
        album: where images are found.

    Raises:
        ConfigError: images that were named cannot be opened.
        ValueError: kept scores are gone or damaged.
    """
    done = [one for one in report.probed if one.result is not None]
    best = standings(done)
    first = {one.backbone: one for one in reversed(best)}
    order = sorted(done, key=lambda one: -first[one.backbone].mean)
    title = f"Out of distribution: {', '.join(dict.fromkeys(one.test for one in done))}"
    rows = "".join(_summary(first[one.backbone], index) for index, one in enumerate(order))
    sections = "\n".join(_section(one, results, album, index) for index, one in enumerate(order))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1>"
        "<p>Each score is higher for rows that are more like the train rows. Histograms show the share of each set's "
        "rows; the last 1 % at either end stand in the outermost bars.</p>"
        f"<p>{escape(selection(best)) if len(best) > 1 else ''}</p>"
        "<table><tr><th>backbone<th>head<th>ID accuracy<th>best score<th>mean AUROC</tr>"
        f"{rows}</table></header>\n{sections}\n</body></html>\n"
    )


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


def _summary(one: Standing, index: int) -> str:
    return (
        f'<tr><td><a href="#b{index}">{escape(_name(one.backbone))}</a><td>{escape(one.head or "none")}'
        f"<td>{_accuracy(one)}<td>{escape(one.score)}<td>{one.mean:.3f}</tr>"
    )


def _section(one: Probed, results: Results, album: Album, index: int) -> str:
    try:
        return _backbone(one, results, album, index)
    except (LookupError, TypeError, StopIteration) as error:
        raise ValueError(f"the results of {one.backbone} must have all that a page shows; use --force") from error


def _backbone(one: Probed, results: Results, album: Album, index: int) -> str:
    ranked = standings([one])
    assert one.result is not None  # noqa: S101 - only results are shown
    kept = results.arrays(one.result)
    others = [name for name in ranked[0].rows if f"{name} ids" in kept]
    key = f'<li><i style="background: var(--id)"></i>{escape(one.test)} (in distribution)'
    key += "".join(f'<li><i style="background: {_colour(at)}"></i>{escape(name)}' for at, name in enumerate(others))
    cards = "\n".join(_card(standing, kept, one.test, others) for standing in ranked)
    return (
        f'<section id="b{index}"><h2>{escape(_name(one.backbone))}</h2>'
        f"<p>{escape(one.train)} → {escape(one.test)}; head: {escape(ranked[0].head or 'none')}; "
        f"ID accuracy: {_accuracy(ranked[0])}</p>"
        f'<ul class="key">{key}</ul><div class="cards">{cards}</div>'
        f"{_worst(ranked[0], kept, one, others, album)}</section>"
    )


def _worst(
    standing: Standing, kept: Mapping[str, NDArray[Any]], one: Probed, others: Sequence[str], album: Album
) -> str:
    assert one.result is not None  # noqa: S101 - only results are shown
    parts = []
    for name in (one.test, *others):
        end = "lowest" if name == one.test else "highest"
        heading = f"<h4>{escape(name)}: the {end} {escape(standing.score)}</h4>"
        try:
            found = album.pictures(one.result.rows[0], kept, standing.score, name, highest=name != one.test)
        except (ConfigError, ValueError, OSError) as error:
            if album.named(name):
                raise
            parts.append(f"{heading}<p>No images: {escape(str(error))}</p>")
        else:
            parts.append(f'{heading}<div class="row">{"".join(map(_figure, found))}</div>')
    return "".join(parts)


def _figure(picture: Picture) -> str:
    kind = "png" if picture.image.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(picture.image).decode("ascii")
    return (
        f'<figure><img src="data:image/{kind};base64,{data}" alt="{escape(picture.name)}">'
        f"<figcaption>{picture.score:.4g}<br>{escape(picture.name)}</figcaption></figure>"
    )


def _card(standing: Standing, kept: Mapping[str, NDArray[Any]], test: str, others: Sequence[str]) -> str:
    inside = kept[f"{test} {standing.score}"]
    outside = {name: kept[f"{name} {standing.score}"] for name in others}
    numbers = "".join(
        f'<div><i style="color: {_colour(at)}">■</i> {escape(name)}: AUROC {rows["auroc"].value:.3f}, '
        f"FPR@95 {rows['fpr_at_95'].value:.3f}</div>"
        for at, (name, rows) in enumerate((name, standing.rows[name]) for name in others)
    )
    return (
        f"<article><h3>{escape(standing.score)}</h3><small>{numbers}</small>"
        f'<div class="plots">{_histogram_svg(standing.score, inside, outside)}'
        f"{_roc_svg(standing.score, inside, outside)}"
        "</div></article>"
    )


def _histogram_svg(score: str, inside: Floats, outside: Mapping[str, Floats]) -> str:
    edges, own, shares = histogram(inside, outside)
    top = max(float(own.max()), *(float(of.max()) for of in shares.values()))
    x = np.linspace(0, WIDTH, BINS + 1)

    def steps(values: Floats) -> tuple[Floats, Floats]:
        return np.repeat(x, 2)[1:-1], np.repeat(HEIGHT * (1 - values / top), 2)

    return (
        f'<svg viewBox="0 -4 {WIDTH} {HEIGHT + 22}" role="img" aria-label="{escape(score)}: histograms">'
        f'<polygon class="in" points="0,{HEIGHT} {_points(*steps(own))} {WIDTH},{HEIGHT}"/>'
        f"{_lines(map(steps, shares.values()))}"
        f'<path class="axis" d="M0 {HEIGHT}H{WIDTH}"/><text x="0" y="{HEIGHT + 14}">{edges[0]:.4g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{edges[-1]:.4g}</text></svg>'
    )


def _roc_svg(score: str, inside: Floats, outside: Mapping[str, Floats]) -> str:
    def curve(values: Floats) -> tuple[Floats, Floats]:
        found, kept = roc_curve(inside, values)
        return found * SIDE, (1 - kept) * SIDE

    return (
        f'<svg viewBox="0 -4 {SIDE} {SIDE + 22}" role="img" aria-label="{escape(score)}: ROC curves">'
        f'<path class="axis" d="M0 0V{SIDE}H{SIDE}M0 {SIDE}L{SIDE} 0"/>{_lines(map(curve, outside.values()))}'
        f'<text x="{SIDE / 2:g}" y="{SIDE + 14}" text-anchor="middle">kept: others → ID ↑</text></svg>'
    )


def _lines(curves: Iterable[tuple[Floats, Floats]]) -> str:
    return "".join(
        f'<polyline class="out" style="stroke: {_colour(at)}" points="{_points(*curve)}"/>'
        for at, curve in enumerate(curves)
    )


def _points(x: Floats, y: Floats) -> str:
    """SVG points to half a unit, without those that repeat the one before."""
    grid = np.round(2 * np.stack([x, y], 1)) / 2
    new = np.concatenate([[True], (np.diff(grid, axis=0) != 0).any(1)])
    return " ".join(f"{a:g},{b:g}" for a, b in grid[new].tolist())


def _colour(at: int) -> str:
    return f"var(--c{at % COLOURS})"


def _name(backbone: str) -> str:
    return f"{backbone} (random weights)" if is_random(backbone) else backbone


def _accuracy(one: Standing) -> str:
    return "none" if one.accuracy is None else f"{one.accuracy.value:.3f}"
