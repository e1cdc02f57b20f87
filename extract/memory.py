"""Keeps the C library from handing memory back to the kernel between two batches."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

SETTINGS = ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1))


def keep_freed_memory() -> bool:
    """Sets this process's allocator up for many large tensors that live as long as one layer.

    As it comes, glibc maps every block of more than 32 MiB anew and unmaps it when it is freed, so that each layer of
    each batch starts with page faults: a third of the time of an EfficientNet on a CPU (docs/decisions.md). Afterwards
    freed memory stays with the process, in one arena for all threads. Call it before threads are started; calling it
    again changes nothing.

    Returns:
        whether there was something to set: true with glibc, false elsewhere.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    accepted = [mallopt(parameter, value) for parameter, value in SETTINGS]
    return accepted == [1] * len(SETTINGS)
