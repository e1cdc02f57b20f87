"""A job in a child process that is killed before one of its operations on the disk, or after some seconds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["OPERATIONS", "Blow", "Facts", "run_child"]

OPERATIONS = ("pwrite", "sendfile", "fdatasync", "fsync", "link", "rename", "unlink")


@dataclass(frozen=True, kw_only=True)
class Blow:
    """When a child is killed.

    Attributes:
        at: before this operation, counted from 0.
        after: after so many seconds.
        others_at: before these operations, other processes are.
    """

    at: int | None = None
    after: float | None = None
    others_at: frozenset[int] = frozenset()

    def __str__(self) -> str:
        others = f"workers at {', '.join(map(str, sorted(self.others_at)))}, " if self.others_at else ""
        if self.after is not None:
            return f"{others}after {self.after:.3f} s"
        return others + ("not" if self.at is None else f"at operation {self.at}")


@dataclass
class Facts:
    """What became of a child; what it told before it was killed is kept.

    Attributes:
        killed: whether it was, itself.
        others: how many other processes were killed from it.
        operations: how many there were, if it came to its end.
        told: what the job gave back, if it came to its end.
        seconds: how long it took.
    """

    killed: bool = False
    others: int = 0
    operations: int = 0
    told: int = 0
    seconds: float = 0.0


def run_child(job: Callable[[], int], blow: Blow, victims: Callable[[], list[int]] = list) -> Facts:
    """Forks, so that the job finds everything imported, and waits for its end.

    Args:
        job: what the child does.
        blow: when it is killed.
        victims: the ids of other processes to be killed, asked in the child; each is killed once.

    Raises:
        SystemExit: the job failed by itself.
    """
    out, into = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(out)
        code = 1
        try:
            strikes = _Strikes(blow, victims, into)
            told = job()
            _tell(into, operations=strikes.operations, told=told)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(into)
    if blow.after is not None:
        time.sleep(blow.after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    facts = Facts(killed=os.WIFSIGNALED(status), seconds=time.perf_counter() - started)
    with os.fdopen(out, "rb", buffering=0) as pipe:
        # Processes that the child has started, and that are about to notice its death, hold the pipe open.
        os.set_blocking(pipe.fileno(), False)
        for line in (pipe.read(1 << 16) or b"").splitlines():
            vars(facts).update(json.loads(line))
    if status and not facts.killed:
        raise SystemExit(f"a child ended with status {status}")
    return facts


class _Strikes:
    """In the child: counts every operation on the disk, and kills before the chosen ones."""

    def __init__(self, blow: Blow, victims: Callable[[], list[int]], into: int) -> None:
        self.operations = 0
        self._blow = blow
        self._victims = victims
        self._into = into
        self._struck: set[int] = set()
        for name in OPERATIONS:
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self._strike()
            return function(*arguments, **keywords)

        return call

    def _strike(self) -> None:
        if self.operations in self._blow.others_at:
            for pid in set(self._victims()) - self._struck:
                os.kill(pid, signal.SIGKILL)
                self._struck.add(pid)
            _tell(self._into, others=len(self._struck))
        if self.operations == self._blow.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.operations += 1


def _tell(into: int, **facts: int) -> None:
    os.write(into, (json.dumps(facts) + "\n").encode())
