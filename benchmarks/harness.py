"""What every benchmark shares: alternating runs, medians, one table, one JSON line at the end."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["alternate", "environment", "report", "skip", "table"]


def alternate(
    cases: Mapping[str, Callable[[], object]], *, repeats: int = 5, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each case, the cases taking turns (A B A B …) so that drift of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warmup + repeats):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def environment() -> str:
    """The hardware and interpreter, in one line, without the machine's name."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def table(title: str, seconds: Mapping[str, list[float]], notes: Mapping[str, str] | None = None) -> None:
    """Prints minimum, median and maximum of each case."""
    print(f"\n{title}  [{environment()}]")
    width = max(len(name) for name in seconds)
    print(f"{'case':<{width}}  {'min':>10}  {'median':>10}  {'max':>10}")
    for name, values in seconds.items():
        row = "  ".join(f"{v:>9.4g}s" for v in (min(values), statistics.median(values), max(values)))
        print(f"{name:<{width}}  {row}  {(notes or {}).get(name, '')}".rstrip())


def report(name: str, *, ours: float, reference: float, unit: str, bound: str, **extra: object) -> None:
    """Prints the closing JSON line; ``ratio`` is ours / reference, ``bound`` says in words what it should hold."""
    line = {"name": name, "ours": ours, "reference": reference, "ratio": ours / reference, "unit": unit, "bound": bound}
    print(json.dumps({**line, **extra}))


def skip(name: str, why: str) -> None:
    """Prints the closing JSON line of a benchmark that this machine cannot run."""
    print(json.dumps({"name": name, "skipped": why}))
