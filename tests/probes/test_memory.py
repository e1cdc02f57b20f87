"""Freed memory goes back to the kernel."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from featurebank.probes._memory import give_back


def resident() -> int:
    """Bytes of this process in memory that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_freed_blocks_are_given_back() -> None:
    blocks = [np.ones(2**16) for _ in range(400)]  # 200 MiB, each of a size that glibc keeps
    kept = blocks[::50]
    del blocks
    before = resident()
    assert give_back()
    assert resident() <= before
    assert all(block.sum() == 2**16 for block in kept)
