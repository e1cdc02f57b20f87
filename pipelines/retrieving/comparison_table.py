"""The table of a comparison: recipes down, backbones across, the best of each marked; and the same for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from featurebank.pipelines.probing.run import ProbeReport
from featurebank.pipelines.reporting import (
    failures_json,
    print_count,
    print_failures,
    print_line,
    print_notes,
    selection_note,
    short,
)
from featurebank.pipelines.retrieving.comparison import PLAIN, Comparison
from featurebank.pipelines.retrieving.display import report_json
from featurebank.pipelines.tables import titled_table
from featurebank.store.text import shown

__all__ = ["comparison_json", "comparison_tables", "render_comparisons"]

NAME, CELL, GAIN, SPACE = 19, 11, 6, 2  # columns of the console


def comparison_tables(comparison: Comparison, console: Console) -> Iterator[Table]:
    """One table, or several where the backbones do not fit beside each other."""
    probed = comparison.report.probed
    backbones = list(dict.fromkeys(one.backbone for one in probed))
    sets = dict.fromkeys((probed[0].train, probed[0].test))
    protocol = comparison.recipes[PLAIN].protocol
    title = f"retrieve: {' in '.join(sets)} ({protocol}): {' / '.join(comparison.metrics)}"
    step = max(1, (console.width - NAME - SPACE - GAIN) // (CELL + SPACE))
    for start in range(0, len(backbones), step):
        some = backbones[start : start + step]
        table = titled_table(title, "recipe")
        table.columns[0].no_wrap = True
        for backbone in some:
            heading = "\n".join(textwrap.wrap(shown(backbone), CELL))
            table.add_column(Text(heading), justify="right", no_wrap=True)
        table.add_column(Text("mean\ngain"), justify="right", no_wrap=True)
        for recipe in comparison.recipes:
            gain = comparison.gain(recipe)
            texts = [_cell(comparison, recipe, backbone) for backbone in some]
            table.add_row(recipe, *texts, "" if gain is None else short(f"{gain:+.3f}"))
        yield table


def render_comparisons(comparisons: Sequence[Comparison], console: Console, *, seconds: float) -> None:
    """The tables of ``featurebank retrieve --compare``, what to know about them, and what failed."""
    whole = ProbeReport()
    for comparison in comparisons:
        report = comparison.report
        if report.probed:
            for table in comparison_tables(comparison, console):
                console.print(table)
            print_line(console, "* the best of a backbone; gain: of the first metric over plain, mean of all backbones")
            print_line(console, _selection(comparison))
            for note in comparison.notes:
                print_line(console, note)
            for recipe, one in comparison.reports.items():
                for failed in (each for each in one.probed if each.error):
                    print_line(console, failed.error, about=f"{recipe} of {failed.backbone}", style="red")
            print_notes(console, report.probed)
            console.print()
        whole.probed += report.probed
        whole.failed |= report.failed
        whole.passed_over += report.passed_over
    print_failures(console, whole)
    print_count(console, "Retrieval", whole, seconds=seconds)


def comparison_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Everything for programs: each recipe's results as ``featurebank retrieve`` gives them."""
    reports = [comparison.report for comparison in comparisons]
    return {
        "ok": all(report.ok for report in reports),
        "comparisons": [
            {
                "metrics": list(comparison.metrics),
                "notes": [*comparison.notes, _selection(comparison)],
                "best": [
                    {"backbone": backbone, "metric": metric, "recipe": recipe}
                    for (backbone, metric), recipe in comparison.best.items()
                ],
                "recipes": [
                    {"name": name, "gain": comparison.gain(name), **report_json(report, comparison.recipes[name])}
                    for name, report in comparison.reports.items()
                ],
                **failures_json(report, test="gallery"),
            }
            for comparison, report in zip(comparisons, reports, strict=True)
        ],
    }


def _selection(comparison: Comparison) -> str:
    return selection_note("what is marked *", len(comparison.recipes), rows="queries")


def _cell(comparison: Comparison, recipe: str, backbone: str) -> Text:
    rows = comparison.cells.get((recipe, backbone))
    if rows is None:
        return Text("failed", "red")
    texts = []
    for metric in comparison.metrics:
        value = short(f"{rows[metric].value:.3f}")
        best = comparison.best.get((backbone, metric)) == recipe
        texts.append(Text(f"{value}*", "bold") if best else Text(value))
    return Text("/").join(texts)
