"""Where the time goes: stage clocks shared by all threads, and the snapshots a display draws."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["STAGES", "Clock", "JobProgress", "Observer", "Snapshot"]

STAGES = ("read", "decode", "transform", "forward", "write")


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """One feature set, as a display shows it."""

    backbone: str
    dataset: str
    done: int
    total: int
    state: str
    failed_rows: int = 0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The run at one moment.

    Attributes:
        jobs: every feature set of the run, in order.
        images_per_second: images decoded and sent through all backbones of the pass, per second, over the last seconds.
        seconds_left: an estimate for the whole run, in passes over images; ``None`` before there is one.
        shares: stage to its share of all busy seconds so far, adding up to 1.
        limit: the stage that holds the others up.
        note: what the engine is doing, where that is not moving images.
    """

    jobs: tuple[JobProgress, ...]
    images_per_second: float = 0.0
    seconds_left: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    limit: str = ""
    note: str = ""


Observer = Callable[[Snapshot], None]


class Clock:
    """Seconds that threads were busy, per stage. Waiting is not counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds to a stage."""
        with self._lock:
            self._seconds[name] += seconds

    def seconds(self) -> dict[str, float]:
        """Busy seconds per stage so far."""
        with self._lock:
            return dict(self._seconds)

    def since(self, earlier: Mapping[str, float]) -> dict[str, float]:
        """Busy seconds per stage since ``earlier``, a former answer of ``seconds``."""
        return {name: value - earlier[name] for name, value in self.seconds().items()}


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Each stage's part of the sum.

    >>> shares({"read": 1.0, "forward": 3.0})
    {'read': 0.25, 'forward': 0.75}
    """
    total = sum(seconds.values())
    return {name: (value / total if total else 0.0) for name, value in seconds.items()}
