"""``featurebank rank``: which backbone is best over every number that the store keeps, and how sure that is."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from featurebank.pipelines.asking.results import Results
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.stores import DEFAULT_STORE, BackboneOption, StoreOption, existing_store
from featurebank.pipelines.streams import HtmlOption, JsonOption, console, print_json
from featurebank.pipelines.summaries.results import WhereOption, conditions

__all__ = ["rank"]

PLACES = ("store", "html", "as_json")
KIND = "Apples with apples (* for anything)"


def rank(  # noqa: PLR0917 - one for each option
    context: typer.Context,
    store: StoreOption = DEFAULT_STORE,
    where: WhereOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="This metric, not the main one of each question; repeatable."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="NAME=VALUE", help="Of questions that were asked in several ways; repeatable."
        ),
    ] = None,
    fingerprint: Annotated[
        list[str] | None,
        typer.Option(
            "--fingerprint", help="Which set, where several match: its first digits, or a result's; repeatable."
        ),
    ] = None,
    common: Annotated[
        Literal["settings", "backbones"] | None,
        typer.Option(
            "--common", help="Where numbers are missing, rank the settings, or the backbones, that lack none."
        ),
    ] = None,
    sort: Annotated[
        Literal["z", "rank"],
        typer.Option("--sort", help="What the lines are ordered by: mean z-score over tasks, or mean rank."),
    ] = "z",
    resample: Annotated[
        Literal["settings", "rows"],
        typer.Option("--resample", help="What the intervals of places draw again: settings, or test rows."),
    ] = "settings",
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="Of the intervals; 0 for none.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of splits, draws and intervals.")] = 0,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="BACKBONE", help="What if this backbone were not there; repeatable."),
    ] = None,
    backbone: BackboneOption = None,
    architecture: Annotated[
        list[str] | None,
        typer.Option("--architecture", help="Only backbones of this architecture; repeatable.", rich_help_panel=KIND),
    ] = None,
    style: Annotated[
        str | None, typer.Option("--style", help="Only supervised, self-supervised …", rich_help_panel=KIND)
    ] = None,
    pretraining: Annotated[
        list[str] | None,
        typer.Option("--pretraining", help="Only backbones trained on these data; repeatable.", rich_help_panel=KIND),
    ] = None,
    px: Annotated[
        list[int] | None,
        typer.Option("--px", help="Only backbones of this input size; repeatable.", rich_help_panel=KIND),
    ] = None,
    min_params: Annotated[
        float | None,
        typer.Option(
            "--min-params", help="Only backbones of this many million parameters or more.", rich_help_panel=KIND
        ),
    ] = None,
    max_params: Annotated[
        float | None,
        typer.Option(
            "--max-params", help="Only backbones of this many million parameters or fewer.", rich_help_panel=KIND
        ),
    ] = None,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank backbones over all results that the store keeps: z-scores, ranks, places with intervals, tests."""
    from featurebank.pipelines.summaries.facts import Kind
    from featurebank.pipelines.summaries.rank_page import page
    from featurebank.pipelines.summaries.rank_sheets import standings_json
    from featurebank.pipelines.summaries.rank_table import Chosen, rank_table
    from featurebank.pipelines.summaries.standings import Way, standings

    kind = Kind(
        architecture=tuple(architecture or ()),
        style=style,
        pretraining=tuple(pretraining or ()),
        px=tuple(px or ()),
        least=min_params,
        most=max_params,
    )
    chosen = Chosen(
        where=conditions(where or ()),
        metrics=tuple(metric or ()),
        options=tuple(option or ()),
        fingerprints=tuple(fingerprint or ()),
        backbones=tuple(backbone or ()),
        alike=kind,
        common=common,
    )
    way = Way(sort=sort, resample=resample, resamples=resamples, seed=seed, without=tuple(without or ()))
    if html is not None and not html.parent.is_dir():
        raise ConfigError(f"--html: expected a folder at {html.parent}, found none; make it first")
    ranked = standings(rank_table(Results(existing_store(store).root).latest(), chosen), way)
    if html is not None:
        html.write_text(page(ranked, _command(context)), encoding="utf-8")
    if as_json:
        print_json(standings_json(ranked) | {"page": None if html is None else str(html)})
    else:
        _print(ranked, html)


def _command(context: typer.Context) -> str:
    """What was asked, as a command; where the store lies and what was written is left out."""
    words = ["featurebank", "rank"]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name not in PLACES and value != option.get_default(context):
            for one in value if isinstance(value, list | tuple) else (value,):
                words += [option.opts[0], str(one)]
    return shlex.join(words)


def _print(ranked: Any, html: Path | None) -> None:
    from featurebank.pipelines.asking.table import print_line, render_sheet
    from featurebank.pipelines.summaries.rank_sheets import answer, correlation_sheets, notes_of, standings_sheet
    from featurebank.store.text import shown

    screen = console()
    for table in render_sheet(standings_sheet(ranked), screen):
        screen.print(table)
    for note in (answer(ranked), *notes_of(ranked)):
        print_line(screen, shown(note))
    for sheet in correlation_sheets(ranked):
        screen.print()
        for table in render_sheet(sheet, screen):
            screen.print(table)
    if html is not None:
        print_line(screen, shown(str(html)), about="page", style="green")
