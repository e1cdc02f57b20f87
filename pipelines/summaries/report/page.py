"""The page: the answer on its first screen, then what each of its three readers looks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from featurebank.pipelines.asking.images import Album
from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.page import Frame, document, filter_form
from featurebank.pipelines.asking.sheet import interval_of
from featurebank.pipelines.keeping.inspection import size_text
from featurebank.pipelines.summaries.facts import facts_of
from featurebank.pipelines.summaries.rank_sheets import answer as ranked_answer
from featurebank.pipelines.summaries.rank_sheets import counted
from featurebank.pipelines.summaries.report import adopter, researcher, runner, shown
from featurebank.pipelines.summaries.report.board import Board, boards_of
from featurebank.pipelines.summaries.report.holdings import Holdings
from featurebank.pipelines.summaries.report.mistakes import mistakes_section
from featurebank.pipelines.summaries.report.prices import Price, prices_of
from featurebank.store.text import html_text

__all__ = ["Drawn", "report_page"]

PARTS = {
    "answer": "Leaderboard",
    "costs": "Cost",
    "mistakes": "Worst mistakes",
    "again": "Again",
    "backbones": "Backbones",
    "questions": "Every question",
    "labels": "Few labels",
    "reliability": "Reliability",
    "outsiders": "Outsiders",
    "training": "Training",
    "ranks": "Ranks",
    "tests": "Paired tests",
    "numbers": "Every number",
    "coverage": "Coverage",
    "failures": "Failed rows",
    "made": "Time, bytes, versions",
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A page and its first sentence.

    Attributes:
        html: the page.
        answer: who is best, in words.
    """

    html: str
    answer: str


def report_page(holdings: Holdings, album: Album) -> Drawn:
    """Everything that a store holds as one page; of the same store the same bytes.

    Raises:
        ConfigError: images that were named cannot be opened.
        ValueError: an image is not the one that the features were made from.
    """
    facts = {name: facts_of(name) for name in holdings.backbones}
    prices = prices_of(holdings, facts)
    boards = boards_of(holdings.rows)
    board = boards[0] if boards else None
    if board is not None:
        prices.sort(key=lambda price: -len(price.values.keys() & board.single.keys()))
    ranked = researcher.ranking(holdings.computations)
    price = prices[0] if prices else None
    lead = "No question was asked of this store yet." if board is None else board.answer(price)
    if not isinstance(ranked, str) and len(ranked.table.settings) > 1:
        lead += f" Over everything, {ranked_answer(ranked)}"
    names = holdings.backbones
    sections = [
        adopter.answer_section(board, prices, names),
        adopter.costs_section(board, prices, names),
        mistakes_section(board, holdings, album),
        adopter.again_section(board, prices, holdings),
        adopter.backbones_section(holdings, facts, prices),
        researcher.questions_sheet(boards, names),
        researcher.few_labels(boards),
        shown.reliability(board, holdings),
        shown.outsiders(holdings, album),
        shown.training(holdings),
        researcher.ranked_section(ranked),
        researcher.comparisons(holdings.rows),
        researcher.numbers(holdings),
        runner.coverage(holdings),
        runner.failures(holdings, album),
        runner.made_with(holdings),
    ]
    sections = [section for section in sections if section]
    parts = {
        anchor: name for anchor, name in PARTS.items() if any(f'<section id="{anchor}"' in one for one in sections)
    }
    frame = Frame(parts=parts, top=_tiles(holdings, board, price) + filter_form(sections), footer=_footer(sections))
    title = holdings.root.resolve().name or "features"
    return Drawn(html=document(title, lead, sections, frame=frame, live=True), answer=lead)


def _tiles(holdings: Holdings, board: Board | None, price: Price | None) -> str:
    wanted = holdings.wanted
    sealed = sum(holdings.state_of(cell) == "sealed" for cell in wanted)
    failed = sum(len(held.failures) for held in holdings.sealed)
    tiles = [
        (
            f"{sealed:,} of {len(wanted):,} sets sealed",
            f"{counted(failed, 'failed row') if failed else 'no failed rows'}; "
            f"{counted(len(holdings.places), 'split')}, {size_text(sum(held.entry.nbytes for held in holdings.sets))}",
        ),
        _best(board, price),
        _made(holdings),
    ]
    items = "".join(f"<li><b>{html_text(what)}</b><small>{html_text(about)}</small></li>" for what, about in tiles)
    return f'<ul class="tiles">{items}</ul>'


def _best(board: Board | None, price: Price | None) -> tuple[str, str]:
    if board is None:
        return "no numbers yet", "featurebank probe DATASET asks the first questions"
    row = board.best.row
    ends = f" ({interval_of(row)})" if row.low is not None else ""
    best = f"{row.backbone} {metric(row.metric).shown(row.value)}{ends}"
    if price is None:
        return best, "what it costs is not known: featurebank efficiency"
    cheap = board.cheapest(price)
    if len(board.single) < 2:
        return best, "no other backbone was asked"
    if cheap is None:
        return best, f"nothing cheaper ({price.title}) is as good, as far as can be told"
    name, value = cheap.row.backbone, metric(cheap.row.metric).shown(cheap.row.value)
    costs = f"{price.shown(name)} for {price.shown(row.backbone)} {price.title}"
    return best, f"cheapest not told apart: {name} {value}, {costs}"


def _made(holdings: Holdings) -> tuple[str, str]:
    dates = sorted({held.entry.sealed_at[:10] for held in holdings.sealed if held.entry.sealed_at})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "made at an unknown time"
    devices = Counter(held.device for held in holdings.sealed if held.device)
    versions = Counter(
        f"{name} {held.versions[name]}"
        for held in holdings.sealed
        for name in ("featurebank", "torch")
        if name in held.versions
    )
    said = [name for name, _ in devices.most_common(2)] + sorted(name for name, _ in versions.most_common(3))
    return when, ", ".join(said) or "with what was not noted"


def _footer(sections: Sequence[str]) -> str:
    images = [part.partition('"')[0] for section in sections for part in section.split('src="data:image/')[1:]]
    pictures = f"{counted(len(images), 'thumbnail')} of {size_text(sum(map(len, images)))}; " if images else ""
    return f"<p>{pictures}nothing on this page is asked of a server.</p>"
