"""The seconds of a budget, and what ends when they are spent."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurebank.extract.progress import Observer, Snapshot

__all__ = ["Clock", "TimeUp"]

AROUND = 1.0  # seconds that starting Python takes before a clock is made, and leaving it after the last line


class TimeUp(KeyboardInterrupt):
    """The budget is spent. It ends what is being done as Ctrl-C does, with what was committed kept."""


class Clock:
    """The seconds of a budget, from now on; without one, no end of them."""

    def __init__(self, budget: float | None) -> None:
        self.start = time.monotonic()
        self.budget = math.inf if budget is None else budget

    @property
    def left(self) -> float:
        """What is left of them."""
        return self.start + self.budget - AROUND - time.monotonic()

    def check(self) -> None:
        """Raises TimeUp when they are spent."""
        if self.left <= 0:
            raise TimeUp

    def watch(self, observer: Observer | None) -> Observer:
        """An observer that ends an extraction between two batches when the time is up."""

        def observe(snapshot: Snapshot) -> None:
            self.check()
            if observer is not None:
                observer(snapshot)

        return observe

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Raises TimeUp in a computation that looks at no clock; in another thread than the main one, before it only.

        Not for what has threads of its own: there, a look between two steps leaves nothing behind.
        """
        self.check()
        if math.isinf(self.budget) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def ring(*_: object) -> None:
            raise TimeUp

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
