"""Turns the engine's counters into snapshots: images a second, time left, and what limits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from featurebank.extract.plan import Task
from featurebank.extract.progress import Clock, JobProgress, Observer, Snapshot, shares

__all__ = ["Measured", "Meter", "limiting"]

WINDOW_SECONDS = 5.0
SHOW_EVERY = 0.2


@dataclass
class Measured:
    """The wall-clock of one pass."""

    start: float
    seconds: float = 0.0

    def rate(self, images: int) -> float:
        """Images per second."""
        return images / self.seconds if self.seconds else 0.0


class Meter:
    """Counts images over the passes of a run and shows snapshots at a bounded rate.

    Args:
        progress: of each feature set.
        clock: where busy seconds are.
        observer: takes snapshots.
        threads: stages that share threads, to how many these are.
    """

    def __init__(
        self,
        progress: Callable[[], tuple[JobProgress, ...]],
        clock: Clock,
        observer: Observer | None,
        threads: Mapping[tuple[str, ...], int],
    ) -> None:
        self._progress = progress
        self._threads = threads
        self._clock = clock
        self._observer = observer
        self._rows_planned = 0
        self._rows_before = 0
        self._rows = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._shown = 0.0

    def begin(self, tasks: Sequence[Task]) -> None:
        """The plan is known: so is how many images there are still to send through."""
        self._rows_planned = self._rows_before + sum(task.stop - task.start for task in tasks)

    @contextmanager
    def measure(self) -> Iterator[Measured]:
        """The wall-clock of one pass, over which ``show`` counts images from zero."""
        measured = Measured(time.perf_counter())
        self._recent.clear()
        try:
            yield measured
        finally:
            measured.seconds = time.perf_counter() - measured.start
            self._rows_before += self._rows
            self._rows = 0

    def show(self, note: str = "", *, rows: int | None = None, force: bool = False) -> None:
        """Sends a snapshot to the observer, if the last one is old enough."""
        if self._observer is None:
            return
        now = time.perf_counter()
        if rows is not None:
            self._rows = rows
        if not force and now - self._shown < SHOW_EVERY:
            return
        self._shown = now
        self._recent.append((now, self._rows))
        while now - self._recent[0][0] > WINDOW_SECONDS:
            self._recent.popleft()
        rate = self._rate()
        left = self._rows_planned - self._rows_before - self._rows
        seconds = self._clock.seconds()
        self._observer(
            Snapshot(
                jobs=self._progress(),
                images_per_second=rate,
                seconds_left=left / rate if rate and self._rows_planned else None,
                shares=shares(seconds),
                limit=limiting(seconds, self._threads),
                note=note,
            )
        )

    def _rate(self) -> float:
        (first_time, first_rows), (last_time, last_rows) = self._recent[0], self._recent[-1]
        return (last_rows - first_rows) / (last_time - first_time) if last_time > first_time else 0.0


def limiting(seconds: Mapping[str, float], threads: Mapping[tuple[str, ...], int]) -> str:
    """The stage that holds the others up: of the threads with the least time left, what they do most; "" of no time.

    Args:
        seconds: that threads were busy, by stage.
        threads: stages that share threads, to how many these are.

    >>> limiting({"decode": 4.0, "forward": 0.9}, {("decode",): 8, ("forward",): 1})
    'forward'
    """

    def taken(stages: tuple[str, ...]) -> float:
        return sum(seconds[stage] for stage in stages) / threads[stages]

    busiest = max(threads, key=taken)
    return max(busiest, key=lambda stage: seconds[stage]) if taken(busiest) else ""
