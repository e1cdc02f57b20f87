"""``featurebank features``."""

from __future__ import annotations

import importlib.resources
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurebank.pipelines.extracting.stopping import stoppable
from featurebank.pipelines.stores import DEFAULT_STORE
from featurebank.pipelines.streams import JsonOption, console, print_json, show_messages
from featurebank.store.places import STORE_VARIABLE

if TYPE_CHECKING:
    from featurebank.extract.wanted import Outcome
    from featurebank.pipelines.extracting.run import Report

__all__ = ["features", "outcome_json"]


def features(  # noqa: PLR0917 - one for each option
    config: Annotated[
        Path | None, typer.Argument(help="A YAML configuration; without one, the packaged demonstration runs.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", envvar=STORE_VARIABLE, help="The store's folder; without it the file's own."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be decoded.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", help="Extract in this many processes (Dask).")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Extract on the Dask cluster at this address: tcp://host:8786.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute known answers again, and replace them; sealed feature sets stay.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Extract nothing: say what is missing, its size, its time, what is copied."),
    ] = False,
    trust_merged: Annotated[
        bool, typer.Option("--trust-merged", help="Copy rows of merged sets too, where they have the same images.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Extract what the store does not have yet; what is sealed is left alone, what was begun goes on."""
    from featurebank.pipelines.extracting.config import RunConfig
    from featurebank.pipelines.extracting.display import live, render_report
    from featurebank.pipelines.extracting.run import run_features

    start = time.perf_counter()
    err = console(stderr=True)
    show_messages(err)
    if config is None:
        with importlib.resources.as_file(
            importlib.resources.files("featurebank.pipelines.extracting") / "demo.yaml"
        ) as demo:
            run = RunConfig.read(demo)
        run = run.model_copy(update={"store": DEFAULT_STORE})
    else:
        run = RunConfig.read(config)
    if store is not None:
        run = run.model_copy(update={"store": store})
    for name, given in (("strict", strict), ("trust_merged", trust_merged)):
        if given:
            run = run.model_copy(update={"extraction": run.extraction.model_copy(update={name: True})})
    with stoppable(), live(err) as observer:
        report = run_features(run, workers=workers, scheduler=scheduler, observer=observer, force=force, dry=dry_run)
    if as_json:
        print_json(_report_json(report))
    else:
        render_report(report, console(), seconds=time.perf_counter() - start)
    if not report.ok:
        raise typer.Exit(1)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """What became of a feature set, as plain JSON."""
    return {**vars(outcome), "path": str(outcome.path), "failed": {str(k): v for k, v in outcome.failed.items()}}


def _report_json(report: Report) -> dict[str, Any]:
    from featurebank.pipelines.asking.table import report_json

    answers = report_json(report.answers)
    plan = {name: vars(one) for name, one in (report.plan or {}).items()}
    return {
        "ok": report.ok,
        "device": report.device,
        "precision": report.precision,
        "sets": [outcome_json(one) | {"estimate": plan.get(one.fingerprint)} for one in report.outcomes],
        "unavailable": report.unavailable,
        "answers": answers["answers"],
        "failed": answers["failed"],
        "passed_over": answers["passed_over"],
    }
