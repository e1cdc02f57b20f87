"""Times one backbone in the process that runs this module: a wish as JSON on stdin, what was found last on stdout.

What is timed is what `features` runs without its compiler: 8-bit pixels in, normalisation, all outputs, memory in the
order of channels last; of random weights, because speed does not depend on them. Pixels lie on the device already, and
each pass ends with a synchronisation. With decoding, a pass begins with the bytes of JPEGs, and nothing overlaps.

Shapes: B batch, H, W the network's input, C = 3 channels.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.extract.backbones import build, outline, without_weights
from featurebank.extract.compute import numerics
from featurebank.extract.datasets import DatasetSpec, open_split
from featurebank.extract.decode import decode
from featurebank.extract.errors import ExtractError, fault
from featurebank.extract.forward import PixelsToFeatures, is_out_of_memory
from featurebank.extract.memory import keep_freed_memory
from featurebank.extract.transform import Transform
from featurebank.pipelines.jobs.efficiency.energy import Meter
from featurebank.pipelines.jobs.efficiency.record import Found, Wish

__all__ = ["IMAGES", "Bench", "best_batch", "measure", "search", "timed"]

IMAGES = DatasetSpec(name="imagenet_20", split="all")
"""What is decoded: photographs of ImageNet's usual size."""

Encoded: TypeAlias = bytes | NDArray[np.uint8]
"""What a split reads."""

LARGEST_BATCH = 1024
GAIN = 1.02
"""What a batch of twice the size must gain to be worth its memory."""

PATIENCE = 2
"""Doublings without a gain after which larger batches are not tried."""

LONGEST_PASS = 5.0
"""Seconds of a pass after which larger batches are not tried."""


