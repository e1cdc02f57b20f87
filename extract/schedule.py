"""How the stages of a pass overlap, on a CPU and on a GPU.

CPU: one lane per core, each decoding and forwarding its own batches on one thread. The lanes never wait for one
another, a core is never idle while there is work, and a row's numbers do not depend on how many lanes there are.
GPU: decode threads fill pinned batches slice by slice, one thread feeds each device and stays two batches ahead of it,
and the writing thread waits for results. Reading runs ahead, and writing lags behind, in threads of their own on both.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.extract.batches import Batch, Preparer, Reader
from featurebank.extract.forward import Runner
from featurebank.extract.progress import Clock
from featurebank.extract.sink import Sink, Target

__all__ = ["Line", "Pass", "run_pass", "stage_threads"]

T = TypeVar("T")

READERS = 2
SLICE = 16
IN_FLIGHT = 6
"""Batches from their allocation until a device has passed them, for each device."""
LAUNCHED = 2
"""Batches that the device has been given and has not passed: enough that it never waits for the next."""


@dataclass(frozen=True)
class Line:
    """One feature set of a pass: its network, the pixels it takes, and where its rows go."""

    runner: Runner
    pixels: object
    target: Target


@dataclass
class Pass:
    """Everything the threads of one pass share.

    Attributes:
        lines: the feature sets that are fed.
        work: the batches, in order.
        read: fills a batch's contents.
        prepare: fills a batch's pixels.
        sink: takes results.
        clock: where busy seconds go.
        workers: lanes or decode threads.
        stop: set when the pass shall end early.
        errors: what threads died of.
        rows_done: images that went through.
    """

    lines: Sequence[Line]
    work: Iterator[Batch]
    read: Reader
    prepare: Preparer
    sink: Sink
    clock: Clock
    workers: int
    stop: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)
    rows_done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finished(self, batch: Batch) -> None:
        """Counts a batch that went through."""
        with self.lock:
            self.rows_done += len(batch)

    def live(self, batch: Batch) -> Iterator[Line]:
        """The feature sets that still want this batch."""
        for member in batch.members:
            line = self.lines[member]
            if line.target.error is None:
                yield line


def run_pass(shared: Pass, *, cuda: bool, poll: Callable[[], None]) -> None:
    """Runs all batches through all lines; returns when everything is in the sink's queue.

    Args:
        shared: what the threads share.
        cuda: whether the networks are on a GPU.
        poll: called about ten times a second from the calling thread; may set ``shared.stop``.

    Raises:
        BaseException: the first error of any thread.
    """
    schedule = _GpuSchedule(shared) if cuda else _CpuSchedule(shared)
    threads = [
        threading.Thread(target=_guarded, args=(shared, target), name=f"featurebank-{name}", daemon=True)
        for name, target in schedule.targets()
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
                if shared.sink.error is not None or all(line.target.error is not None for line in shared.lines):
                    shared.stop.set()
                poll()
    finally:
        shared.stop.set()
        for thread in threads:
            thread.join()
    if shared.errors:
        raise shared.errors[0]


def stage_threads(*, gpus: int, lanes: int) -> dict[tuple[str, ...], int]:
    """Which stages of a clock share threads, and how many these are."""
    if gpus:
        return {("read",): READERS, ("decode", "transform"): lanes, ("forward",): gpus, ("write",): 1}
    return {("read",): READERS, ("decode", "transform", "forward"): lanes, ("write",): 1}


@contextmanager
def alone(line: Line) -> Iterator[None]:
    """What a network raises ends its own feature set."""
    try:
        yield
    except Exception as error:
        line.target.error = error


def _guarded(shared: Pass, target: Callable[[], None]) -> None:
    try:
        target()
    except BaseException as error:
        shared.errors.append(error)
        shared.stop.set()


class _Schedule:
    """Reading ahead, common to both."""

    def __init__(self, shared: Pass, ahead: int) -> None:
        self.shared = shared
        self.read_queue: queue.Queue[Batch | None] = queue.Queue(ahead)
        self._readers = READERS
        self._lock = threading.Lock()

    def readers(self) -> list[tuple[str, Callable[[], None]]]:
        return [(f"read-{i}", self._read) for i in range(READERS)]

    def _read(self) -> None:
        try:
            while not self.shared.stop.is_set():
                with self._lock:
                    batch = next(self.shared.work, None)
                if batch is None:
                    return
                self.shared.read(batch)
                put(self.read_queue, batch, self.shared.stop)
        finally:
            with self._lock:
                self._readers -= 1
                last = self._readers == 0
            if last:
                put(self.read_queue, None, self.shared.stop)

    def next_read(self) -> Batch | None:
        """The next batch, or ``None`` at the end; the end is passed on to the other threads."""
        batch = get(self.read_queue, self.shared.stop)
        if batch is None:
            put(self.read_queue, None, self.shared.stop)
        return batch


class _CpuSchedule(_Schedule):
    def __init__(self, shared: Pass) -> None:
        super().__init__(shared, ahead=shared.workers + READERS)

    def targets(self) -> list[tuple[str, Callable[[], None]]]:
        return [*self.readers(), *((f"lane-{i}", self._lane) for i in range(self.shared.workers))]

    def _lane(self) -> None:
        torch.set_num_threads(1)
        shared = self.shared
        while (batch := self.next_read()) is not None:
            shared.prepare.allocate(batch)
            shared.prepare(batch, batch.start, batch.stop)
            for line in shared.live(batch):
                with alone(line), shared.clock.stage("forward"):
                    outputs = line.runner(batch.pixels[line.pixels])
                    arrays = {name: value.numpy() for name, value in outputs.items()}
                if line.target.error is None:
                    shared.sink.put(line.target, batch.start, lambda arrays=arrays: arrays, batch.failed)  # type: ignore[misc]
            shared.finished(batch)


class _GpuSchedule(_Schedule):
    def __init__(self, shared: Pass) -> None:
        super().__init__(shared, ahead=1)
        self._slices: queue.Queue[tuple[Batch, int, int] | None] = queue.Queue(4 * shared.workers)
        self._prepared: queue.Queue[Batch | None] = queue.Queue()
        self._devices = max(1 + len(line.runner.beside) for line in shared.lines)
        self._in_flight = threading.Semaphore(IN_FLIGHT * self._devices)
        self._preparers = shared.workers

    def targets(self) -> list[tuple[str, Callable[[], None]]]:
        return [
            *self.readers(),
            ("slice", self._slice),
            *((f"prepare-{i}", self._prepare) for i in range(self.shared.workers)),
            *((f"forward-{number}", partial(self._forward, number)) for number in range(self._devices)),
        ]

    def _slice(self) -> None:
        stop = self.shared.stop
        while (batch := self.next_read()) is not None:
            while not self._in_flight.acquire(timeout=0.1):
                if stop.is_set():
                    return
            self.shared.prepare.allocate(batch)
            for first in range(batch.start, batch.stop, SLICE):
                put(self._slices, (batch, first, min(first + SLICE, batch.stop)), stop)
        for _ in range(self.shared.workers):
            put(self._slices, None, stop)

    def _prepare(self) -> None:
        try:
            while (part := get(self._slices, self.shared.stop)) is not None:
                if self.shared.prepare(*part):
                    put(self._prepared, part[0], self.shared.stop)
        finally:
            with self._lock:
                self._preparers -= 1
                last = self._preparers == 0
            if last:
                put(self._prepared, None, self.shared.stop)

    def _forward(self, number: int) -> None:
        """Feeds one of the devices; each takes the next batch that is prepared."""
        shared = self.shared
        runners = {id(line): (line.runner, *line.runner.beside)[number] for line in shared.lines}
        device = runners[id(shared.lines[0])].device
        if device.index is not None:
            torch.cuda.set_device(device)
        copying: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        launched: deque[Callable[[], None]] = deque()
        while (batch := get(self._prepared, shared.stop)) is not None:
            on_device: dict[object, torch.Tensor] = {}
            for line in shared.live(batch):
                with alone(line), shared.clock.stage("forward"):
                    if line.pixels not in on_device:
                        on_device[line.pixels] = _uploaded(batch.pixels[line.pixels], device, copying)
                    fetch = _on_host(runners[id(line)](on_device[line.pixels]))
                if line.target.error is None:
                    shared.sink.put(line.target, batch.start, fetch, batch.failed)
            launched.append(_passed(batch, device))
            if len(launched) > LAUNCHED:
                launched.popleft()()
                self._in_flight.release()
            shared.finished(batch)
        put(self._prepared, None, shared.stop)  # for the next device's thread
        while launched:
            launched.popleft()()
            self._in_flight.release()


def _uploaded(pixels: torch.Tensor, device: torch.device, copying: torch.cuda.Stream) -> torch.Tensor:
    """Once for all networks of a geometry, on a stream of its own: while the batch before is computed."""
    if pixels.device.type == "cuda":
        return pixels.to(device, non_blocking=True)  # decoded on one of the devices
    with torch.cuda.stream(copying):
        on_device = pixels.to(device, non_blocking=True)
    computing = torch.cuda.current_stream(device)
    computing.wait_stream(copying)
    on_device.record_stream(computing)
    return on_device


def _on_host(outputs: Mapping[str, torch.Tensor]) -> Callable[[], dict[str, NDArray[np.generic]]]:
    """Starts the copy back; the answer waits for it."""
    host = {name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for name, value in outputs.items()}
    for name, value in outputs.items():
        host[name].copy_(value, non_blocking=True)
    wait = _event(next(iter(outputs.values())).device)

    def fetch() -> dict[str, NDArray[np.generic]]:
        wait()
        return {name: value.numpy() for name, value in host.items()}

    return fetch


def _passed(batch: Batch, device: torch.device) -> Callable[[], None]:
    """Waits until all that a device was given so far is done. Holds the batch, whose pinned pixels are in use."""
    wait, held = _event(device), [batch]

    def passed() -> None:
        wait()
        held.clear()

    return passed


def _event(device: torch.device) -> Callable[[], None]:
    """What waits for all that a device was given so far, without a core that spins."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))  # the thread's own device may be another
    return event.synchronize


def put(to: queue.Queue[T], item: T, stop: threading.Event) -> None:
    """Puts, but gives up when the pass is stopped."""
    while not stop.is_set():
        try:
            to.put(item, timeout=0.1)
        except queue.Full:
            continue
        return


def get(source: queue.Queue[T | None], stop: threading.Event) -> T | None:
    """Gets, or ``None`` when the pass is stopped."""
    while not stop.is_set():
        try:
            return source.get(timeout=0.1)
        except queue.Empty:
            continue
    return None
