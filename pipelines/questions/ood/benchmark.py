"""OpenOOD v1.5's benchmarks (Zhang et al., arXiv:2306.09301): their image lists, extracted and given their parts.

A folder of data is laid out as OpenOOD's own download does it: ``benchmark_imglist/<benchmark>/*.txt`` beside
``images_classic/`` and ``images_largescale/``, which the paths in the lists are relative to. In the store a benchmark
is one dataset, ``openood:imagenet1k``, with a split for each list.

Every set goes through the backbone's own preprocessing. OpenOOD does not resize the images of ImageNet-C.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError
from featurebank.extract.progress import Observer
from featurebank.pipelines.errors import ConfigError
from featurebank.store import FeatureStore, NotFoundError
from featurebank.store.errors import unknown_name

__all__ = ["BENCHMARKS", "Benchmark", "benchmark_sets", "extracted", "get_benchmark"]

log = logging.getLogger("featurebank")

CLASSIC, LARGE = "images_classic", "images_largescale"
LISTS = "benchmark_imglist"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The sets of a benchmark, each by the name of its split in the store.

    Attributes:
        name: of the benchmark.
        folder: of its lists.
        lists: split to the list's file name; ``train``, ``val`` and ``test`` are in distribution.
        near: the near sets.
        far: the far sets.
        shifted: the covariate-shifted sets.
        tuning: the out-of-distribution set that parameters are chosen on.
        large: the splits whose images are under ``images_largescale``; the others are under ``images_classic``.
    """

    name: str
    folder: str
    lists: dict[str, str]
    near: tuple[str, ...]
    far: tuple[str, ...]
    shifted: tuple[str, ...]
    tuning: str
    large: frozenset[str]

    @property
    def dataset(self) -> str:
        """What the store calls it."""
        return f"openood:{self.name}"

    def place(self, split: str) -> str:
        """DATASET/SPLIT in the store."""
        return f"{self.dataset}/{split}"


def _cifar(name: str, other: str, shifted: dict[str, str]) -> Benchmark:
    near, far = (other, "tin"), ("mnist", "svhn", "texture", "places365")
    own = {split: f"{split}_{name}.txt" for split in ("train", "val", "test")}
    return Benchmark(
        name=name,
        folder=name,
        lists=own | {split: f"test_{split}.txt" for split in (*near, *far)} | {"tin_val": "val_tin.txt"} | shifted,
        near=near,
        far=far,
        shifted=tuple(shifted),
        tuning="tin_val",
        large=frozenset(),
    )


def _imagenet(name: str, folder: str, shifted: str) -> Benchmark:
    near, far = ("ssb_hard", "ninco"), ("inaturalist", "textures", "openimage_o")
    own = {split: f"{split}_{folder}.txt" for split in ("train", "val", "test")}
    moved = {f"imagenet_{kind}": f"test_{shifted}_{kind}.txt" for kind in ("v2", "c", "r")}
    lists = own | {split: f"test_{split}.txt" for split in (*near, *far)}
    lists |= {"openimage_o_val": "val_openimage_o.txt"} | moved
    return Benchmark(
        name=name,
        folder=folder,
        lists=lists,
        near=near,
        far=far,
        shifted=tuple(moved),
        tuning="openimage_o_val",
        large=frozenset(lists) - {"textures"},
    )


BENCHMARKS: Final = {
    benchmark.name: benchmark
    for benchmark in (
        _cifar("cifar10", "cifar100", {"cifar10c": "test_cifar10c.txt"}),
        _cifar("cifar100", "cifar10", {}),
        _imagenet("imagenet200", "imagenet200", "imagenet200"),
        _imagenet("imagenet1k", "imagenet", "imagenet"),
    )
}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    >>> get_benchmark("imagenet1k").near
    ('ssb_hard', 'ninco')

    Raises:
        UnknownNameError: there is none.
    """
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def benchmark_sets(benchmark: Benchmark, store: FeatureStore, backbones: Sequence[str]) -> dict[str, Any]:
    """The sets of each role; shifted sets and the one to choose on only where every backbone named has them.

    Raises:
        NotFoundError: a backbone has none of it.
    """
    entries = store.ls(dataset=benchmark.dataset)
    places = {(entry.split, entry.name) for entry in entries}
    names = {entry.name for entry in entries if not backbones or {entry.name, entry.backbone} & {*backbones}}
    if not names:
        raise NotFoundError(
            f"{store.root} has no features of {benchmark.dataset}; extract them with --backbone and --data"
        )

    def there(split: str) -> bool:
        return all((split, name) in places for name in names)

    return {
        "ood": tuple(benchmark.place(split) for split in benchmark.far),
        "near": tuple(benchmark.place(split) for split in benchmark.near),
        "shifted": tuple(benchmark.place(split) for split in benchmark.shifted if there(split)),
        "tuning": benchmark.place(benchmark.tuning) if there(benchmark.tuning) else None,
    }


def extracted(
    benchmark: Benchmark,
    store: FeatureStore,
    backbones: Sequence[str],
    *,
    data: Path,
    lists: Path | None = None,
    device: str = "auto",
    observer: Observer | None = None,
) -> dict[str, Split]:
    """Extracts what the store lacks of the benchmark's sets. A shifted set without list or images is passed over.

    Args:
        benchmark: which.
        store: where features go.
        backbones: names.
        data: the folder of images.
        lists: the folder of image lists; that under ``data`` if None.
        device: of extraction, in its automatic precision.
        observer: called with snapshots while images move.

    Returns:
        The datasets by DATASET/SPLIT, open.

    Raises:
        ConfigError: no backbone, or a feature set that could not be made.
        ExtractError: a backbone or a list that cannot be had, or images that are missing.
    """
    from featurebank.extract.backbones import resolve
    from featurebank.extract.device import Execution, resolve_device, resolve_precision
    from featurebank.extract.engine import extract
    from featurebank.extract.wanted import Request, want

    if not backbones:
        raise ConfigError("--benchmark with --data needs --backbone, a name such as torchvision:resnet50/IMAGENET1K_V1")
    splits = _open(benchmark, data, data / LISTS if lists is None else lists)
    requests = [Request(backbone=resolve(name), split=index) for name in backbones for index in range(len(splits))]
    device = resolve_device(device)
    wanted = want(requests, splits, store, precision=resolve_precision("auto", device), read_once=True)
    if any(one.outcome.state == "missing" for one in wanted):
        extract(wanted, splits, execution=Execution(device=device), observer=observer)
    if failed := [one.outcome for one in wanted if one.outcome.state not in ("present", "sealed")]:
        first = failed[0]
        raise ConfigError(
            f"{len(failed)} feature sets could not be made; {first.backbone} on {first.dataset}/{first.split}: "
            f"{first.error or first.state}"
        )
    return {benchmark.place(split.spec.split): split for split in splits}


def _open(benchmark: Benchmark, data: Path, lists: Path) -> list[Split]:
    from featurebank.extract.datasets import open_split

    found = []
    for split, file in benchmark.lists.items():
        path = lists / benchmark.folder / file
        root = data / (LARGE if split in benchmark.large else CLASSIC)
        try:
            one = open_split(DatasetSpec(name=f"list:{path}", split="all", root=root))
        except DatasetError as error:
            if split not in benchmark.shifted:
                raise
            log.warning("%s is passed over: %s", benchmark.place(split), error)
            continue
        one.spec = DatasetSpec(name=benchmark.dataset, split=split)
        found.append(one)
    return found
