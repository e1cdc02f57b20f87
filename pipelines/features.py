"""The batch run: from a configuration to sealed feature sets and, where asked for, a linear probe of each backbone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featurebank.extract import backbones, datasets
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.datasets.contract import DatasetSpec, Split, Subset
from featurebank.extract.device import Execution, cpu_cores, resolve_device, resolve_precision
from featurebank.extract.errors import fault
from featurebank.extract.key import Precision
from featurebank.extract.progress import Observer
from featurebank.extract.provenance import told
from featurebank.extract.wanted import Outcome, Request, Wanted, want
from featurebank.pipelines.config import ConfigError, DatasetConfig, ExtractionConfig, ProbeConfig, RunConfig
from featurebank.pipelines.places import note_place
from featurebank.pipelines.probing.classification import LinearTask
from featurebank.pipelines.probing.run import probe_pair
from featurebank.pipelines.probing.selection import Pair
from featurebank.pipelines.results import Results, Row
from featurebank.pipelines.scale.start import check_request, connected, started
from featurebank.store import Entry, FeatureStore
from featurebank.store.addresses import without_secrets
from featurebank.store.errors import unknown_name
from featurebank.store.naming import names_of, network_of

__all__ = ["ProbeOutcome", "Report", "run_features"]

log = logging.getLogger("featurebank")


@dataclass(kw_only=True)
class ProbeOutcome:
    """What became of one probe of one backbone.

    ``row`` is its accuracy, ``notes`` what to know about it, ``error`` why there is none.
    """

    backbone: str
    probe: ProbeConfig
    row: Row | None = None
    notes: tuple[str, ...] = ()
    known: bool = False
    kept: bool = False
    error: str = ""


@dataclass(kw_only=True)
class Report:
    """What a batch run did.

    Attributes:
        outcomes: one per feature set.
        unavailable: backbone or dataset to the reason it could not be had.
        probes: one per probe and backbone.
        precision: what ``auto`` became.
        device: what ``auto`` became.
    """

    outcomes: list[Outcome]
    unavailable: dict[str, str] = field(default_factory=dict)
    probes: list[ProbeOutcome] = field(default_factory=list)
    precision: str
    device: str

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there."""
        sets = all(outcome.state in ("present", "sealed") for outcome in self.outcomes)
        return sets and not self.unavailable and not any(probe.error for probe in self.probes)

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
    say: Callable[[str], None] = log.info,
) -> Report:
    """Resolves everything, extracts what the store lacks, probes what was asked for.

    A backbone or dataset that cannot be had is reported and does not stop the others.

    Args:
        config: the run.
        workers: how many processes of this machine extract, each on its part of the cores; ``None`` for this one alone.
        scheduler: address of a Dask scheduler whose workers extract; they share this machine's paths.
        observer: called with snapshots while images move.
        force: whether probes that are known are computed again; sealed sets are not.
        say: called with one line at a time, for people.

    Raises:
        ConfigError: two datasets under one name, a probe of a split that is not in the run, workers without Dask, or
            settings of the extraction that the machine cannot follow.
        ExtractError, StoreError: see ``featurebank.extract.engine.extract``.
    """
    check_request(workers, scheduler)
    _check_probes(config)
    wish = config.extraction
    execution = _execution(wish)
    store = FeatureStore(config.store)
    unavailable: dict[str, str] = {}
    with ExitStack() as stack:
        client = None if scheduler is None else stack.enter_context(connected(scheduler))
        device, precision = _resolve_device(wish) if client is None else client.submit(_resolve_device, wish).result()
        specs = _resolve_all(config, unavailable)
        splits, digests = _open_all(config, unavailable)
        requests = [Request(backbone=spec, split=index) for spec in specs for index in digests]
        wanted = want(requests, splits, store, precision=precision, dtype=wish.dtype, digests=digests)
        for w in wanted:
            source = splits[w.request.split].spec
            store.note_content(f"{source.name} in {source.root or ''}", w.key["dataset"])
            note_place(source, w.key["dataset"])
        _name_backbones(wanted, store)
        missing = sum(w.outcome.state == "missing" for w in wanted)
        say(f"{len(wanted)} feature sets wanted: {len(wanted) - missing} sealed already, {missing} to make")
        if missing:
            say(f"device {device}, precision {precision}, stored as {wish.dtype}")
            if workers is not None:
                execution = replace(execution, workers=execution.workers or max(1, cpu_cores() // workers))
                client = stack.enter_context(started(workers, device))
            if execution.pixel_cache is not None:
                say(_cache_size(wanted, execution.pixel_cache, execution.pixel_cache_gb))
            cached = _extract(wanted, splits, replace(execution, device=device), observer, client)
            if cached:
                say(f"{cached:,} images taken from the pixel cache, their files not read")
    for w in wanted:
        ids = splits[w.request.split].ids if w.outcome.failed else ()
        w.outcome.failed_ids = {row: ids[row] for row in w.outcome.failed}
    if copied := sum(w.outcome.copied for w in wanted):
        computed = sum(w.outcome.computed for w in wanted)
        say(f"{copied:,} rows copied from sets that had the same images, {computed:,} computed")
    report = Report(outcomes=[w.outcome for w in wanted], unavailable=unavailable, precision=precision, device=device)
    report.probes = _probe_all(config, wanted, store, force, say)
    return report


def _resolve_device(wish: ExtractionConfig) -> tuple[str, Precision]:
    try:
        device = resolve_device(wish.device)
        if wish.decoder != "pillow":
            from featurebank.extract.gpu_jpeg import check_decoder

            check_decoder(wish.decoder, device)
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
        return Execution(
            device=wish.device,
            batch_size=wish.batch_size,
            workers=wish.workers,
            compile=wish.compile,
            strict=wish.strict,
            backbones_per_pass=wish.backbones_per_pass,
            pixel_cache=wish.pixel_cache,
            pixel_cache_gb=wish.pixel_cache_gb,
            trust_merged=wish.trust_merged,
        )
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
    from featurebank.pipelines.scale.cluster import Cluster

    with Cluster(client, splits, execution.device, execution) as cluster:
        extract(wanted, splits, execution=execution, observer=observer, compute=cluster)
        return cluster.cached


def _resolve_all(config: RunConfig, unavailable: dict[str, str]) -> list[BackboneSpec]:
    specs = []
    for entry in config.backbones:
        try:
            spec = backbones.resolve(
                entry.name, checkpoint=entry.checkpoint, outputs=entry.outputs, checkpoint_key=entry.checkpoint_key
            )
            specs.append(replace(_decoded_by(spec, config.extraction), label=entry.label))
        except Exception as error:
            unavailable[without_secrets(entry.title)] = fault(error)
            log.error("backbone %s cannot be had; why stands at the end", without_secrets(entry.title))
    return specs


def _name_backbones(wanted: Sequence[Wanted], store: FeatureStore) -> None:
    """Calls each backbone what tells it apart from others of its name, in the run and in the store."""
    specs = {w.request.backbone for w in wanted}
    own = [network_of(spec.name, {"backbone": {"weights": spec.weights.identity}}, told(spec)) for spec in specs]
    there = store.ls() if store.root.is_dir() else []
    called = names_of([*(entry.network for entry in there if entry.network), *own])
    for w in wanted:
        spec = w.request.backbone
        w.outcome.backbone = called[spec.name, spec.weights.identity]


def _decoded_by(spec: BackboneSpec, wish: ExtractionConfig) -> BackboneSpec:
    preprocessing = spec.preprocessing
    limit = preprocessing.decode.max_pixels if wish.max_pixels is None else wish.max_pixels
    decode = replace(preprocessing.decode, library=wish.decoder, max_pixels=limit)
    return replace(spec, preprocessing=replace(preprocessing, decode=decode))


def _open_all(config: RunConfig, unavailable: dict[str, str]) -> tuple[list[Split], dict[int, str]]:
    """The splits, and the digest of each, for which every record is read."""
    splits: list[Split] = []
    digests: dict[int, str] = {}
    seen: dict[tuple[str, str], str] = {}
    for dataset in config.datasets:
        for spec in _dataset_specs(dataset):
            place = (datasets.label_of(spec), spec.split)
            if place in seen:
                raise ConfigError(
                    f"{dataset.name} and {seen[place]} would both be {place[0]}/{place[1]} in the store; "
                    "give one of them a label, or one of the subsets another configuration"
                )
            seen[place] = dataset.name
            try:
                split = datasets.open_split(spec)
                digest = datasets.dataset_digest(split)
            except Exception as error:
                unavailable[f"{spec.name}/{spec.split}"] = fault(error)
                log.error("dataset %s/%s cannot be had; why stands at the end", spec.name, spec.split)
                continue
            digests[len(splits)] = digest
            splits.append(split)
    return splits, digests


def _dataset_specs(dataset: DatasetConfig) -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name=dataset.name,
            split=entry.split,
            subset=None
            if entry.subset is None
            else Subset(size=entry.subset.size, stratified=entry.subset.stratified, seed=entry.subset.seed),
            label=dataset.label,
            root=dataset.root,
        )
        for entry in dataset.splits
    ]


