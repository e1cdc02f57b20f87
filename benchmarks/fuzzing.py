"""What fuzzing needs: mutations of bytes and texts, and children of limited memory in which a reader meets them."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CRASHED",
    "ESCAPED",
    "HUNG",
    "MEMORY",
    "MEMORY_LIMIT",
    "READ",
    "REFUSED",
    "Refusals",
    "Target",
    "attempts",
    "mutate",
]

PATIENCE = 60.0  # seconds for one input; HDF5's own child has half of it
MEMORY_LIMIT = 512 << 20
FEW = 4096  # bytes; an input so small is mutated once or twice
READ, REFUSED, ESCAPED, CRASHED, HUNG, MEMORY = "read", "refused", "another error", "crash", "hang", "too much memory"
Refusals = tuple[type[BaseException], ...]
SPENT = re.compile(r"bad_alloc|allocate|out of memory|MemoryError", re.IGNORECASE)
ODD = (
    *(b"9" * 30, b"1e999", b"-1", b"NaN", b"null", b"18446744073709551616", b"1152921504606846976", b"0|3000000000"),
    *(
        b"[" * 20_000,
        b'{"a":' * 5_000,
        b'"' + b"A" * 6_000 + b'"',
        b"../../etc/passwd",
        b"/etc/passwd",
        b"\0",
        b"\x1b[",
    ),
    *(
        b"__index_level_0__",
        b"a/b",
        b"=1+1",
        b"\xff\xfe<\0!\0D\0",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
        b"{}",
        b"[]",
        b"",
    ),
)
TOKEN = re.compile(rb'"[^"\n]{0,40}"|-?\d+(?:\.\d+)?|[A-Za-z_]+|[,:\[\]{}<>\n]')


def mutate(original: bytes, places: NDArray[np.intp], generator: np.random.Generator, most: int) -> bytes:
    """A few pieces overwritten, copied, cut, or replaced by what a reader may not expect."""
    data = bytearray(original)
    for _ in range(int(generator.integers(1, most))):
        if not data:
            break
        length = int(generator.integers(1, most * 4))
        place = int(generator.choice(places)) % len(data)
        kind = int(generator.integers(8))
        if kind == 0:
            data[place : place + length] = generator.bytes(length)
        elif kind == 1:
            data[place : place + length] = b"\xff" * length
        elif kind == 2:
            data[place : place + length] = bytes(length)
        elif kind == 3:
            other = int(generator.integers(len(data)))
            data[place : place + length] = data[other : other + length]
        elif kind == 4 and generator.random() < 0.2:
            del data[place:]
        elif kind == 5 and len(original) < 1 << 16:
            token = TOKEN.search(data, place) or TOKEN.search(data)
            if token is not None:
                data[token.start() : token.end()] = ODD[int(generator.integers(len(ODD)))]
        else:
            data[place] ^= 1 << int(generator.integers(8))
    return bytes(data)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One format.

    Attributes:
        name: what the report calls it.
        examples: good inputs, which must be read.
        write: puts an input where it is read.
        read: reads all of it.
        refusals: the errors that are ours.
        mutant: a damaged example; without one, a few pieces anywhere are.
        share: of all the inputs, in parts.
        batch: inputs read by one child.
    """

    name: str
    examples: Sequence[bytes]
    write: Callable[[bytes], object]
    read: Callable[[], object]
    refusals: Refusals
    mutant: Callable[[np.random.Generator], bytes] | None = None
    share: int = 1
    batch: int = 25

    def mutants(self, count: int, generator: np.random.Generator) -> list[bytes]:
        """A number of mutated inputs, of all the examples alike."""
        if self.mutant is not None:
            return [self.mutant(generator) for _ in range(count)]
        examples = [self.examples[k % len(self.examples)] for k in range(count)]
        return [mutate(data, np.arange(len(data)), generator, 3 if len(data) < FEW else 9) for data in examples]


@dataclass(frozen=True)
class _Usage:
    """Bytes of this process: resident, and private writable address space, which the limit is about."""

    resident: int
    writable: int

    @classmethod
    def now(cls, peak: bool = False) -> _Usage:
        status = Path("/proc/self/status").read_text()
        sizes = {name: int(value) << 10 for name, value in re.findall(r"^(\w+):\s+(\d+) kB", status, re.MULTILINE)}
        return cls(sizes["VmHWM" if peak else "VmRSS"], sizes["VmData"])


def attempts(target: Target, inputs: Sequence[bytes]) -> Iterator[tuple[int, str]]:
    """What becomes of each input: its number and the outcome, from children that read a batch of inputs each.

    A child may have `MEMORY_LIMIT` beside what it began with and the input's size; a refusal that was one of memory
    counts as too much of it.
    """
    start = 0
    while start < len(inputs):
        told, child = _start(target, inputs[start : start + target.batch])
        buffer, number = b"", start
        stop = min(start + target.batch, len(inputs))
        deadline = time.monotonic() + PATIENCE
        while number < stop:
            ready, _, _ = select.select([told], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(told, 1 << 16) if ready else b""
            if not piece:
                yield number, CRASHED if ready else HUNG
                number += 1
                break
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                yield number, line.decode("utf-8", "replace")
                number += 1
                deadline = time.monotonic() + PATIENCE
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        start = number


def _start(target: Target, inputs: Sequence[bytes]) -> tuple[int, int]:
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        return told, child
    try:
        for data in inputs:
            target.write(data)
            os.write(tell, _outcome(target, len(data)).replace("\n", " ").encode()[:1_000] + b"\n")
        signal.pause()
    finally:
        os._exit(0)


def _outcome(target: Target, size: int) -> str:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _Usage.now()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (before.writable + size + MEMORY_LIMIT, hard))
    try:
        target.read()
    except target.refusals as error:
        answer = f"{MEMORY}: {error}" if _is_of_memory(error) else REFUSED
    except BaseException as error:
        answer = f"{MEMORY if _is_of_memory(error) else ESCAPED}: {type(error).__name__}: {error}"
    else:
        answer = READ
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    used = _Usage.now(peak=True).resident - before.resident
    return f"{MEMORY}: {used >> 20} MiB resident" if used > size + MEMORY_LIMIT else answer


def _is_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or SPENT.search(f"{type(error).__name__}: {error}"):
            return True
        error = error.__cause__ or error.__context__
    return False
