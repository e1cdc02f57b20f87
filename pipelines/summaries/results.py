"""``featurebank results``: every number that the store keeps, filtered, sorted, laid out, exported."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from featurebank.pipelines.asking.results import COLUMNS, Results, Row, csv_of, plain_row
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption, existing_store
from featurebank.pipelines.streams import JsonOption, console, print_json
from featurebank.store.errors import unknown_name
from featurebank.store.fingerprint import canonical_json
from featurebank.store.text import shown

__all__ = ["WhereOption", "conditions", "filtered", "fits", "results", "write_parquet"]

WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="COLUMN=VALUE",
        help=f"Only rows of that value, * for anything; repeatable. {', '.join(COLUMNS)}.",
    ),
]
SHOWN = ("question", "backbone", "set", "score", "shots", "group", "metric")


def results(  # noqa: PLR0917 - one for each option
    store: StoreOption = DEFAULT_STORE,
    where: WhereOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="All numbers, not the main ones of each question alone.")
    ] = False,
    sort: Annotated[
        str, typer.Option("--sort", metavar="COLUMN", help="What the lines are ordered by; value puts the best first.")
    ] = "",
    pivot: Annotated[bool, typer.Option("--pivot", help="A line for each backbone, a column for each number.")] = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", dir_okay=False, help="Write the rows as CSV; - is stdout.")
    ] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", dir_okay=False, help="Write them as Parquet.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the numbers that are known: what was asked of what, the value, its interval; nothing is computed."""
    rows = filtered(Results(existing_store(store).root).rows(), conditions(where or ()), primary=not every)
    rows = _sorted(rows, sort)
    if parquet is not None:
        write_parquet(rows, parquet)
    if csv is not None and str(csv) == "-":
        sys.stdout.write(shown(csv_of(rows), keep="\n"))
    elif csv is not None:
        csv.write_text(csv_of(rows), encoding="utf-8")
    elif parquet is not None:
        return
    elif as_json:
        print_json({"rows": [plain_row(row) for row in rows]})
    else:
        from featurebank.pipelines.asking.table import render_sheet

        screen = console()
        for sheet in _sheets(rows, laid_out=pivot):
            for table in render_sheet(sheet, screen):
                screen.print(table)
            for note in sheet.notes:
                screen.print(f"  {note}", highlight=False)
            screen.print()
        screen.print(f"{len(rows):,} numbers.", highlight=False)


def filtered(rows: Sequence[Row], conditions: Mapping[str, Sequence[str]], *, primary: bool = False) -> list[Row]:
    """The rows whose columns have one of the values given, ``*`` standing for anything.

    Args:
        rows: of results.
        conditions: values by column; a row has one of each.
        primary: whether only the main numbers of questions pass.
    """
    return [
        row
        for row in rows
        if (row.primary or not primary)
        and all(any(fits(_text(row, name), value) for value in values) for name, values in conditions.items())
    ]


def fits(text: str, pattern: str) -> bool:
    """Whether a text is the pattern's, in which only ``*`` stands for anything: backbones have brackets in names."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def conditions(texts: Sequence[str]) -> dict[str, list[str]]:
    """COLUMN=VALUE as values by column.

    Raises:
        ConfigError: another form.
        UnknownNameError: no such column.
    """
    given: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--where must be COLUMN=VALUE, such as metric=accuracy; found {text!r}")
        if name not in COLUMNS:
            raise unknown_name("column", name, COLUMNS)
        given.setdefault(name, []).append(value)
    return given


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Writes rows as Parquet, a column for each attribute; ``details`` as JSON."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    plain = [plain_row(row) | {"details": _text(row, "details")} for row in rows]
    parquet.write_table(pa.Table.from_pylist(plain), path)


def _text(row: Row, column: str) -> str:
    """What stands in a column, as CSV has it."""
    value = getattr(row, column)
    if isinstance(value, Mapping):
        return canonical_json(dict(value)).decode() if value else ""
    return "" if value is None else " ".join(value) if isinstance(value, tuple) else str(value)


def _sorted(rows: list[Row], column: str) -> list[Row]:
    from featurebank.pipelines.asking.metrics import metric

    if not column:
        return rows
    if column not in COLUMNS:
        raise unknown_name("column", column, COLUMNS)
    if column == "value":
        return sorted(rows, key=lambda row: -metric(row.metric).gain(row.value))
    if column in ("n", "low", "high", "seconds", "version"):
        return sorted(rows, key=lambda row: (getattr(row, column) is None, getattr(row, column)))
    return sorted(rows, key=lambda row: _text(row, column))


def _sheets(rows: Sequence[Row], *, laid_out: bool) -> list[Any]:
    from featurebank.pipelines.asking.layout import Layout
    from featurebank.pipelines.asking.sheet import Sheet, interval_line, pivot

    if laid_out:
        places = dict.fromkeys((row.train, row.test) for row in rows)
        sheets = [
            pivot(
                [row for row in rows if (row.train, row.test) == place],
                Layout(),
                title=" -> ".join(dict.fromkeys(one for one in place if one)),
            )
            for place in places
        ]
    else:
        names = [name for name in SHOWN if any(getattr(row, name) for row in rows)]
        lines: list[Any] = [(tuple(getattr(row, name) for name in names), (row, f"{row.n or ''}")) for row in rows]
        sheets = [Sheet(title="results", names=names, columns=("value", "n"), lines=lines)] if rows else []
    for sheet in sheets:
        if said := interval_line(sheet):
            sheet.notes.append(said)
    return sheets
