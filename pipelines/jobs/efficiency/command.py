"""``featurebank efficiency``: what backbones cost, counted without weights and timed in fresh processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurebank.pipelines.asking.results import Results, Row, plain_row
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.stores import DEFAULT_STORE, StoreOption
from featurebank.pipelines.streams import HtmlOption, JsonOption, console, print_json, show_messages
from featurebank.store.text import shown

if TYPE_CHECKING:
    from featurebank.pipelines.asking.sheet import Cell, Sheet
    from featurebank.pipelines.jobs.efficiency.rounds import Cost, Setting

__all__ = ["efficiency"]

COLUMNS = (
    "parameters", "gmacs", "latency_p50", "latency_p90", "latency_p99", "latency_with_decode", "throughput",
    "throughput_with_decode", "peak_memory", "energy",
)  # fmt: skip


def efficiency(  # noqa: PLR0917 - one for each option
    backbones: Annotated[
        list[str] | None, typer.Argument(metavar="BACKBONE...", help="Names, as featurebank backbones lists them.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    zoo: Annotated[bool, typer.Option("--zoo", help="Every backbone of the zoo, too.")] = False,
    counts_only: Annotated[
        bool, typer.Option("--counts-only", help="Count parameters and multiply-adds, and time nothing.")
    ] = False,
    device: Annotated[
        str, typer.Option("--device", help="Of torch, such as cpu or cuda; auto is a GPU if any.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="Of networks: auto, float32, bfloat16 or float16.")
    ] = "auto",
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Images a pass; without it the best power of two is found.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How many processes time each network.")] = 3,
    force: Annotated[
        bool, typer.Option("--force", help="Compute known answers again, and replace them: measure anew.")
    ] = False,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what backbones cost: parameters, multiply-adds, latency, throughput, memory; weights are not needed."""
    from featurebank.extract.backbones.zoo import entries
    from featurebank.pipelines.jobs.efficiency.rounds import costs

    names = list(dict.fromkeys([*(backbones or ()), *(entries() if zoo else ())]))
    if not names:
        raise ConfigError("efficiency needs BACKBONE, a name of one or more, or --zoo for all: featurebank backbones")
    if html is not None and not html.parent.is_dir():
        raise ConfigError(f"--html: expected a folder at {html.parent}, found none; make it first")
    messages = console(stderr=True)
    show_messages(messages)
    setting = None if counts_only else _setting(device, precision, batch, rounds)
    results = Results(store, force=force)
    with messages.status("") as status:
        cost = costs(names, results, setting, say=lambda text: status.update(shown(text)))
    if results.changed:
        results.write_table()
    sheet = _sheet(cost.rows, setting)
    if html is not None and cost.rows:
        html.write_text(_page(sheet, cost), encoding="utf-8")
    if as_json:
        print_json(_json(cost, setting, html))
    else:
        _show(sheet, cost, html)
    if cost.failed:
        raise typer.Exit(1)


def _setting(device: str, precision: str, batch: int | None, rounds: int) -> Setting:
    import torch

    from featurebank.extract.device import resolve_device, resolve_precision
    from featurebank.pipelines.jobs.efficiency.rounds import Setting, processor

    try:
        device = resolve_device(device)
        return Setting(
            device=device,
            processor=processor(device),
            precision=resolve_precision(precision, device),
            threads=torch.get_num_threads() if device.startswith("cpu") else 0,
            batch=batch,
            rounds=rounds,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _sheet(rows: Sequence[Row], setting: Setting | None) -> Sheet:
    """A line for each backbone, in the order of their names; the columns that any of them has."""
    from featurebank.pipelines.asking.metrics import metric
    from featurebank.pipelines.asking.sheet import Sheet

    of: dict[str, dict[str, Row]] = {}
    for row in rows:
        of.setdefault(row.backbone, {})[row.metric] = row
    columns = [name for name in COLUMNS if any(name in found for found in of.values())]
    headings = [metric(name).title.replace(" ", "\n") for name in columns]
    lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = []
    for backbone, found in of.items():
        batch = f"{found['throughput'].details['batch']}" if "throughput" in found else ""
        px = f"{next(iter(found.values())).details['px']}"
        lines.append(((backbone,), (px, batch, *(found.get(name) for name in columns))))
    timed = "" if setting is None else f": {setting.processor}, {setting.called}"
    sheet = Sheet(title=f"efficiency{timed}", names=["backbone"], columns=["px", "batch", *headings], lines=lines)
    if setting is not None:
        sheet.notes.append("latency of one image; throughput and memory of a pass of batch images, weights included")
    return sheet if setting is not None else sheet.only([0, *range(2, len(columns) + 2)])


def _show(sheet: Sheet, cost: Cost, html: Path | None) -> None:
    from featurebank.pipelines.asking.table import print_line, render_sheet

    screen = console()
    for table in render_sheet(sheet, screen) if cost.rows else ():
        screen.print(table)
    for note in [*sheet.notes, *cost.notes]:
        print_line(screen, shown(note))
    for name, reason in cost.failed.items():
        print_line(screen, reason, about=name, style="red")
    if html is not None and cost.rows:
        print_line(screen, shown(str(html)), about="page", style="green")


def _page(sheet: Sheet, cost: Cost) -> str:
    from featurebank.pipelines.asking.page import document, sheet_html
    from featurebank.store.text import html_text

    said = [*cost.notes, *(f"{name}: {reason}" for name, reason in cost.failed.items())]
    notes = "".join(f"<li>{html_text(note)}</li>" for note in said)
    lead = f"What {len(sheet.lines):,} backbones cost, counted without weights and timed in fresh processes."
    return document(sheet.title, lead, [f'<section>{sheet_html(sheet)}<ul class="notes">{notes}</ul></section>'])


def _json(cost: Cost, setting: Setting | None, html: Path | None) -> dict[str, Any]:
    return {
        "ok": not cost.failed,
        "setting": None if setting is None else vars(setting),
        "rows": [plain_row(row) for row in cost.rows],
        "notes": cost.notes,
        "failed": cost.failed,
        "page": None if html is None or not cost.rows else str(html),
    }
