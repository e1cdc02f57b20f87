"""What every test gets: two torch threads (one beside other workers), no CUDA tests without a GPU, a leak check."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import pytest

THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
GRACE = 2.0  # seconds for what a test started to end by itself

# Before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", THREADS)
os.environ.setdefault("MKL_NUM_THREADS", THREADS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where there is none; torch is asked only if a test needs the answer."""
    needing = [item for item in items if item.get_closest_marker("cuda")]
    if needing and not _has_gpu():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _threads() -> set[threading.Thread]:
    """The live threads, without those of the pool that torch's compiler keeps for the life of a process."""
    compiler = sys.modules.get("torch._inductor.async_compile")
    pool = compiler.AsyncCompile.pool if compiler else None
    kept = vars(pool())["_threads"] if pool and pool.cache_info().currsize else set()
    return {thread for thread in threading.enumerate() if not thread.daemon and thread not in kept}


def _children() -> set[int]:
    """Process ids of the live children, without the two that multiprocessing keeps for itself."""
    multiprocessing.active_children()  # reaps the finished ones
    own = {vars(resource_tracker._resource_tracker)["_pid"], vars(forkserver._forkserver)["_forkserver_pid"]}
    listed = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            listed.append(path.read_text())
    return {int(pid) for pids in listed for pid in pids.split()} - own


def _command(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        state = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("State"))
        return f"{pid} ({state}): {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ')[:200]!r}"
    return f"{pid}, which has just ended"


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fails a test that leaves a non-daemon thread or a child process behind."""
    threads, children = _threads(), _children()
    yield
    deadline = time.monotonic() + GRACE
    while (left := (_threads() - threads, _children() - children)) != (set(), set()) and time.monotonic() < deadline:
        time.sleep(0.01)
    if left != (set(), set()):
        pytest.fail(
            f"left behind after {GRACE:g} s: threads {sorted(t.name for t in left[0])}, "
            f"processes {[_command(pid) for pid in sorted(left[1])]}"
        )
