"""The batch run: from a configuration to sealed feature sets, and to answers where some are asked for."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featurebank.extract import backbones, datasets
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution, cpu_cores, resolve_devices, resolve_precision
from featurebank.extract.errors import fault
from featurebank.extract.key import Precision
from featurebank.extract.progress import Observer
from featurebank.extract.provenance import told
from featurebank.extract.wanted import Outcome, Request, Wanted, want
from featurebank.pipelines.asking.cases import Selection
from featurebank.pipelines.asking.places import note_place
from featurebank.pipelines.asking.roles import parse_key, select
from featurebank.pipelines.asking.run import Report as Answers
from featurebank.pipelines.asking.run import ask
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import JOBS, ExtractionConfig, QuestionConfig, RunConfig
from featurebank.pipelines.extracting.estimate import Estimate, estimates
from featurebank.pipelines.extracting.jobs import jobs_of, workshop_of
from featurebank.pipelines.extracting.opening import dataset_specs, open_all, resolve_all
from featurebank.pipelines.extracting.run_texts import make_run_texts, text_places
from featurebank.pipelines.extracting.scale.start import check_request, connected, started
from featurebank.store import FeatureStore, StoreError
from featurebank.store.errors import unknown_name
from featurebank.store.naming import names_of, network_of

__all__ = ["Report", "run_features"]

log = logging.getLogger("featurebank")


@dataclass(kw_only=True)
class Report:
    """What a batch run did.

    Attributes:
        outcomes: one per feature set.
        unavailable: backbone or dataset to the reason it could not be had.
        answers: of what was asked of them.
        plan: of a dry run, what each missing set would take, by its fingerprint.
        precision: what ``auto`` became.
        device: what ``auto`` became.
    """

    outcomes: list[Outcome]
    unavailable: dict[str, str] = field(default_factory=dict)
    answers: Answers = field(default_factory=Answers)
    plan: dict[str, Estimate] | None = None
    precision: str
    device: str

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there; of a dry run, whether it can be had."""
        good = ("present", "sealed") if self.plan is None else ("present", "missing")
        sets = all(outcome.state in good for outcome in self.outcomes)
        return sets and not self.unavailable and self.answers.ok

    @property
    def nothing_to_do(self) -> bool:
        """Whether every feature set was sealed before."""
        return not self.unavailable and all(outcome.state == "present" for outcome in self.outcomes)


