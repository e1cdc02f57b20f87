"""The seconds of a budget, and what happens when they are spent."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock", "TimeUp"]


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
        return self.start + self.budget - time.monotonic()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Raises TimeUp inside once the time is up, as soon as Python has its turn; in the main thread only.

        A timer, because a network that is built, a score or a probe looks at no clock.
        """
        if math.isinf(self.budget) or threading.current_thread() is not threading.main_thread():
            yield
            return
        if self.left <= 0:
            raise TimeUp

        def ring(*_: object) -> None:
            raise TimeUp

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self.left)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
