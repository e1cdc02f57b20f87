"""Time and memory of the logistic probe against rows and classes; and a problem of ImageNet's size, out of core.

Made-up features with a spectrum and a share of variance between classes like those of real ones, 768 wide, float16 on
disk, one C (0.01; for ImageNet's size 0.001, as the losses are summed), each fit in a process of its own:

- rows: 5,000 to 500,000 with 100 classes, in memory; the slope of log time over log rows.
- classes: 10 to 1,000 with 50,000 rows; the slope of log time over log classes.
- streamed: the same rows with 64 MiB to keep features in; how peak memory grows.
- imagenet: 1,281,167 rows, 1,000 classes, streamed, in at most 4 GB.

Memory is the peak of the process's own (anonymous) memory; pages of the mapped file, which the system may take back,
are counted beside it. Time is without making the data. Slopes are fitted through all sizes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from harness import environment, report

D = 768
C, IMAGENET_C = 0.01, 0.001
ROWS = (5_000, 15_000, 50_000, 150_000, 500_000)
CLASSES = (10, 30, 100, 300, 1_000)
IMAGENET = (1_281_167, 1_000)
SMALL_MEMORY = 64 * 2**20
GB = 1e9


def make(folder: Path, n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    order = np.arange(1, D + 1)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0].astype(np.float32)
    centres = (1.5 * rng.standard_normal((k, D)) / order).astype(np.float32)
    spread = (1 / order**0.5).astype(np.float32)
    y = rng.integers(0, k, n)
    np.save(folder / "y.npy", y)
    X = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float16, (n, D))
    for start in range(0, n, 16_384):
        part = y[start : start + 16_384]
        X[start : start + 16_384] = (centres[part] + rng.standard_normal((len(part), D), np.float32) * spread) @ turn
    X.flush()


def fit(folder: Path, C: float, memory: int) -> None:
    """Fits in this process and prints what it took."""
    from featurebank.probes.logistic import LogisticProbe

    X, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    probe = LogisticProbe(C, dtype="float32", memory=memory).fit(X, y)
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    at = probe.convergence_
    right = float((probe.predict(X[:10_000]) == y[:10_000]).mean())
    print(
        json.dumps(
            {
                "seconds": seconds,
                "own": peak[0],
                "all": status("VmHWM"),
                "iterations": at.iterations,
                "gradient": at.gradient,
                "objective": at.objective,
                "accuracy": right,
            }
        )
    )


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(n: int, k: int, memory: int, C: float = C) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), n, k)
        command = [sys.executable, __file__, "--fit", folder, "--c", str(C), "--memory", str(memory)]
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"{n:>9,} rows {k:>5,} classes: {found['seconds']:>8.2f} s, {found['iterations']:>3} steps to a gradient of "
        f"{found['gradient']:.1e}, own memory {found['own'] / GB:.2f} GB, with the file's pages "
        f"{found['all'] / GB:.2f} GB, training accuracy {found['accuracy']:.3f}",
        flush=True,
    )
    return found


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["rows", "classes", "streamed", "imagenet"])
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--c", type=float, default=C, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, default=4 * 2**30, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fit:
        fit(args.fit, args.c, args.memory)
        return
    print(environment())
    if args.only in (None, "rows"):
        took = [measured(n, 100, args.memory)["seconds"] for n in ROWS]
        report("probe_scale/rows", ours=slope(ROWS, took), reference=1.0, unit="slope", bound="ratio <= 1.1")
    if args.only in (None, "classes"):
        took = [measured(50_000, k, args.memory)["seconds"] for k in CLASSES]
        report("probe_scale/classes", ours=slope(CLASSES, took), reference=1.0, unit="slope", bound="ratio <= 1.1")
    if args.only in (None, "streamed"):
        own = [measured(n, 100, SMALL_MEMORY)["own"] for n in ROWS[2:]]
        report("probe_scale/streamed", ours=own[-1], reference=own[0], unit="bytes", bound="ratio about 1")
    if args.only in (None, "imagenet"):
        found = measured(*IMAGENET, 2**30, IMAGENET_C)
        report(
            "probe_scale/imagenet",
            ours=found["all"],
            reference=4 * GB,
            unit="bytes",
            bound="ratio <= 1",
            seconds=found["seconds"],
        )


if __name__ == "__main__":
    main()
