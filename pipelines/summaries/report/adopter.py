"""What who wants an answer wants to know: which backbone, how sure, what it costs, and how to get it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.option import flag_of, options_of
from featurebank.pipelines.asking.page import name_html, sheet_html, table_html
from featurebank.pipelines.asking.register import find_question
from featurebank.pipelines.asking.results import Row
from featurebank.pipelines.asking.sheet import Cell, Sheet, interval_line, interval_of
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.keeping.inspection import size_text
from featurebank.pipelines.summaries.facts import Facts
from featurebank.pipelines.summaries.report.board import Board, called
from featurebank.pipelines.summaries.report.holdings import Holdings
from featurebank.pipelines.summaries.report.pictures import Point, scatter_svg
from featurebank.pipelines.summaries.report.prices import Price
from featurebank.store.errors import UnknownNameError
from featurebank.store.text import html_text

__all__ = ["again_section", "answer_section", "backbones_section", "costs_section"]

TIED = "≈"


def answer_section(board: Board | None, prices: Sequence[Price], backbones: Sequence[str]) -> str:
    """The leaderboard of one question, beside it its numbers against what matters most of the costs."""
    if board is None:
        about = "No question was asked yet: <code>featurebank probe DATASET --store STORE</code> does."
        return f'<section id="answer"><h2>Leaderboard</h2><p>{about}</p></section>'
    several = len(board.lines) > len(board.single)
    way = dict.fromkeys(filter(None, (board.setting.train, board.setting.set)))
    names = ("backbone", "result") if several else ("backbone",)
    lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = []
    for line in board.lines:
        row = line.row
        what = (row.backbone, row.result[:8]) if several else (row.backbone,)
        lines.append((what, (row, *(price.shown(row.backbone) for price in prices))))
    sheet = Sheet(
        title=f"{called(board.best.row)}: {' -> '.join(way)}",
        names=names,
        columns=(metric(board.setting.metric).title, *(price.title.replace(" ", "\n", 1) for price in prices)),
        lines=lines,
        marked=frozenset((at, 0) for at, line in enumerate(board.lines) if line.tied),
    )
    if said := interval_line(sheet):
        sheet.notes.append(said)
    if any(line.tied for line in board.lines):
        by = (
            "by a paired test at .05 where one was asked, else as intervals overlap"
            if board.paired
            else "intervals overlap"
        )
        sheet.notes.append(f"{TIED} not told apart from the best: {by}")
    items = [f'data-item data-b="{backbones.index(line.row.backbone)}"' for line in board.lines]
    table = sheet_html(sheet, lines=items, mark=TIED, kind="wide", csv="leaderboard.csv")
    picture = _scatter(board, prices[0], backbones) if prices else ""
    return f'<section id="answer"><h2>Leaderboard</h2><div class="beside"><div>{table}</div>{picture}</div></section>'


def costs_section(board: Board | None, prices: Sequence[Price], backbones: Sequence[str]) -> str:
    """The other costs, a picture each, and what measures more."""
    more = "<p><code>featurebank efficiency BACKBONE…</code> counts multiply-adds, and times networks.</p>"
    if board is None:
        return ""
    pictures = "".join(_scatter(board, price, backbones) for price in prices[1:])
    measured = "" if any(price.name == "latency_p50" for price in prices) else more
    if not pictures and not measured:
        return ""
    return f'<section id="costs"><h2>Cost</h2>{measured}<div class="row">{pictures}</div></section>'


def backbones_section(holdings: Holdings, facts: Mapping[str, Facts], prices: Sequence[Price]) -> str:
    """What is known of each backbone; filters read it here."""
    if not holdings.backbones:
        return ""
    heads = '<th class="name" scope="col">backbone</th>'
    told = {"architecture": "architecture", "style": "trained", "data": "on", "licence": "licence"}
    told = {name: title for name, title in told.items() if any(getattr(one, name) for one in facts.values())}
    for name in told.values():
        heads += f'<th class="name" scope="col">{name}</th>'
    for title in ("px", *(price.title for price in prices), "sets", "bytes"):
        heads += f'<th scope="col">{html_text(title)}</th>'
    parameters = next((price for price in prices if price.name == "parameters"), None)
    lines = []
    for at, name in enumerate(holdings.backbones):
        known, own = facts[name], [held for held in holdings.sets if held.entry.name == name]
        cells = "".join(f'<td class="text">{name_html(getattr(known, fact))}</td>' for fact in told)
        cells += f"<td>{known.px or ''}</td>"
        for price in prices:
            value = price.values.get(name)
            cells += "<td></td>" if value is None else f'<td data-v="{value!r}">{price.shown(name)}</td>'
        size = sum(held.entry.nbytes for held in own)
        cells += f'<td>{len(own)}</td><td data-v="{size}">{size_text(size)}</td>'
        millions = "" if parameters is None or name not in parameters.values else f"{parameters.values[name] / 1e6:.3f}"
        about = {
            "family": _family(known.architecture),
            "style": known.style,
            "licence": known.licence,
            "parameters": millions,
        }
        data = "".join(f' data-{key}="{html_text(value)}"' for key, value in about.items())
        lines.append(f'<tr id="b{at}" data-item data-b="{at}"{data}><th scope="row">{name_html(name)}</th>{cells}</tr>')
    caption = f"{len(lines):,} backbones" if len(lines) > 1 else "1 backbone"
    table = table_html(caption, heads, lines, called=caption, kind="tall dense", csv="backbones.csv")
    notes = "".join(f"<li>{html_text(f'{price.title}: {price.about}')}</li>" for price in prices)
    return f'<section id="backbones"><h2>Backbones</h2>{table}<ul class="notes">{notes}</ul></section>'


def again_section(board: Board | None, prices: Sequence[Price], holdings: Holdings) -> str:
    """The command and the lines of Python behind the best number, and behind the cheapest that is not told apart."""
    if board is None:
        return ""
    rows = [board.best.row]
    if prices and (cheap := board.cheapest(prices[0])) is not None:
        rows.append(cheap.row)
    store = holdings.root.resolve().name or "."
    parts = []
    for row in rows:
        value = metric(row.metric).shown(row.value)
        title = name_html(f"{row.backbone}: {value}")
        command = _command(row, holdings, store)
        asked = f'<pre tabindex="0"><code data-copy>{html_text(command)}</code></pre>' if command else ""
        parts.append(f'<h3>{title}</h3>{asked}<pre tabindex="0"><code data-copy>{_python(row, store)}</code></pre>')
    about = f"In the folder that has the store {store}. What is known is read, not computed again; --force computes it."
    return f'<section id="again"><h2>Again</h2><p>{html_text(about)}</p>{"".join(parts)}</section>'


def _scatter(board: Board, price: Price, backbones: Sequence[str]) -> str:
    of, front, points = metric(board.setting.metric), board.front(price), []
    for name, line in board.single.items():
        value, row = price.values.get(name), line.row
        if value is None or value <= 0:
            continue
        x = value / 1e6 if price.name == "parameters" else value
        ends = f" ({interval_of(row)})" if row.low is not None else ""
        points.append(
            Point(
                name=name,
                number=backbones.index(name),
                x=x,
                y=row.value,
                low=row.low,
                high=row.high,
                said=f"{of.shown(row.value)}{ends}, {price.shown(name)} {price.title}",
                front=name in front,
            )
        )
    if not points:
        return ""
    title = f"{of.title} against {price.title}"
    drawn = scatter_svg(points, price.title, of.title, higher=of.direction == "higher")
    about = (
        f"{price.about[0].upper()}{price.about[1:]}. Dashed: nothing else is better in both; filled and named on it."
    )
    return f'<div class="picture"><h3>{html_text(title)}</h3>{drawn}<p>{html_text(about)}</p></div>'


def _family(architecture: str) -> str:
    """The word that an architecture's name begins with, of all its versions and sizes.

    >>> _family("tf_efficientnet_lite0"), _family("swinv2_base_window16_256"), _family("")
    ('efficientnet', 'swin', '')
    """
    match = re.match(r"[a-z]+", architecture.removeprefix("tf_"), re.IGNORECASE)
    return match[0].removesuffix("v") if match else ""


def _command(row: Row, holdings: Holdings, store: str) -> str:
    """What asks for a number; empty where no single command does, or the question is not installed."""
    try:
        question = find_question(row.question)
        default = question.of({}).settings()
    except (ConfigError, UnknownNameError):
        return ""
    settings = holdings.result_of[row.result].settings if row.result in holdings.result_of else {}
    words = ["featurebank", row.question, _key(row.train, row.test), "--backbone", row.backbone]
    for name in options_of(question):
        value = settings.get(name, default.get(name))
        if name != question.methods and value != default.get(name):
            for one in value if isinstance(value, list) else (value,):
                words += [flag_of(question, name), *([] if one is True else [str(one)])]
    for place in dict.fromkeys((row.train, row.test)):
        helds = [held for held in holdings.matrix.get((row.backbone, place), ()) if held.state == "sealed"]
        if len(helds) > 1:
            mine = (held.entry.fingerprint for held in helds if held.entry.fingerprint in row.fingerprints)
            words += [word for one in mine for word in ("--fingerprint", one[:16])]
    return shlex.join([*words, "--store", store])


def _key(train: str, test: str) -> str:
    """The sets as a KEY."""
    if not train or train == test:
        return test
    dataset, _, split = train.rpartition("/")
    other, _, scored = test.rpartition("/")
    return f"{dataset}/{split}:{scored}" if dataset == other else f"{train}:{test}"


def _python(row: Row, store: str) -> str:
    """Lines that print the number again, from what was predicted for each row where that makes it."""
    lines = [
        "from pathlib import Path",
        "from featurebank.pipelines.asking.results import Results",
        "from featurebank.store import FeatureStore",
        f"results = Results(Path({store!r}))",
        f"row = next(one for one in results.rows() if one.result == {row.result!r} and one.metric == {row.metric!r})",
        f"features = [FeatureStore({store!r}).by_fingerprint(one) for one in row.fingerprints]",
        "print(row.value, row.low, row.high, [one.outputs for one in features])",
    ]
    if row.metric == "accuracy" and not row.shots and not row.score and row.set == row.test:
        lines += ["kept = results.arrays(row)", 'print((kept["predictions"] == kept["labels"]).mean())']
    return "\n".join(map(html_text, lines))