class Bench:
    """A network on its device, ready to be timed.

    Args:
        wish: which one, and how it runs.
    """

    def __init__(self, wish: Wish) -> None:
        self.device = torch.device(wish.device)
        self.spec = without_weights(wish.backbone)
        outline(self.spec)  # imports the code, which is no memory of the network
        self._start = _memory("VmRSS")
        network = build(self.spec)
        self.module = PixelsToFeatures(network, self.spec, wish.precision, "float16").to(self.device)
        self._transform = Transform(self.spec.preprocessing)
        self._forget_peak()

    def pixels(self, n: int) -> torch.Tensor:
        """(B, H, W, C) uint8 noise on the device."""
        size = self.spec.preprocessing
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (n, size.height, size.width, 3), dtype=torch.uint8, generator=generator)
        return noise.to(self.device)

    def run(self, pixels: torch.Tensor) -> None:
        """One pass, until its results are there."""
        with torch.inference_mode():
            self.module(pixels)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run_files(self, files: Sequence[Encoded]) -> None:
        """One pass that begins with the bytes of files."""
        settings = self.spec.preprocessing.decode
        prepared = np.stack([self._transform(decode(data, settings)) for data in files])
        self.run(torch.from_numpy(prepared).to(self.device))

    def peak_memory(self) -> int:
        """Bytes at most since the network was built, over what the process had before."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return max(0, _memory("VmHWM") - self._start)

    def _forget_peak(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with suppress(AttributeError):  # of another C library
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # then building counts too
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(wish: Wish) -> Found:
    """Latency of one image, throughput of a batch, memory and energy, in this process.

    Raises:
        ValueError: the wish has no batch.
        ExtractError, UnknownNameError: the backbone cannot be had.
    """
    if wish.batch is None:
        raise ValueError("batch must be a number of images; found None, which is for search")
    with _ready(wish) as bench:
        one, many = bench.pixels(1), bench.pixels(wish.batch)
        latency = timed(lambda: bench.run(one), wish.seconds)
        meter = Meter(wish.device)
        passes = timed(lambda: bench.run(many), wish.seconds, meter=meter)
        peak = bench.peak_memory()
        files, reason = _files()
        decoded, rate = [], None
        if files:
            stream = cycle(files)
            decoded = timed(lambda: bench.run_files([next(stream)]), wish.seconds)
            batch = list(islice(stream, wish.batch))
            rate = _rate(timed(lambda: bench.run_files(batch), wish.seconds), wish.batch)
    return Found(
        latency=latency,
        latency_with_decode=decoded,
        throughput=_rate(passes, wish.batch),
        throughput_with_decode=rate,
        peak_memory=peak,
        energy=None if meter.joules is None else meter.joules / (wish.batch * len(passes)),
        no_images=reason,
        torch=torch.__version__,
    )


def search(wish: Wish) -> dict[int, float]:
    """Images a second at batches of 1, 2, 4 …, until memory or speed says stop."""
    rates: dict[int, float] = {}
    with _ready(wish) as bench:
        batch, behind = 1, 0
        while batch <= LARGEST_BATCH and behind < PATIENCE:
            before = bench.peak_memory()
            try:
                pixels = bench.pixels(batch)
                seconds = timed(lambda: bench.run(pixels), wish.seconds / 4)  # noqa: B023 - called at once
            except (RuntimeError, MemoryError) as error:
                if not (rates and is_out_of_memory(error)):
                    raise
                break
            rate = _rate(seconds, batch)
            behind = 0 if rate > GAIN * max(rates.values(), default=0.0) else behind + 1
            rates[batch] = rate
            if min(seconds) > LONGEST_PASS or not _fits(bench, before):
                break
            batch *= 2
    return rates


def best_batch(rates: Mapping[int, float]) -> int:
    """The smallest batch of which no larger one is faster by more than `GAIN`.

    >>> best_batch({1: 40.0, 2: 60.0, 4: 70.0, 8: 71.0, 16: 69.0})
    4
    """
    return min(batch for batch, rate in rates.items() if rate * GAIN >= max(rates.values()))


def timed(
    call: Callable[[], object], seconds: float, *, least: int = 3, meter: AbstractContextManager[object] | None = None
) -> list[float]:
    """Seconds of each call, made for that long and at least a few times, after one or more for half as long to warm up.

    Args:
        call: what is timed.
        seconds: how long.
        least: how many calls at least.
        meter: entered for the calls that count.
    """
    _repeat(call, seconds / 2, 1)
    with meter or nullcontext():
        return _repeat(call, seconds, least)


def _repeat(call: Callable[[], object], seconds: float, least: int) -> list[float]:
    found: list[float] = []
    begin = time.perf_counter()
    while len(found) < least or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def _rate(seconds: Sequence[float], batch: int) -> float:
    return batch * len(seconds) / sum(seconds)


@contextmanager
def _ready(wish: Wish) -> Iterator[Bench]:
    """A bench in a process that is set up as `features` sets itself up, but for its threads."""
    if wish.device.startswith("cpu"):
        keep_freed_memory()
    with numerics():
        torch.set_num_threads(wish.threads)
        yield Bench(wish)


def _files() -> tuple[list[Encoded], str]:
    """The images to decode, and why there are none."""
    try:
        split = open_split(IMAGES)
        return [split.read(row) for row in range(len(split))], ""
    except (ExtractError, OSError) as error:
        return [], fault(error)


def _fits(bench: Bench, before: int) -> bool:
    """Whether a CPU's memory holds twice what the last batch added; a GPU says so itself."""
    if bench.device.type != "cpu":
        return True
    return 2 * (bench.peak_memory() - before) < _memory("MemAvailable", "/proc/meminfo")


def _memory(name: str, file: str = "/proc/self/status") -> int:
    """Bytes of a line of the kernel's."""
    lines = Path(file).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> int:
    """Answers the wish on stdin; what goes wrong is one line on stderr.

    Returns:
        the exit code.
    """
    wish = Wish(**json.load(sys.stdin))
    try:
        answer = asdict(measure(wish)) if wish.batch else best_batch(search(wish))
    except Exception as error:
        sys.stderr.write(f"\n{fault(error)}\n")
        return 1
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
