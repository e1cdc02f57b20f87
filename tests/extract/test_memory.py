"""The allocator's settings: what a batch frees, the next one uses again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from featurebank.extract import memory

PAGE_FAULTS = """
import ctypes, resource, sys, threading
from featurebank.extract.memory import keep_freed_memory

assert sys.argv[1] == "as it comes" or (keep_freed_memory() and keep_freed_memory())

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def layers():
    for _ in range(20):
        block = libc.malloc(40 << 20)
        ctypes.memset(block, 1, 40 << 20)
        libc.free(block)

threads = [threading.Thread(target=layers) for _ in range(2)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(setting: str) -> int:
    command = [sys.executable, "-c", PAGE_FAULTS, setting]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_large_blocks_are_used_again_in_every_thread() -> None:
    assert 5 * page_faults("kept") < page_faults("as it comes")


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False