def _check_probes(config: RunConfig) -> None:
    """Raises ConfigError for probes of splits that are not in the run, together with all else that will fail."""
    known = [f"{datasets.label_of(spec)}/{spec.split}" for d in config.datasets for spec in _dataset_specs(d)]
    faults = [
        f"probes.{index}.{role}: {place!r} is no split of this run; its splits: {', '.join(known)}"
        for index, probe in enumerate(config.probes)
        for role, place in (("train", probe.train), ("test", probe.test))
        if place not in known
    ]
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


def _probe_all(
    config: RunConfig, wanted: Sequence[Wanted], store: FeatureStore, force: bool, say: Callable[[str], None]
) -> list[ProbeOutcome]:
    sealed: dict[tuple[str, str], Outcome] = {}
    for w in wanted:
        if w.outcome.state in ("present", "sealed"):
            sealed[w.job.backbone, f"{w.outcome.dataset}/{w.outcome.split}"] = w.outcome
    names = {w.job.backbone: w.outcome.backbone for w in wanted}
    results = Results(store.root, force=force)
    found = []
    for probe in config.probes:
        for job, name in names.items():
            train, test = sealed.get((job, probe.train)), sealed.get((job, probe.test))
            if train is None or test is None:
                continue
            say(f"linear probe of {name}: {probe.train} -> {probe.test}")
            pair = Pair(backbone=name, train=_entry(train), test=_entry(test))
            found.append(_probe(probe, pair, results))
    if any(outcome.kept and not outcome.known for outcome in found):
        results.write_table()
    return found


def _entry(outcome: Outcome) -> Entry:
    return Entry(
        dataset=outcome.dataset,
        split=outcome.split,
        backbone=outcome.backbone,
        fingerprint=outcome.fingerprint,
        state="sealed",
        path=outcome.path,
    )


def _probe(probe: ProbeConfig, pair: Pair, results: Results) -> ProbeOutcome:
    outcome = ProbeOutcome(backbone=pair.backbone, probe=probe)
    try:
        result = probe_pair(pair, LinearTask(output=probe.output), results)
    except Exception as error:
        outcome.error = fault(error)
        log.error("probe of %s failed; why stands at the end", pair.backbone)
    else:
        outcome.row, outcome.known, outcome.kept = result.rows[0], result.known, result.kept
        outcome.notes = result.notes
        if not result.kept:
            log.warning("probe of %s: %s", pair.backbone, result.notes[-1])
    return outcome
