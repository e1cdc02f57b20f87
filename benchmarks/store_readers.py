"""16 processes, each reading 1,024 random rows in a loop; and what it takes to begin: importing and opening.

- The processes together read at least 0.8 times as many rows as through np.memmap of a raw file.
- No lock is taken: the folder is read-only, and the kernel lists no lock of any reader.
- ``import featurebank.store`` takes at most 50 ms more than ``import numpy``; opening a sealed set takes under 0.5 ms.

Everything is in the page cache. Needs about 0.7 GB under --dir, removed at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from harness import alternate, report, table
from store_read import DIMENSIONS, ROWS_AT_ONCE, write

from featurebank.store import FeatureSet


def read(kind: str, path: Path, n_rows: int, *, seconds: float, seed: int, start: Barrier, told: Any) -> None:
    generator = np.random.default_rng(seed)
    draws = [generator.choice(n_rows, ROWS_AT_ONCE, replace=False) for _ in range(40)]
    if kind == "ours":
        rows: Any = FeatureSet(path)["pooled"]
    else:
        rows = np.memmap(path, np.float16, "r", shape=(n_rows, DIMENSIONS))
    start.wait()
    end, turns = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        rows[draws[turns % len(draws)]]
        turns += 1
    told.put(turns)


def together(kind: str, path: Path, n_rows: int, processes: int, seconds: float) -> float:
    """Rows per second of all processes."""
    context = multiprocessing.get_context("fork")
    start, told = context.Barrier(processes + 1), context.SimpleQueue()
    settings = {"seconds": seconds, "start": start, "told": told}
    readers = [
        context.Process(target=read, args=(kind, path, n_rows), kwargs={**settings, "seed": seed})
        for seed in range(processes)
    ]
    for reader in readers:
        reader.start()
    start.wait()
    locks = Path("/proc/locks").read_text(encoding="ascii")
    if any(f" {reader.pid} " in locks for reader in readers):
        raise AssertionError("a reader holds a lock")
    turns = sum(told.get() for _ in readers)
    for reader in readers:
        reader.join()
    return float(turns * ROWS_AT_ONCE / seconds)


def throughput(path: Path, raw: Path, n_rows: int, args: argparse.Namespace) -> None:
    rates: dict[str, list[float]] = {"ours": [], "np.memmap": []}
    for _ in range(args.repeats):
        for kind, file in (("ours", path), ("np.memmap", raw)):
            rates[kind].append(together(kind, file, n_rows, args.processes, args.seconds))
    ours, reference = (statistics.median(rates[kind]) for kind in rates)
    print(f"{args.processes} processes, {ROWS_AT_ONCE} random rows in a loop: {ours:,.0f} and {reference:,.0f} rows/s")
    report(f"readers_{args.processes}", ours=ours, reference=reference, unit="rows/s", bound="ratio >= 0.8")


def beginning(path: Path, repeats: int) -> None:
    def importing(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    modules = ("numpy", "featurebank.store")
    seconds = alternate({module: partial(importing, module) for module in modules}, repeats=4 * repeats)
    table("importing, in a process of its own", seconds)
    reference, ours = (statistics.median(seconds[module]) for module in modules)
    report("import", ours=ours, reference=reference, unit="s", bound="ours - reference < 0.05", more=ours - reference)
    opening = alternate({"FeatureSet": lambda: FeatureSet(path).close()}, repeats=100 * repeats, warmup=20)
    table("opening", opening)
    report("open_sealed", ours=statistics.median(opening["FeatureSet"]), reference=0.0005, unit="s", bound="ratio < 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure; else the system's temporary one")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    values = np.random.default_rng(0).standard_normal((args.rows, DIMENSIONS), np.float32).astype(np.float16)
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        path, raw = Path(folder) / "read_only" / "ours.h5", Path(folder) / "a.raw"
        write(path, values)
        values.tofile(raw)
        path.parent.chmod(0o555)
        try:
            throughput(path, raw, args.rows, args)
            beginning(path, args.repeats)
        finally:
            path.parent.chmod(0o755)


if __name__ == "__main__":
    main()
