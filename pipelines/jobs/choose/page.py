"""One offline page of a choice: the answer, the table, and the curves that led to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.page import document, sheet_html
from featurebank.pipelines.asking.sheet import Sheet, interval_of
from featurebank.pipelines.jobs.choose.curve import ENDS, curve_svg
from featurebank.store.text import html_text

if TYPE_CHECKING:
    from featurebank.pipelines.jobs.choose.running import Choice, Race

__all__ = ["page"]


def page(sheet: Sheet, race: Race, choice: Choice | None, command: str) -> str:
    """The whole page; a plan has its table alone."""
    excluded = [f"{name}: {reason}" for name, reason in race.who.excluded.items()]
    top = f"<section>{sheet_html(sheet)}{_list(excluded)}<pre>{html_text(command)}</pre></section>"
    if choice is None:
        return document(sheet.title, "A plan: nothing was extracted.", [top])
    return document(sheet.title, _lead(race, choice), [top, _curves(choice)])


def _lead(race: Race, choice: Choice) -> str:
    """The answer, how sure it is and what it costs."""
    final = choice.lines[choice.pick].final
    number = ""
    if final is not None:
        number = f": {metric('accuracy').shown(final.value)} ({interval_of(final)}) on images set aside"
    cost = f"{race.costs[choice.pick]:.1f} ms an image"
    others = [f"{name} ({race.costs[name]:.1f} ms)" for name in choice.finalists if name != choice.pick]
    rest = f" Not told apart from the leader: {', '.join(others)}." if others else ""
    return f"The pick is {choice.pick}{number}, {cost}.{rest}"


def _list(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html_text(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _curves(choice: Choice) -> str:
    rungs = sorted({rows for line in choice.lines.values() for rows in line.curve})
    accuracy = metric("accuracy")
    lines: list[Any] = [
        ((name,), (line.state, *(accuracy.shown(line.curve[rows]) if rows in line.curve else "" for rows in rungs)))
        for name, line in choice.lines.items()
    ]
    marks = "; ".join(said for _, said in ENDS.values())
    sheet = Sheet(
        title="Accuracy on images left out one by one, by how many decide",
        names=["backbone"],
        columns=["state", *(f"{rows:,}" for rows in rungs)],
        lines=lines,
    )
    table = sheet_html(sheet, lines=[f'id="b{at}"' for at in range(len(lines))])
    about = f"Each line ends where its backbone was dropped. {marks[0].upper()}{marks[1:]}; a dot: still in the race."
    return (
        f"<section><h2>What each step showed</h2><p>{about}</p>"
        f'<div class="beside"><div>{table}</div><div class="picture">{curve_svg(choice.lines)}</div></div></section>'
    )
