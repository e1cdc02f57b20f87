"""``featurebank finetune``: backbones tuned as a configuration says, each from what the store already has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.stopping import stoppable
from featurebank.pipelines.streams import JsonOption, console, print_json, show_messages
from featurebank.store.places import STORE_VARIABLE

if TYPE_CHECKING:
    from rich.console import Console

    from featurebank.pipelines.asking.cases import Selection
    from featurebank.pipelines.asking.question import Question
    from featurebank.pipelines.extracting.config import RunConfig
    from featurebank.pipelines.training.loop import Progress

PLAIN_EVERY_SECONDS = 10.0

__all__ = ["finetune"]


def finetune(  # noqa: PLR0917 - one for each option
    config: Annotated[Path, typer.Argument(help="A YAML configuration with a section finetune.")],
    store: Annotated[
        Path | None,
        typer.Option("--store", envvar=STORE_VARIABLE, help="The store's folder; without it the file's own."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Of torch, such as cpu or cuda:0; without it the file's.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute known answers again, and replace them; what is trained stays.")
    ] = False,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option("--html", dir_okay=False, help="Write one offline page of the answers.")
    ] = None,
) -> None:
    """Tune backbones end to end, or from a block on: from the cached probe, exactly resumable, scored once."""
    from featurebank.pipelines.extracting.config import RunConfig
    from featurebank.pipelines.extracting.run import run_features

    start = time.perf_counter()
    messages = console(stderr=True)
    show_messages(messages)
    run = RunConfig.read(config)
    if not run.finetune:
        raise ConfigError(f"{config}: must have a section finetune, such as finetune: [{{of: DATASET}}]; found none")
    if store is not None:
        run = run.model_copy(update={"store": store})
    if device is not None:
        run = run.model_copy(update={"extraction": run.extraction.model_copy(update={"device": device})})
    asked = _selected(run)
    if asked is None:
        with stoppable():
            run_features(run.model_copy(update={"questions": (), "finetune": ()}))
        asked = _selected(run, last=True)
    _tune(run, asked or [], messages, start=start, force=force, as_json=as_json, html=html)


def _selected(run: RunConfig, *, last: bool = False) -> list[tuple[Question, Selection]] | None:
    """What is to be tuned; ``None`` where sets are still to be extracted."""
    from featurebank.pipelines.extracting.jobs import tunings
    from featurebank.store import FeatureStore, NotFoundError

    store = FeatureStore(run.store)
    if not run.store.is_dir() and not last:
        return None
    try:
        return tunings(run, store)
    except NotFoundError:
        if last:
            raise
        return None


def _tune(
    run: RunConfig,
    asked: Sequence[tuple[Question, Selection]],
    messages: Console,
    *,
    start: float,
    force: bool,
    as_json: bool,
    html: Path | None,
) -> None:
    from featurebank.pipelines.asking.page import Page
    from featurebank.pipelines.asking.run import ask
    from featurebank.pipelines.asking.table import render, report_json
    from featurebank.pipelines.extracting.jobs import workshop_of
    from featurebank.store import FeatureStore

    store = FeatureStore(run.store)
    page = None if html is None else Page(store, html, images=(), opened={}, asked=asked)
    with stoppable(), watching(messages) as (observe, say):
        report = ask(store, asked, force=force, say=say, workshop=workshop_of(run, say, observe))
    written = str(html) if page is not None and page.write(report, []) else None
    if as_json:
        print_json(report_json(report, page=written))
    else:
        render(report, console(), seconds=time.perf_counter() - start, page=written)
    if not report.ok:
        raise typer.Exit(1)


@contextmanager
def watching(console: Console) -> Iterator[tuple[Callable[[str, Progress], None], Callable[[str], None]]]:
    """What is told of a run, and of lines: redrawn on a terminal, a line every ten seconds anywhere else."""
    from rich.live import Live
    from rich.text import Text

    from featurebank.pipelines.training.progress import told
    from featurebank.store.text import shown

    last = [0.0]

    def say(text: str) -> None:
        console.print(shown(text), highlight=False, soft_wrap=True, markup=False)

    def lines(what: str, progress: Progress) -> None:
        if time.monotonic() - last[0] >= PLAIN_EVERY_SECONDS:
            last[0] = time.monotonic()
            say(told(what, progress))

    if not console.is_terminal:
        yield lines, say
        return
    with Live(console=console, refresh_per_second=5, transient=True) as display:
        yield lambda what, progress: display.update(Text(shown(told(what, progress)))), say
