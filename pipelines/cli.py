"""The command line: one verb each. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done, 1 something failed, 2 wrong use (arguments, a configuration, a name that does not exist),
130 interrupted.
"""

from __future__ import annotations

import importlib.resources
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from featurebank import __version__
from featurebank.pipelines.backbones import backbones
from featurebank.pipelines.datasets import datasets
from featurebank.pipelines.duplicates import duplicates
from featurebank.pipelines.export import export
from featurebank.pipelines.keeping import gc, merge, pack, unpack
from featurebank.pipelines.ood import options as ood_options
from featurebank.pipelines.probing import options
from featurebank.pipelines.retrieving import options as retrieve_options
from featurebank.pipelines.stores import existing_store
from featurebank.pipelines.streams import console as _console
from featurebank.pipelines.streams import print_json as _print_json

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Extract every backbone's frozen features once; ask the cached features anything.",
)

StoreOption = Annotated[Path, typer.Option("--store", help="The store's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables for people.")]
DEFAULT_STORE = Path("features")
INTERRUPTED = 130  # what typer makes of Ctrl-C


def _messages(console: Console) -> None:
    handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False, markup=False)
    log = logging.getLogger("featurebank")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


@app.command()
def features(  # noqa: PLR0917 - one for each option
    config: Annotated[
        Path | None, typer.Argument(help="A YAML configuration; without one, the packaged demonstration runs.")
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Where features go, instead of the file's own.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be decoded.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", help="Extract in this many processes (Dask).")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Extract on the Dask cluster at this address: tcp://host:8786.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Extract what the store does not have yet; what is sealed is left alone, what was begun goes on."""
    from featurebank.pipelines.config import RunConfig
    from featurebank.pipelines.display import live, render_report
    from featurebank.pipelines.features import run_features

    start = time.perf_counter()
    err = _console(stderr=True)
    _messages(err)
    if config is None:
        with importlib.resources.as_file(importlib.resources.files("featurebank.pipelines") / "demo.yaml") as demo:
            run = RunConfig.read(demo)
        run = run.model_copy(update={"store": DEFAULT_STORE})
    else:
        run = RunConfig.read(config)
    if store is not None:
        run = run.model_copy(update={"store": store})
    if strict:
        run = run.model_copy(update={"extraction": run.extraction.model_copy(update={"strict": True})})
    with live(err) as observer:
        report = run_features(run, workers=workers, scheduler=scheduler, observer=observer)
    if as_json:
        _print_json(_report_json(report))
    else:
        render_report(report, _console(), seconds=time.perf_counter() - start)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def probe(  # noqa: PLR0917 - one for each option
    keys: options.Keys,
    store: StoreOption = DEFAULT_STORE,
    task: options.Tasks = None,
    backbone: options.OnlyBackbones = None,
    fingerprint: options.Fingerprints = None,
    output: options.OutputName = None,
    compare: options.Compare = False,
    group: options.Group = None,
    seed: options.Seed = None,
    device: options.Device = None,
    as_json: JsonOption = False,
    protocol: options.Protocols = None,
    cs: options.CS = None,
    k: options.K = None,
    temperature: options.Temperatures = None,
    shots: options.Shots = None,
    fraction: options.Fractions = None,
    draws: options.Draws = None,
    text: options.Text = None,
    logit_scale: options.LogitScale = None,
    missing: options.Missing = None,
    target: options.Targets = None,
    train_masks: options.TrainMasks = None,
    test_masks: options.TestMasks = None,
    grid: options.Grid = None,
    ignore_index: options.IgnoreIndex = None,
    epochs: options.Epochs = None,
    on: options.On = None,
    own_head: options.OwnHead = False,
    classes: options.Classes = None,
) -> None:
    """Ask cached features a question: tables with 95 % intervals; what is known already is not computed again."""
    given = {
        "output": output, "seed": seed, "device": device, "protocol": protocol, "cs": cs, "k": k,
        "temperature": temperature, "shots": shots, "fraction": fraction, "draws": draws, "text": text,
        "logit_scale": logit_scale, "missing": missing, "target": target, "train_masks": train_masks,
        "test_masks": test_masks, "grid": grid, "ignore_index": ignore_index, "epochs": epochs, "on": on,
        "own_head": own_head, "classes": classes,
    }  # fmt: skip
    from featurebank.pipelines.probing import analysis, display, run
    from featurebank.pipelines.probing.selection import select

    start = time.perf_counter()
    _messages(_console(stderr=True))
    tasks = run.build_tasks(task or run.DEFAULT_TASKS, options.as_settings(given))
    found = existing_store(store)
    fitted = any(one.reads_train for one in tasks)
    selection = select(found, keys, backbones=backbone or (), fingerprints=fingerprint or (), train=fitted)
    analysis.check_analysis(selection.pairs, tasks, comparison=compare, column=group)
    report = run.run_probes(found, selection, tasks)
    comparisons = analysis.compare(found, report.probed, seed=seed or 0) if compare else []
    groups = analysis.group(found, report.probed, group, seed=seed or 0) if group else []
    if as_json:
        _print_json(display.report_json(report, comparisons=comparisons, groups=groups))
    else:
        seconds = time.perf_counter() - start
        display.render_probes(report, _console(), seconds=seconds, comparisons=comparisons, groups=groups)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def retrieve(  # noqa: PLR0917 - one for each option
    keys: retrieve_options.Keys,
    store: StoreOption = DEFAULT_STORE,
    backbone: options.OnlyBackbones = None,
    fingerprint: options.Fingerprints = None,
    gallery: retrieve_options.Gallery = None,
    queries: retrieve_options.Queries = None,
    compare: retrieve_options.Compare = False,
    output: retrieve_options.OutputName = None,
    protocol: retrieve_options.Protocols = None,
    by: retrieve_options.By = None,
    ground_truth: retrieve_options.GroundTruth = None,
    per_class: retrieve_options.PerClass = None,
    seed: retrieve_options.Seed = None,
    as_json: JsonOption = False,
    power: retrieve_options.Power = None,
    whiten: retrieve_options.Whiten = None,
    components: retrieve_options.Components = None,
    augment: retrieve_options.Augment = None,
    expand: retrieve_options.Expand = None,
    rerank: retrieve_options.Rerank = None,
    index: retrieve_options.Index = None,
    nprobe: retrieve_options.NProbe = None,
    ef_search: retrieve_options.EfSearch = None,
    depth: retrieve_options.Depth = None,
    html: retrieve_options.Html = None,
    images: retrieve_options.Images = None,
    k: retrieve_options.K = None,
) -> None:
    """Find the rows that belong together by cached features: a protocol's metrics with 95 % intervals, and a page."""
    given = {
        "output": output, "queries": queries, "protocol": protocol, "by": by, "ground_truth": ground_truth,
        "per_class": per_class, "seed": seed, "power": power, "whiten": whiten, "components": components,
        "augment": augment, "rerank": rerank, "index": index, "nprobe": nprobe, "ef_search": ef_search, "depth": depth,
        "expand": retrieve_options.parse_expand(expand),
    }  # fmt: skip
    from featurebank.pipelines.retrieving import comparison, display, run, selection
    from featurebank.pipelines.retrieving.comparison_table import comparison_json, render_comparisons
    from featurebank.pipelines.retrieving.pictures import plan_page
    from featurebank.pipelines.retrieving.task import build_task

    start = time.perf_counter()
    _messages(_console(stderr=True))
    found = existing_store(store)
    tuned = comparison.TUNED if compare else ()
    task = build_task({"indexes": found.root / "indexes"} | {n: v for n, v in given.items() if n not in tuned})
    lookups = selection.look_up(
        found, keys, task, backbones=backbone or (), fingerprints=fingerprint or (), gallery=gallery
    )
    if compare:
        comparisons = comparison.compare(found, lookups, given, page=(html, images, k))
        if as_json:
            _print_json(comparison_json(comparisons))
        else:
            render_comparisons(comparisons, _console(), seconds=time.perf_counter() - start)
        if not all(one.report.ok for one in comparisons):
            raise typer.Exit(1)
        return
    selection.check_lookups(found, lookups, k=k)
    page = plan_page(found, lookups, html, images=images, k=k)
    report = run.run_lookups(found, lookups)
    written = page is not None and page.write(report)
    shown = html if written else None
    if as_json:
        _print_json(display.report_json(report, task, page=shown))
    else:
        display.render_retrievals(report, task, _console(), seconds=time.perf_counter() - start, page=shown)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def ood(  # noqa: PLR0917 - one for each option
    id_key: ood_options.InKey = None,
    ood_keys: ood_options.OutKeys = None,
    near: ood_options.NearKeys = None,
    id_classes: ood_options.IdClasses = None,
    shifted: ood_options.ShiftedKeys = None,
    validation: ood_options.ValidationKey = None,
    scores: ood_options.Names = None,
    head: ood_options.Heads = None,
    text: ood_options.Texts = None,
    store: StoreOption = DEFAULT_STORE,
    backbone: options.OnlyBackbones = None,
    fingerprint: options.Fingerprints = None,
    output: options.OutputName = None,
    draws: ood_options.IntervalDraws = None,
    seed: options.Seed = None,
    device: options.Device = None,
    as_json: JsonOption = False,
    benchmark: ood_options.BenchmarkName = None,
    data: ood_options.Data = None,
    lists: ood_options.Lists = None,
    html: ood_options.Page = None,
    images: ood_options.Images = None,
) -> None:
    """Tell in-distribution rows from others by every post-hoc score of cached features, best score first."""
    from featurebank.pipelines.display import live
    from featurebank.pipelines.ood import display, run

    start = time.perf_counter()
    err = _console(stderr=True)
    _messages(err)
    opened: dict[str, Any] = {}
    if benchmark is None:
        keys = ood_options.parse_keys(
            id_key,
            ood=ood_keys,
            near=near,
            shifted=shifted,
            tuning=validation,
            id_classes=id_classes,
            data=data,
            lists=lists,
        )
        found = existing_store(store)
    else:
        ood_options.check_benchmark(id_key, ood_keys, near, shifted, validation, id_classes)
        with live(err) as observer:
            keys, found, opened = run.prepare(
                benchmark, store, backbone or (), data=data, lists=lists, device=device, observer=observer
            )
    given = {"scores": scores, "head": head, "text": text, "output": output, "draws": draws, "seed": seed}
    report = run.run_ood(
        found,
        keys,
        {**given, "device": device},
        backbones=backbone or (),
        fingerprints=fingerprint or (),
        html=html,
        images=images or (),
        opened=opened,
    )
    if as_json:
        _print_json(display.report_json(report))
    else:
        display.render_ood(report, _console(), seconds=time.perf_counter() - start)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def ls(
    store: StoreOption = DEFAULT_STORE,
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Only this backbone.")] = None,
    duplicates: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Instead, the images whose bytes stand in both DATASET/SPLITs."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the feature sets of a store, the unfinished and damaged ones too."""
    from featurebank.extract.errors import nearest
    from featurebank.pipelines.inspection import entries_table, entry_json, pairs_table

    found = existing_store(store)
    if duplicates is not None:
        pairs = found.same_content(*duplicates)
        if as_json:
            _print_json(pairs)
        else:
            _console().print(pairs_table(pairs, *duplicates))
        return
    entries = found.ls(dataset=dataset, backbone=backbone)
    if not entries and (everything := found.ls()):
        datasets = {name for e in everything for name in (e.dataset, f"{e.dataset}/{e.split}")}
        backbones = {e.backbone for e in everything}
        for kind, name, known in (("dataset", dataset, datasets), ("backbone", backbone, backbones)):
            if name is not None and name not in known:
                raise nearest(kind, name, known)
    if as_json:
        _print_json([entry_json(entry) for entry in entries])
    else:
        _console().print(entries_table(entries, store))


@app.command()
def show(  # noqa: PLR0917 - one for each option
    dataset: Annotated[str, typer.Argument(help="DATASET/SPLIT")],
    backbone: Annotated[str, typer.Argument(help="The backbone's name.")],
    store: StoreOption = DEFAULT_STORE,
    fingerprint: Annotated[str | None, typer.Option(help="Which one, where several keys match.")] = None,
    diff: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Instead, where its manifest differs from that set's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one feature set: its key, how it was made, its outputs and its failed rows."""
    from featurebank.pipelines.inspection import differences_table, set_json, set_view
    from featurebank.store.fingerprint import differences

    if "/" not in dataset:
        raise typer.BadParameter(f"expected DATASET/SPLIT, as ls lists them, found {dataset!r}")
    found = existing_store(store)
    with found.open(dataset, backbone, fingerprint=fingerprint) as feature_set:
        if diff is not None:
            with found.by_fingerprint(diff) as other:
                differing = differences(feature_set.manifest, other.manifest)
                names = (feature_set.fingerprint[:16], other.fingerprint[:16])
            if as_json:
                _print_json([dict(zip(("field", *names), values, strict=True)) for values in differing])
            else:
                _console().print(differences_table(differing, *names))
        elif as_json:
            _print_json(set_json(feature_set))
        else:
            _console().print(set_view(feature_set))


@app.command()
def verify(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Hash every byte of every sealed set again; exit 1 if one is not what it was."""
    from featurebank.pipelines.inspection import verify_json, verify_table

    reports = existing_store(store).verify()
    if as_json:
        _print_json(verify_json(reports))
    else:
        _console().print(verify_table(reports, store))
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: libraries, devices, compiler, cache, and what a run would use."""
    from featurebank.pipelines.doctor import doctor_table, examine

    findings = examine()
    if as_json:
        _print_json([{"check": f.check, "found": f.found, "ok": f.ok, "advice": f.advice} for f in findings])
    else:
        _console().print(doctor_table(findings))
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


app.command()(backbones)
app.command()(datasets)
app.command()(duplicates)
app.command()(export)
app.command()(gc)
app.command()(merge)
app.command()(pack)
app.command()(unpack)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Extract every backbone's frozen features once; ask the cached features anything."""


def _report_json(report: Any) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "device": report.device,
        "precision": report.precision,
        "sets": [
            {**vars(outcome), "path": str(outcome.path), "failed": {str(k): v for k, v in outcome.failed.items()}}
            for outcome in report.outcomes
        ],
        "unavailable": report.unavailable,
        "probes": [
            {
                "backbone": probe.backbone,
                "train": probe.probe.train,
                "test": probe.probe.test,
                "accuracy": probe.row.value if probe.row else None,
                "interval": [probe.row.low, probe.row.high] if probe.row else None,
                "error": probe.error,
            }
            for probe in report.probes
        ],
    }


def main() -> None:
    """The console script: every error the project raises on purpose is one clear message, not a traceback."""
    sys.exit(_run(app))


def _run(application: Callable[..., Any]) -> int:
    from featurebank.extract.errors import ExtractError
    from featurebank.store import StoreError

    try:
        application()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
        if code == INTERRUPTED:
            _console(stderr=True).print("interrupted; what was committed is kept, run again to go on", style="yellow")
        return code
    except (StoreError, ExtractError, OSError, ValueError) as error:
        text = str(error) if str(error) else type(error).__name__
        _console(stderr=True).print(f"[red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
        return _exit_code(error)
    return 0


def _exit_code(error: Exception) -> int:
    from featurebank.pipelines.config import ConfigError

    return 2 if isinstance(error, (KeyError, ConfigError)) else 1
