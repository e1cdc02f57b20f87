"""Each stage of an extraction by itself, with the same threads and the same code as the engine's own."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from featurebank.extract import backbones, datasets
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.batches import Batch, Preparer, Reader, batches
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.device import Execution, cpu_cores, resolve_device, resolve_precision
from featurebank.extract.engine import extract
from featurebank.extract.forward import PixelsToFeatures, Runner
from featurebank.extract.key import Precision
from featurebank.extract.memory import keep_freed_memory
from featurebank.extract.progress import Clock
from featurebank.extract.wanted import Outcome, Request, want
from featurebank.store import FeatureStore

T = TypeVar("T")

__all__ = ["Setting", "decode_only", "forward_only", "full_run", "median", "open_folder", "runner_of", "setting"]


@dataclass(frozen=True)
class Setting:
    """Device, precision and sizes a benchmark runs with: what `auto` gives on this machine."""

    device: str
    precision: Precision
    batch_size: int
    workers: int


def setting() -> Setting:
    """The engine's own defaults, and its allocator's."""
    keep_freed_memory()
    device = resolve_device("auto")
    batch_size = 256 if device.startswith("cuda") else 16
    return Setting(device, resolve_precision("auto", device), batch_size, cpu_cores())


def open_folder(folder: Path) -> Split:
    """The image folder as a split, its files hashed beforehand."""
    split = datasets.open_split(DatasetSpec(name=f"folder:{folder}", split="all"))
    split.content_hashes()
    return split


def decode_only(split: Split, specs: Sequence[BackboneSpec], use: Setting) -> float:
    """Seconds to read, decode and transform every image for all the backbones."""
    clock = Clock()
    read = Reader(split, clock, strict=True)
    prepare = Preparer(split, [spec.preprocessing for spec in specs], clock, strict=True, pinned=False)
    everything = ((0, len(split)),)
    work = batches([(0, len(split))], [everything] * len(specs), 16)

    def one(batch: Batch) -> None:
        read(batch)
        prepare.allocate(batch)
        prepare(batch, batch.start, batch.stop)

    return _in_threads(work.__next__, one, use.workers)


def runner_of(spec: BackboneSpec, use: Setting, *, packed: bool) -> Runner:
    """The backbone as the engine runs it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module = PixelsToFeatures(backbones.build(spec), spec, use.precision, "float16")
        return Runner(module, device=use.device, batch_size=use.batch_size, compiled=False, packed=packed)
    finally:
        torch.set_num_threads(threads)


def forward_only(runner: Runner, spec: BackboneSpec, n: int, use: Setting) -> float:
    """Seconds to pass ``n`` images that are decoded already."""
    size = (use.batch_size, spec.preprocessing.height, spec.preprocessing.width, 3)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8)
    remaining = iter(range(0, n, use.batch_size))

    def one(start: int) -> None:
        outputs = runner(pixels[: n - start])
        for value in outputs.values():
            value.cpu()

    return _in_threads(remaining.__next__, one, 1 if use.device.startswith("cuda") else use.workers)


def full_run(split: Split, specs: Sequence[BackboneSpec], use: Setting, *, packed: bool) -> list[Outcome]:
    """One extraction into a fresh store; seconds of the passes are ``n / images_per_second`` of the outcomes."""
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder))
        requests = [Request(backbone=spec, split=0) for spec in specs]
        wanted = want(requests, [split], store, precision=use.precision)
        execution = Execution(
            device=use.device, batch_size=use.batch_size, workers=use.workers, compile="auto" if packed else "never"
        )
        outcomes = extract(wanted, [split], execution=execution)
    for outcome in outcomes:
        if outcome.state != "sealed":
            raise SystemExit(f"{outcome.backbone} was not sealed: {outcome.error}")
    return outcomes


def median(values: Sequence[float]) -> float:
    """The median of seconds."""
    return statistics.median(values)


def _in_threads(source: Callable[[], T], work: Callable[[T], None], workers: int) -> float:
    lock = threading.Lock()

    def lane() -> None:
        torch.set_num_threads(1)
        while True:
            with lock:
                try:
                    item = source()
                except StopIteration:
                    return
            work(item)

    threads = [threading.Thread(target=lane) for _ in range(workers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start
