"""What who studies the numbers wants to know: all of them, how sure they are, how they compare, what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.page import name_html, sheet_html, table_html
from featurebank.pipelines.asking.results import Result, Row
from featurebank.pipelines.asking.sheet import Cell, Sheet, interval_line, interval_of
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.questions.ood.published import published
from featurebank.pipelines.questions.ood.standings import GROUPS
from featurebank.pipelines.summaries import rank_page
from featurebank.pipelines.summaries.rank_sheets import answer, counted
from featurebank.pipelines.summaries.rank_table import DERIVED, Chosen, labels_of, rank_table
from featurebank.pipelines.summaries.report.board import Board
from featurebank.pipelines.summaries.report.holdings import Holdings
from featurebank.pipelines.summaries.report.pictures import colour_key, curves_svg
from featurebank.pipelines.summaries.standings import SIGNIFICANT, Standings, Way, standings
from featurebank.store.text import html_text

__all__ = ["comparisons", "few_labels", "numbers", "questions_sheet", "ranked_section", "ranking"]

MOST_COLUMNS = 8
MOST_NUMBERS = 5000
MOST_CURVES = 8
COLUMNS = ("question", "metric", "set", "train", "score", "shots", "group")


def ranking(computations: Sequence[Result]) -> Standings | str:
    """The standings over all results, or why there are none; where numbers are missing, of the part that has most."""
    why = ""
    found: list[Standings] = []
    for common in (None, "settings", "backbones"):
        try:
            found.append(standings(rank_table(computations, Chosen(common=common)), Way()))
        except ConfigError as error:
            why = why or str(error)
        if found and common is None:
            break
    return max(found, key=lambda one: one.table.gains.size) if found else why


def ranked_section(ranked: Standings | str) -> str:
    """Places, tests and correlations, as the page of ``featurebank rank`` has them."""
    if isinstance(ranked, str):
        about = "A ranking needs one number of each backbone in each setting; <code>featurebank rank</code> says:"
        return f'<section id="ranks"><h2>Ranks</h2><p>{about}</p><pre tabindex="0">{_lines(ranked)}</pre></section>'
    parts = "".join(rank_page.sections(ranked))
    return f'<section id="ranks"><h2>Ranks over everything</h2><p>{html_text(answer(ranked))}</p></section>{parts}'


def questions_sheet(boards: Sequence[Board], backbones: Sequence[str]) -> str:
    """A line for each backbone, a column for each question and set."""
    plain = [board for board in boards if not (board.setting.score or board.setting.group)] or [*boards]
    shown = plain[:MOST_COLUMNS]
    if len(shown) < 2:
        return ""
    names = [name for name in backbones if any(name in board.single for board in shown)]
    lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = [
        ((name,), tuple(_only(board, name) for board in shown)) for name in names
    ]
    columns = [label.replace(" ", "\n") for label in labels_of([board.setting for board in shown])]
    marked = frozenset(
        (at, column)
        for at, name in enumerate(names)
        for column, board in enumerate(shown)
        if name in board.single and board.single[name].tied
    )
    sheet = Sheet(title="Numbers by question", names=("backbone",), columns=columns, lines=lines, marked=marked)
    if said := interval_line(sheet):
        sheet.notes.append(said)
    if len(shown) < len(boards):
        sheet.notes.append(f"{len(boards) - len(shown):,} further settings are among the numbers below")
    items = [f'data-item data-b="{backbones.index(name)}"' for name in names]
    return f'<section id="questions"><h2>Every question</h2>{sheet_html(sheet, lines=items, mark="≈")}</section>'


def few_labels(boards: Sequence[Board]) -> str:
    """Accuracy over the number of labels, a picture for each set and metric."""
    of: dict[tuple[str, str, str], list[Board]] = {}
    for board in boards:
        setting = board.setting
        if setting.shots.isdigit() and not setting.score and not setting.group:
            of.setdefault((setting.question, setting.set, setting.metric), []).append(board)
    parts = []
    for (question, place, name), some in sorted(of.items()):
        if len(some) < 2:
            continue
        curves: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
        for board in some:
            for backbone, line in board.single.items():
                row = line.row
                curves.setdefault(backbone, []).append((float(row.shots), row.value, row.low, row.high))
        drawn = dict(sorted(curves.items())[:MOST_CURVES])
        title = name_html(f"{question}: {place}")
        picture = curves_svg(drawn, ("labels of each class", metric(name).title))
        parts.append(f"<div><h3>{title}</h3>{colour_key([*drawn])}{picture}</div>")
    return f'<section id="labels"><h2>Few labels</h2><div class="row">{"".join(parts)}</div></section>' if parts else ""


def comparisons(rows: Sequence[Row]) -> str:
    """Paired tests that were asked for, and for the empty case how to ask."""
    tests = [row for row in rows if row.question == "compare" and isinstance(row.details.get("p_holm"), int | float)]
    if not tests:
        about = "None were asked: <code>featurebank probe DATASET --compare</code> tests each two on the same rows."
        return f'<section id="tests"><h2>Paired tests</h2><p>{about}</p></section>'
    lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = []
    for row in tests:
        details = row.details
        p_value, p_holm = float(details.get("p", 1.0)), float(details["p_holm"])
        words = str(details.get("of", "")), row.set, metric(row.metric).title
        first, second = str(details.get("first", "")), str(details.get("second", ""))
        told = "first" if row.value > 0 else "second"
        if row.direction == "lower":
            told = "second" if row.value > 0 else "first"
        better = told if p_holm < SIGNIFICANT else ""
        lines.append(((first, second, *words), (row, f"{p_value:.2g}", f"{p_holm:.2g}", better)))
    sheet = Sheet(
        title=f"{counted(len(tests), 'pair')}: first minus second on the same rows",
        names=("first", "second", "question", "set", "metric"),
        columns=("difference", "p", "p, Holm", "better"),
        lines=lines,
        signed=True,
    )
    if said := interval_line(sheet):
        sheet.notes.append(said)
    drawn = sheet_html(sheet, kind="tall dense", csv="tests.csv", lines=["data-item"] * len(lines))
    return f'<section id="tests"><h2>Paired tests</h2>{drawn}</section>'


def numbers(holdings: Holdings) -> str:
    """Every number of ``featurebank results --all``, with interval, fingerprints and published value."""
    every = sorted(holdings.rows, key=lambda row: row.question in DERIVED)
    if not every:
        about = "None yet: <code>featurebank probe DATASET --store STORE</code> asks the first questions."
        return f'<section id="numbers"><h2>Every number</h2><p>{about}</p></section>'
    rows = every if len(every) <= MOST_NUMBERS else [row for row in every if row.primary][:MOST_NUMBERS]
    known = {at: value for at, row in enumerate(rows) if (value := _published(row)) is not None}
    used = [name for name in COLUMNS if any(getattr(row, name) for row in rows)]
    heads = "".join(f'<th class="name" scope="col">{name}</th>' for name in ("backbone", *used))
    for title in ("value", *(("published", "differs") if known else ()), "95 % interval", "n"):
        heads += f'<th scope="col">{title}</th>'
    heads += "".join(
        f'<th class="name" scope="col">{name}</th>' for name in ("interval over", "fingerprints", "result")
    )
    numbered = {name: at for at, name in enumerate(holdings.backbones)}
    lines = [_line(row, used, numbered, known.get(at), published=bool(known)) for at, row in enumerate(rows)]
    caption = f"{len(rows):,} numbers" if len(rows) == len(every) else f"{len(rows):,} main numbers of {len(every):,}"
    table = table_html(caption, heads, lines, called=caption, kind="tall dense", csv="results.csv")
    left = "" if len(rows) == len(every) else "<p>The others: <code>featurebank results --all</code>.</p>"
    about = (
        "<p>As <code>featurebank results --all</code> lists them. Fingerprints are the first 16 digits, as files are "
        "called; a result's name finds its settings and predictions. The file that is saved has the lines shown, and "
        "values in full.</p>"
    )
    return f'<section id="numbers"><h2>Every number</h2>{about}{table}{left}</section>'


def _line(row: Row, used: Sequence[str], numbered: Mapping[str, int], known: float | None, *, published: bool) -> str:
    of = metric(row.metric)
    cells = "".join(f'<td class="text">{name_html(getattr(row, name))}</td>' for name in used)
    ends = "" if row.low is None or row.high is None else f' data-low="{row.low!r}" data-high="{row.high!r}"'
    signed = row.question == "compare"
    cells += f'<td data-v="{row.value!r}"{ends}>{of.shown(row.value, signed=signed)}</td>'
    if published and known is None:
        cells += "<td></td><td></td>"
    elif known is not None:
        cells += f'<td data-v="{known!r}">{of.shown(known)}</td>'
        cells += f'<td data-v="{row.value - known!r}">{of.shown(row.value - known, signed=True)}</td>'
    cells += f"<td>{interval_of(row, signed=signed)}</td><td>{'' if row.n is None else row.n}</td>"
    prints = " ".join(dict.fromkeys(one[:16] for one in row.fingerprints))
    cells += f'<td class="text">{html_text(row.interval)}</td><td class="text"><code>{html_text(prints)}</code></td>'
    cells += f'<td class="text"><code>{html_text(row.result)}</code></td>'
    number = numbered.get(row.backbone)
    of_backbone = "" if number is None else f' data-b="{number}"'
    return f'<tr data-item{of_backbone}><th scope="row">{name_html(row.backbone)}</th>{cells}</tr>'


def _published(row: Row) -> float | None:
    """OpenOOD's value of the very metric, where its leaderboard has one."""
    if row.question != "ood" or row.metric != "auroc" or row.set not in GROUPS:
        return None
    values = published(row.test.rpartition("/")[0], row.backbone).get(row.score)
    return None if values is None else values[GROUPS.index(row.set)]


def _only(board: Board, name: str) -> Cell:
    """A backbone's number, where it has one of them."""
    of = [line.row for line in board.lines if line.row.backbone == name]
    return of[0] if len(of) == 1 else "several" if of else None


def _lines(text: str) -> str:
    return "\n".join(map(html_text, text.splitlines()))