def run_features(
    config: RunConfig,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    observer: Observer | None = None,
    force: bool = False,
    dry: bool = False,
    say: Callable[[str], None] = log.info,
) -> Report:
    """Resolves everything, extracts what the store lacks, and asks what is to be asked.

    A backbone or dataset that cannot be had is reported and does not stop the others.

    Args:
        config: the run.
        workers: how many processes of this machine extract, each on its part of the cores; ``None`` for this one alone.
        scheduler: address of a Dask scheduler whose workers extract; they share this machine's paths.
        observer: called with snapshots while images move.
        force: whether answers that are known are computed again; sealed sets are not.
        dry: whether nothing is extracted, asked or written; the report says what would be. Weights are fetched, and
            records read, for they are in the keys.
        say: called with one line at a time, for people.

    Raises:
        ConfigError: two datasets under one name, a question about a split that is nowhere, workers without Dask, or
            settings of the extraction that the machine cannot follow.
        ExtractError, StoreError: see ``featurebank.extract.engine.extract``.
    """
    check_request(workers, scheduler)
    wish = config.extraction
    execution = _execution(wish)
    store = FeatureStore(config.store)
    _check_questions(config, store)
    unavailable: dict[str, str] = {}
    with ExitStack() as stack:
        client = None if scheduler is None else stack.enter_context(connected(scheduler))
        if client is None:
            device, precision = _resolve_device(wish)
        elif "," in wish.device:
            raise ConfigError(f"extraction: a worker of a cluster has one device; found {wish.device!r}; use auto")
        else:
            device, precision = client.submit(_resolve_device, wish).result()
        specs = resolve_all(config, unavailable)
        # Who asks what a run would do, a cluster's workers, and a cache that has pixels already must know the contents.
        read_once = not (dry or workers or client or _has_pixels(execution))
        splits, digests = open_all(config, unavailable, read_once=read_once)
        requests = [Request(backbone=spec, split=index) for spec in specs for index in range(len(splits))]
        wanted = want(
            requests, splits, store, precision=precision, dtype=wish.dtype, digests=digests, read_once=read_once
        )
        _note(wanted if not dry else (), splits, store)
        _name_backbones(wanted, store)
        missing = sum(w.outcome.state == "missing" for w in wanted)
        say(f"{len(wanted)} feature sets wanted: {len(wanted) - missing} sealed already, {missing} to make")
        if dry:
            plan = estimates(wanted, splits, store, trust_merged=wish.trust_merged)
            outcomes = [w.outcome for w in wanted]
            return Report(outcomes=outcomes, unavailable=unavailable, plan=plan, precision=precision, device=device)
        if missing:
            say(f"device {device}, precision {precision}, stored as {wish.dtype}")
            if workers is not None:
                execution = replace(execution, workers=execution.workers or max(1, cpu_cores() // workers))
                client = stack.enter_context(started(workers, device))
            if execution.pixel_cache is not None:
                say(_cache_size(wanted, execution.pixel_cache, execution.pixel_cache_gb))
            cached = _extract(wanted, splits, replace(execution, device=device), observer, client)
            _note(wanted, splits, store)
            if cached:
                say(f"{cached:,} images taken from the pixel cache, their files not read")
    for w in wanted:
        ids = splits[w.request.split].ids if w.outcome.failed else ()
        w.outcome.failed_ids = {row: ids[row] for row in w.outcome.failed}
    if copied := sum(w.outcome.copied for w in wanted):
        computed = sum(w.outcome.computed for w in wanted)
        say(f"{copied:,} rows copied from sets that had the same images, {computed:,} computed")
    outcomes = [w.outcome for w in wanted]
    own_device = "cpu" if scheduler else device.partition(",")[0]
    outcomes += make_run_texts(config.texts, wanted, splits, store, unavailable=unavailable, device=own_device)
    report = Report(outcomes=outcomes, unavailable=unavailable, precision=precision, device=device)
    report.answers = _ask_all(config.questions, report.outcomes, store, force=force, say=say)
    if jobs := jobs_of(config, store, *JOBS):
        report.answers = report.answers.with_(ask(store, jobs, force=force, say=say, workshop=workshop_of(config, say)))
    return report


def _has_pixels(execution: Execution) -> bool:
    return execution.pixel_cache is not None and execution.pixel_cache.exists()


def _note(wanted: Sequence[Wanted], splits: Sequence[Split], store: FeatureStore) -> None:
    """Where contents came from, of those that are known."""
    for w in wanted:
        if not w.is_provisional:
            source = splits[w.request.split].spec
            store.note_content(f"{source.name} in {source.root or ''}", w.key["dataset"])
            note_place(source, w.key["dataset"])


def _resolve_device(wish: ExtractionConfig) -> tuple[str, Precision]:
    try:
        device = resolve_devices(wish.device)
        if wish.decoder != "pillow":
            from featurebank.extract.gpu_jpeg import check_decoder

            check_decoder(wish.decoder, device.partition(",")[0])
        return device, resolve_precision(wish.precision, device)
    except ValueError as error:
        raise ConfigError(f"extraction: {error}") from error


def _execution(wish: ExtractionConfig) -> Execution:
    if wish.decoder != "pillow" and wish.pixel_cache is not None:
        raise ConfigError(
            f"extraction: pixel_cache keeps what Pillow decodes, which is the same on every machine, and decoder is "
            f"{wish.decoder}; leave one of them out"
        )
    try:
        return Execution(**wish.model_dump(exclude={"precision", "dtype", "decoder", "max_pixels"}))
    except ValueError as error:
        raise ConfigError(f"extraction: {error}") from error


def _cache_size(wanted: Sequence[Wanted], folder: Path, limit_gb: float | None) -> str:
    """What the pixel cache takes at most, and what there is, for people."""
    from featurebank.extract.pixel_cache import expected_bytes

    missing = [w for w in wanted if w.outcome.state == "missing"]
    needed = expected_bytes((w.request.backbone.preprocessing, w.request.split, w.outcome.n_rows) for w in missing)
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    limit = "" if limit_gb is None else f", limit {limit_gb:g} GB"
    free = shutil.disk_usage(there).free
    return f"pixel cache {folder}: at most {needed / 1e9:.3g} GB for this run{limit}, {free / 1e9:.3g} GB free"


def _extract(
    wanted: Sequence[Wanted], splits: Sequence[Split], execution: Execution, observer: Observer | None, client: Any
) -> int:
    """In this process, or on the cluster of a client; how many images were in the pixel cache."""
    from featurebank.extract.compute import Local
    from featurebank.extract.engine import extract

    if client is None:
        local = Local(execution.device, execution)
        extract(wanted, splits, execution=execution, observer=observer, compute=local)
        return local.cached
    from featurebank.pipelines.extracting.scale.cluster import Cluster

    with Cluster(client, splits, execution.device, execution) as cluster:
        extract(wanted, splits, execution=execution, observer=observer, compute=cluster)
        return cluster.cached


def _name_backbones(wanted: Sequence[Wanted], store: FeatureStore) -> None:
    """Calls each backbone what tells it apart from others of its name, in the run and in the store."""
    specs = {w.request.backbone for w in wanted}
    own = [network_of(spec.name, {"backbone": {"weights": spec.weights.identity}}, told(spec)) for spec in specs]
    there = store.ls() if store.root.is_dir() else []
    called = names_of([*(entry.network for entry in there if entry.network), *own])
    for w in wanted:
        spec = w.request.backbone
        w.outcome.backbone = called[spec.name, spec.weights.identity]


def _check_questions(config: RunConfig, store: FeatureStore) -> None:
    """Raises ConfigError for questions about splits that are nowhere, together with all else that will fail."""
    known = {(datasets.label_of(spec), spec.split) for d in config.datasets for spec in dataset_specs(d)}
    known |= text_places(config.texts, {dataset for dataset, _ in known})
    if store.root.is_dir():
        known |= {(entry.dataset, entry.split) for entry in store.ls()}
    listed = ", ".join(sorted(f"{dataset}/{split}" for dataset, split in known))
    faults = []
    for index, one in enumerate(config.questions):
        further = [text for texts in one.asked().further.values() for text in texts]
        for text in (*one.of, *further):
            try:
                key = parse_key(text, {dataset for dataset, _ in known})
            except KeyError:
                key = None
            names = () if key is None else [split for split in (key.train, key.test) if split]
            if key is None or any((key.dataset, split) not in known for split in names):
                faults.append(f"questions.{index}: {text!r} is no set of this run; its splits: {listed}")
    if faults:
        raise ConfigError("\n  ".join(["", *faults, *_unknown(config)]).lstrip("\n "))


def _unknown(config: RunConfig) -> Iterator[str]:
    """What of a run cannot be had, as far as names and listings say."""
    for index, backbone in enumerate(config.backbones):
        try:
            backbones.describe(backbone.name)
        except Exception as error:
            yield f"backbones.{index}: {fault(error)}"
    for index, dataset in enumerate(config.datasets):
        try:
            known = datasets.splits(dataset.name, dataset.root)
        except Exception as error:
            yield f"datasets.{index}: {fault(error)}"
            continue
        for entry in dataset.splits:
            whole = entry.split.removesuffix("-train80").removesuffix("-test20")
            if whole not in known:
                yield f"datasets.{index}: {unknown_name(f'split of {dataset.name}', entry.split, known)}"


def _ask_all(
    questions: Sequence[QuestionConfig],
    outcomes: Sequence[Outcome],
    store: FeatureStore,
    *,
    force: bool,
    say: Callable[[str], None],
) -> Answers:
    """Every question to each backbone of the run; those that lack a set are passed over."""
    made = [outcome for outcome in outcomes if outcome.state in ("present", "sealed")]
    fingerprints = [outcome.fingerprint for outcome in made]
    asked = []
    for one in questions:
        question, together = one.asked(), Selection()
        for backbone in dict.fromkeys(outcome.backbone for outcome in made):
            try:
                some = select(store, question, one.of, backbones=[backbone], fingerprints=fingerprints)
            except (StoreError, ConfigError) as error:
                together.passed_over.append(str(error))
                continue
            together.cases += some.cases
            together.failed |= some.failed
        asked.append((question, together))
    return ask(store, asked, force=force, say=say)
