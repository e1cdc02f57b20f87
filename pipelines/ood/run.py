"""The question of ``featurebank ood``, from its keys to a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurebank.extract.datasets.contract import Split
from featurebank.extract.progress import Observer
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.ood.benchmark import benchmark_keys, extract_benchmark, get_benchmark
from featurebank.pipelines.ood.selection import Keys, out_sets, select_backbones
from featurebank.pipelines.ood.task import build_task
from featurebank.pipelines.ood.wrong import Album, parse_images
from featurebank.pipelines.pictures import write_page
from featurebank.pipelines.probing.run import ProbeReport, run_probes
from featurebank.store import FeatureStore

__all__ = ["prepare", "run_ood"]


def prepare(
    benchmark: str,
    folder: Path,
    backbones: Sequence[str],
    *,
    data: Path | None = None,
    lists: Path | None = None,
    device: str | None = None,
    observer: Observer | None = None,
) -> tuple[Keys, FeatureStore, dict[str, Split]]:
    """The sets of a benchmark and the store that has them, extracted where a folder of data is given, and then open.

    Raises:
        UnknownNameError, NotFoundError, ConfigError, ExtractError: see `extract_benchmark` and `benchmark_keys`.
    """
    recipe, store = get_benchmark(benchmark), FeatureStore(folder)
    opened: dict[str, Split] = {}
    if data is not None:
        opened = extract_benchmark(
            recipe, store, backbones, data=data, lists=lists, device=device or "auto", observer=observer
        )
    elif lists is not None:
        raise ConfigError("--lists must come with --data, the folder of the images; found none")
    return benchmark_keys(recipe, store, backbones), store, opened


def run_ood(
    store: FeatureStore,
    keys: Keys,
    options: Mapping[str, Any],
    *,
    backbones: Sequence[str] = (),
    fingerprints: Sequence[str] = (),
    html: Path | None = None,
    images: Sequence[str] = (),
    opened: Mapping[str, Split] | None = None,
    force: bool = False,
) -> ProbeReport:
    """Answers for every backbone that has the sets, and writes the page.

    Args:
        store: the store.
        keys: the sets.
        options: of the task; None leaves one at its default.
        backbones: only these; all if empty.
        fingerprints: beginnings, where several sets match.
        html: where the page goes, if one is wanted.
        images: DATASET=PLACE each, where the page finds images.
        opened: datasets that are open already, by DATASET/SPLIT.
        force: whether what is known is computed again.

    Raises:
        UnknownNameError, NotFoundError, ConfigError: something that does not exist, or does not go together.
    """
    places, entries = parse_images(images), store.ls()
    if html is None and places:
        raise ConfigError("--images must come with --html FILE; found none")
    sets = out_sets(
        entries, keys.ood, keys.near, shifted=keys.shifted, tuning=keys.tuning, held_out=bool(keys.id_classes)
    )
    task = build_task(sets, {**options, "id_classes": keys.id_classes or None})
    selected = select_backbones(store, keys.inside, sets, backbones=backbones, fingerprints=fingerprints)
    if html is not None and not html.parent.is_dir():
        raise ConfigError(f"--html: expected a folder at {html.parent}, found none; make it first")
    report = run_probes(store, selected, [task], force=force)
    if html is not None and any(one.result for one in report.probed):
        from featurebank.pipelines.ood.page import render_page
        from featurebank.pipelines.results import Results

        album = Album(entries, places=places, opened=opened)
        write_page(html, render_page(report, Results(store.root), album), report)
    return report
