"""``featurebank finetune``, ``detect``, ``segment``: the jobs of a configuration, each from what the store has."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.stopping import stoppable
from featurebank.pipelines.streams import HtmlOption, JsonOption, console, print_json, show_messages
from featurebank.store.places import STORE_VARIABLE

if TYPE_CHECKING:
    from rich.console import Console

    from featurebank.pipelines.asking.cases import Selection
    from featurebank.pipelines.asking.question import Question
    from featurebank.pipelines.asking.run import Answering, Report
    from featurebank.pipelines.extracting.config import RunConfig
    from featurebank.pipelines.training.loop import Progress

PLAIN_EVERY_SECONDS = 10.0

__all__ = ["detect", "finetune", "segment"]


Config = Annotated[Path, typer.Argument(help="A YAML configuration with a section of the verb's name.")]
StorePlace = Annotated[
    Path | None,
    typer.Option("--store", envvar=STORE_VARIABLE, help="The store's folder; without it the file's own."),
]
Device = Annotated[str | None, typer.Option(help="Of torch, such as cpu or cuda:0; without it the file's.")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Extract in this many processes (Dask), and train: a job in each.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="Extract on the Dask cluster at this address: tcp://host:8786; and train there: a job a worker.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Compute known answers again, and replace them; what is trained stays.")
]
EvaluateOnly = Annotated[
    bool, typer.Option("--evaluate-only", help="Train nothing: score what is trained; what is not is an error.")
]


def _verb(about: Callable[[], None]) -> Callable[..., None]:
    """A verb of the name and the help of a function, which is a section of a configuration and has these options."""

    def work(  # noqa: PLR0917 - one for each option
        config: Config,
        store: StorePlace = None,
        device: Device = None,
        workers: Workers = None,
        scheduler: Scheduler = None,
        force: Force = False,
        evaluate_only: EvaluateOnly = False,
        as_json: JsonOption = False,
        html: HtmlOption = None,
    ) -> None:
        options = {
            "workers": workers,
            "scheduler": scheduler,
            "force": force,
            "trains": not evaluate_only,
            "html": html,
        }
        _work(about.__name__, config, store, device, as_json, **options)

    work.__doc__ = about.__doc__
    return work


@_verb
def finetune() -> None:
    """Tune backbones end to end, or from a block on: from the cached probe, exactly resumable, scored once."""


@_verb
def detect() -> None:
    """Train detectors on backbones, frozen or tuned, and score them: boxes, and masks where there are some."""


@_verb
def segment() -> None:
    """Train segmenters on backbones, frozen or tuned, and score them: a class for every pixel."""


def _work(section: str, config: Path, store: Path | None, device: str | None, as_json: bool, **options: Any) -> None:
    from featurebank.pipelines.asking.table import render, report_json
    from featurebank.pipelines.extracting.scale.start import check_request

    start = time.perf_counter()
    messages = console(stderr=True)
    show_messages(messages)
    check_request(options["workers"], options["scheduler"])
    if not options["trains"] and (options["workers"] or options["scheduler"]):
        raise ConfigError("--evaluate-only trains nothing that --workers or --scheduler could share; leave them out")
    work = _Work(section=section, run=_configured(section, config, store, device), messages=messages, **options)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        answered = work.in_group()
        if answered is None:
            return
    else:
        answered = work.alone()
    report, written = answered
    if as_json:
        print_json(report_json(report, page=written))
    else:
        render(report, console(), seconds=time.perf_counter() - start, page=written)
    if not report.ok:
        raise typer.Exit(1)


def _configured(section: str, config: Path, store: Path | None, device: str | None) -> RunConfig:
    """The file with what is given in its place; of the processes of a machine, the first says what is wrong with it."""
    from featurebank.pipelines.extracting.config import RunConfig

    try:
        run = RunConfig.read(config)
        if not getattr(run, section):
            raise ConfigError(f"{config}: must have a section {section}, such as {section}: DATASET; found none")
    except (ConfigError, OSError) as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise typer.Exit(2) from error
        raise
    if store is not None:
        run = run.model_copy(update={"store": store})
    if device is not None:
        run = run.model_copy(update={"extraction": run.extraction.model_copy(update={"device": device})})
    return run


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One call of a command."""

    section: str
    run: RunConfig
    messages: Console
    workers: int | None
    scheduler: str | None
    force: bool
    trains: bool
    html: Path | None

    def alone(self, answering: Answering | None = None) -> tuple[Report, str | None]:
        """Extracts what is missing and asks; the answers, and where the page of them is."""
        from featurebank.pipelines.asking.page import Page
        from featurebank.pipelines.asking.run import answer, ask
        from featurebank.pipelines.extracting.jobs import workshop_of
        from featurebank.store import FeatureStore

        store, asked = FeatureStore(self.run.store), self._wanted()
        with stoppable(), watching(self.messages) as (observe, say), ExitStack() as stack:
            workshop = replace(workshop_of(self.run, say, observe), trains=self.trains)
            page = None if self.html is None else Page(store, self.html, images_of=workshop.images_of, asked=asked)
            if self.workers or self.scheduler:
                from featurebank.pipelines.extracting.scale.jobs import answering_on

                workers, scheduler = self.workers, self.scheduler
                cluster = answering_on(self.run, asked, workers=workers, scheduler=scheduler, force=self.force, say=say)
                answering = stack.enter_context(cluster)
            report = ask(store, asked, force=self.force, say=say, workshop=workshop, answering=answering or answer)
        return report, str(self.html) if page is not None and page.write(report, []) else None

    def in_group(self) -> tuple[Report, str | None] | None:
        """The same in the first of several processes; ``None`` in the others, which help it."""
        from featurebank.pipelines.extracting.group import answer_together, in_group
        from featurebank.pipelines.extracting.jobs import workshop_of

        if self.workers or self.scheduler:
            raise ConfigError("--workers and --scheduler start jobs, torchrun the processes of one; give one of them")
        workshop = replace(workshop_of(self.run, lambda _: None), trains=self.trains)
        return in_group(lambda: self.alone(answer_together), workshop)

    def _wanted(self) -> list[tuple[Question, Selection]]:
        """What is to be trained, every set of it in the store."""
        from featurebank.pipelines.extracting.config import JOBS
        from featurebank.pipelines.extracting.run import run_features

        asked = self._selected()
        if asked is None:
            sets = self.run.model_copy(update=dict.fromkeys(("questions", *JOBS), ()))
            with stoppable():
                run_features(sets, workers=self.workers, scheduler=self.scheduler)
            asked = self._selected(last=True)
        return asked or []

    def _selected(self, *, last: bool = False) -> list[tuple[Question, Selection]] | None:
        """What is to be trained; ``None`` where sets are still to be extracted."""
        from featurebank.pipelines.extracting.jobs import jobs_of
        from featurebank.store import FeatureStore, NotFoundError

        store = FeatureStore(self.run.store)
        if not self.run.store.is_dir() and not last:
            return None
        try:
            return jobs_of(self.run, store, self.section)
        except NotFoundError:
            if last:
                raise
            return None


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
