"""How many bytes of images may be read ahead and decoded at once, however many threads read and decode."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["Ahead", "Budget", "Share", "encoded", "images"]

FREE: Final = 32 << 20
"""A smaller image is not counted: what all threads together hold of such is little."""


class Budget:
    """Bytes that several threads share; who needs more than there are waits until he is alone.

    Args:
        limit: bytes.
        free: what is not counted.
    """

    def __init__(self, limit: int, *, free: int = FREE) -> None:
        self._limit = limit
        self._free = free
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._taken = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """What one image takes, given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self._give(share.nbytes)

    def _take(self, nbytes: int) -> int:
        if nbytes <= self._free:
            return 0
        # One after another: a large image is not passed by small ones for ever.
        with self._turn, self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + nbytes <= self._limit)
            self._taken += nbytes
        return nbytes

    def _give(self, nbytes: int) -> None:
        if nbytes:
            with self._changed:
                self._taken -= nbytes
                self._changed.notify_all()


class Share:
    """Of a `Budget`; made by `Budget.share`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.nbytes = 0

    def take(self, nbytes: int) -> None:
        """Waits until there are so many bytes; once."""
        self.nbytes = self._budget._take(nbytes)


class Ahead:
    """Bytes that are held before they are needed; of all threads of one walk.

    Args:
        limit: bytes from which on nothing more should be read ahead.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.nbytes = 0

    @property
    def full(self) -> bool:
        """Whether what comes next should be read when it is needed."""
        return self.nbytes >= self._limit

    def add(self, nbytes: int) -> None:
        """Counts bytes that are held, or with a minus sign no longer are."""
        with self._lock:
            self.nbytes += nbytes


images: Final = Budget(max(2 << 30, (os.cpu_count() or 1) * (128 << 20)))
"""Of all decoded images: 2 GiB, or 128 MiB a core where that is more."""

encoded: Final = max(512 << 20, (os.cpu_count() or 1) * (32 << 20))
"""Of all files that are read ahead: 512 MiB, or 32 MiB a core where that is more."""
