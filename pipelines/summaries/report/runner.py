"""What who ran the batch wants to know: what is there, what failed, how long it took, and what made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from featurebank.pipelines.asking.images import Album
from featurebank.pipelines.asking.page import figure, name_html, table_html
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.keeping.inspection import size_text
from featurebank.pipelines.summaries.rank_sheets import counted
from featurebank.pipelines.summaries.report.holdings import Failure, Held, Holdings
from featurebank.pipelines.summaries.report.pictures import bar_svg, colour_key
from featurebank.store.text import html_text

__all__ = ["coverage", "failures", "made_with"]

SIGNS = {"sealed": "●", "partial": "◐", "damaged": "✗", "unreadable": "?", "missing": "·"}
KINDS = {"unreadable": "damaged"}  # which colour a state shares
MOST_LINES = 2000
MOST_IMAGES = 24


def coverage(holdings: Holdings) -> str:
    """Backbones by datasets: sealed, partial, damaged, missing."""
    if not holdings.sets:
        about = "The store has no feature sets yet: <code>featurebank features CONFIG --store STORE</code> makes them."
        return f'<section id="coverage"><h2>Coverage</h2><p>{about}</p></section>'
    names = sorted({name for name, _ in holdings.wanted})
    heads = '<th class="name" scope="col">backbone</th>'
    heads += "".join(f'<th scope="col">{name_html(place)}</th>' for place in holdings.places)
    wanted = {*holdings.wanted}
    lines = []
    for name in names:
        cells = "".join(
            _cell(holdings, (name, place)) if (name, place) in wanted else "<td></td>" for place in holdings.places
        )
        number = holdings.backbones.index(name)
        lines.append(f'<tr data-item data-b="{number}"><th scope="row">{name_html(name)}</th>{cells}</tr>')
    counts = Counter(holdings.state_of(cell) for cell in holdings.wanted)
    said = ", ".join(f"{SIGNS[state]} {counts[state]:,} {state}" for state in SIGNS if counts[state])
    caption = f"{counted(len(names), 'backbone')} on {counted(len(holdings.places), 'split')}"
    table = table_html(caption, heads, lines, called=caption, kind="states tall", sort=False)
    troubled = [held for held in holdings.sets if held.trouble]
    troubles = "".join(
        f'<li class="failed">{html_text(f"{held.entry.name} on {held.entry.place}: {held.trouble}")}</li>'
        for held in troubled
    )
    listed = f'<ul class="notes">{troubles}</ul>' if troubles else ""
    return f'<section id="coverage"><h2>Coverage</h2><p>{html_text(said)}.</p>{table}{listed}</section>'


def failures(holdings: Holdings, album: Album) -> str:
    """Rows that failed, why and for which backbones, with their images where these can be opened."""
    of: dict[Failure, list[Held]] = {}
    for held in holdings.sealed:
        for one in held.failures:
            of.setdefault(one, []).append(held)
    if not of:
        return '<section id="failures"><h2>Failed rows</h2><p>None.</p></section>'
    lines = []
    for one, helds in list(of.items())[:MOST_LINES]:
        names = ", ".join(held.entry.name for held in helds)
        lines.append(
            f'<tr data-item><th scope="row">{name_html(one.place)}</th><td data-v="{one.row}">{one.row:,}</td>'
            f'<td class="text">{name_html(one.id)}</td><td class="text">{html_text(one.reason)}</td>'
            f'<td class="text">{name_html(names)}</td></tr>'
        )
    heads = "".join(
        f'<th class="name" scope="col">{name}</th>' for name in ("set", "row", "image", "reason", "backbones")
    )
    rows = {(one.place, one.row) for one in of}
    caption = f"{counted(len(rows), 'row')} of {counted(len({place for place, _ in rows}), 'set')}"
    more = f"<p>{len(of) - MOST_LINES:,} more are not listed.</p>" if len(of) > MOST_LINES else ""
    table = table_html(caption, heads, lines, called=caption, kind="tall", csv="failures.csv")
    pictures = _pictures([(one, helds[0]) for one, helds in of.items()], album)
    return f'<section id="failures"><h2>Failed rows</h2>{table}{more}{pictures}</section>'


def made_with(holdings: Holdings) -> str:
    """Seconds by stage, bytes, devices and versions."""
    if not holdings.sealed:
        return ""
    stages = [*dict.fromkeys(stage for held in holdings.sealed for stage in held.seconds)]
    most = max(held.total for held in holdings.sealed)
    heads = "".join(f'<th class="name" scope="col">{name}</th>' for name in ("backbone", "set"))
    for title in ("rows", "failed", "bytes", *(f"{stage}, s" for stage in stages), "where time went", "images/s"):
        heads += f'<th scope="col">{html_text(title)}</th>'
    heads += '<th class="name" scope="col">device</th><th class="name" scope="col">fingerprint</th>'
    shown = holdings.sealed[:MOST_LINES]
    lines = [_set_line(holdings, held, stages, most) for held in shown]
    total = sum(held.entry.nbytes for held in holdings.sets)
    caption = f"{counted(len(holdings.sealed), 'sealed set')}, {size_text(total)} on disk"
    left = len(holdings.sealed) - len(shown)
    more = f"<p>{left:,} further sets are not listed: <code>featurebank ls</code>.</p>" if left else ""
    table = table_html(caption, heads, lines, called=caption, kind="tall dense", csv="sets.csv")
    return (
        f'<section id="made"><h2>Time, bytes, versions</h2><p>Seconds that each stage was busy; backbones that were '
        f"extracted together share them.</p>{colour_key(stages)}{table}{more}{_versions(holdings.sealed)}</section>"
    )


def _cell(holdings: Holdings, cell: tuple[str, str]) -> str:
    helds, state = holdings.matrix.get(cell, []), holdings.state_of(cell)
    kind, text = KINDS.get(state, state), SIGNS[state]
    failed = sum(len(held.failures) for held in helds)
    if state == "partial":
        done, rows = (max(getattr(held.entry, name) for held in helds) for name in ("n_done", "n_rows"))
        text += f" {100 * done / max(rows, 1):.0f} %"
    if failed:
        text += f" {failed:,} failed"
    if len(helds) > 1:
        text += f" ({len(helds)} sets)"
    said = "; ".join(f"{held.state}, {held.entry.n_rows:,} rows, {held.entry.fingerprint[:16]}" for held in helds)
    return f'<td class="{kind}" title="{html_text(said or state)}">{text}</td>'


def _set_line(holdings: Holdings, held: Held, stages: Sequence[str], most: float) -> str:
    entry = held.entry
    cells = f'<td data-v="{entry.n_rows}">{entry.n_rows:,}</td><td>{len(held.failures) or ""}</td>'
    cells += f'<td data-v="{entry.nbytes}">{size_text(entry.nbytes)}</td>'
    for stage in stages:
        value = held.seconds.get(stage)
        cells += "<td></td>" if value is None else f'<td data-v="{value!r}">{value:,.1f}</td>'
    speed = held.images_per_second
    cells += f'<td data-v="{held.total!r}">{bar_svg(held.seconds, most, stages)}</td>'
    cells += "<td></td>" if speed is None else f'<td data-v="{speed!r}">{speed:,.0f}</td>'
    device = ", ".join(filter(None, (held.device, held.precision)))
    return (
        f'<tr data-item data-b="{holdings.backbones.index(entry.name)}"><th scope="row">{name_html(entry.name)}</th>'
        f'<td class="text">{name_html(entry.place)}</td>{cells}<td class="text">{html_text(device)}</td>'
        f'<td class="text" data-text="{html_text(entry.fingerprint)}"><code title="{html_text(entry.fingerprint)}">'
        f"{html_text(entry.fingerprint[:16])}</code></td></tr>"
    )


def _versions(sealed: Sequence[Held]) -> str:
    """Each library's versions; several of one are told apart by how many sets they made."""
    of: dict[str, Counter[str]] = {}
    for held in sealed:
        for library, version in held.versions.items():
            of.setdefault(library, Counter())[version] += 1
    lines = []
    for library, versions in sorted(of.items()):
        several = len(versions) > 1
        text = ", ".join(
            f"{one} ({counted(count, 'set')})" if several else one for one, count in sorted(versions.items())
        )
        lines.append(f'<tr><th scope="row">{html_text(library)}</th><td class="text">{html_text(text)}</td></tr>')
    heads = '<th class="name" scope="col">library</th><th class="name" scope="col">version</th>'
    table = table_html("Versions", heads, lines, called="Versions", csv="versions.csv")
    return f"<details><summary>Versions of {len(of):,} libraries</summary>{table}</details>" if of else ""


def _pictures(failed: Sequence[tuple[Failure, Held]], album: Album) -> str:
    """Thumbnails of some, and for each set without them why."""
    shown, lacking = [], {}
    for one, held in failed[:MOST_IMAGES]:
        if one.place in lacking:
            continue
        try:
            image = album.thumbnails(held.entry.path, one.place)
        except (ConfigError, ValueError, OSError) as error:
            lacking[one.place] = str(error)
            continue
        try:
            shown.append(figure(image(one.row), [one.reason, one.id], kind="wrong"))
        except Exception as error:  # what cannot be decoded is why it stands here
            lacking[f"{one.place} {one.id}"] = str(error)
    notes = "".join(f"<li>{html_text(f'no image of {place}: {why}')}</li>" for place, why in lacking.items())
    figures = f'<div class="row">{"".join(shown)}</div>' if shown else ""
    return figures + (f'<ul class="notes">{notes}</ul>' if notes else "")
