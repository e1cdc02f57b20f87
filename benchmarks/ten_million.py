"""Time and memory against the number of rows: features N x 64 float16, and N / 5 records with long ids and 20 columns.

Planned, added (written and sealed) and, each in a process of its own, opened with its first row, verified, read in
batches, and searched by 64 queries: the vote of 20 nearest neighbours, and the exact search alone. N grows fourfold
from 10,000 to --rows. Beside the CPU's seconds, imports left out, stands the highest anonymous memory of the process,
sampled: all but the page cache. A slope is that of the logarithms over the sizes from 160,000 on; 1 is linear.

`ls` is of 1,000 small sets. Needs about 300 bytes a row under --dir, removed at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from harness import environment, report
from numpy.typing import NDArray

from featurebank.store import FeatureSet, FeatureStore

DIMENSIONS, CLASSES, QUERIES, K, COLUMNS = 64, 1000, 64, 20, 20
BLOCK = 65_536
FITTED_FROM = 160_000
SETS = 1000


def anonymous() -> int:
    """Bytes of this process that are no file's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def measured(case: Callable[[], object]) -> dict[str, float]:
    """CPU seconds, seconds, and the most anonymous memory of a call, looked at every 5 ms."""
    peak, done = anonymous(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu, wall = time.process_time(), time.perf_counter()
    case()
    seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    done.set()
    watcher.join()
    return {**seconds, "peak": max(peak, anonymous())}


def blocks(rows: int) -> Iterator[NDArray[np.float16]]:
    block = np.random.default_rng(0).standard_normal((BLOCK, DIMENSIONS)).astype(np.float16)
    for start in range(0, rows, BLOCK):
        yield block[: min(BLOCK, rows - start)]


def plan(_folder: Path, rows: int) -> Callable[[], object]:
    from featurebank.extract.plan import Job, plan
    from featurebank.extract.preprocessing import Decode

    jobs = [Job(fingerprint=name, backbone=name, split=0, decode=Decode(), n_rows=rows) for name in "ab"]
    # Every other task's rows are there: as many ranges as there can be.
    pending = {"a": tuple((start, min(start + 2048, rows)) for start in range(0, rows, 4096))}
    return lambda: plan(jobs, pending)


def add(folder: Path, rows: int) -> Callable[[], object]:
    store, labels = FeatureStore(folder / "store"), np.arange(rows) % CLASSES
    return lambda: store.add("many/all", "normal", blocks(rows), labels=labels, n_rows=rows)


def records(folder: Path, rows: int) -> Callable[[], object]:
    store, rows = FeatureStore(folder / "records"), rows // 5
    ids = np.arange(rows).astype(np.dtypes.StringDType())
    ids = np.strings.add("photographs/of/a/folder/with/a/long/name/", ids)
    columns = {f"column{n}": np.arange(rows) * n % 97 for n in range(COLUMNS - 1)} | {"path": ids}
    features = np.ones((rows, 1), np.float16)
    return lambda: store.add("many/all", "ones", features, ids=ids, columns=columns)


def first_row(folder: Path, _rows: int) -> Callable[[], object]:
    path = next((folder / "store").rglob("*.h5"))

    def run() -> None:
        FeatureSet(path)["pooled"][0].sum()

    return run


def verify(folder: Path, _rows: int) -> Callable[[], object]:
    from featurebank.store.verify import verify

    path = next((folder / "store").rglob("*.h5"))
    return lambda: verify(path)


def batches(folder: Path, _rows: int) -> Callable[[], object]:
    opened = FeatureStore(folder / "store").open("many/all", "normal")
    return lambda: [None for _ in opened.batches(4096)]


def knn(folder: Path, _rows: int) -> Callable[[], object]:
    from featurebank.probes.neighbours import KNNProbe

    opened = FeatureStore(folder / "store").open("many/all", "normal")
    gallery, labels = opened["pooled"], opened.labels
    return lambda: KNNProbe(K).fit(gallery, labels).predict(gallery[:QUERIES])


def retrieval(folder: Path, _rows: int) -> Callable[[], object]:
    from featurebank.retrieval.search import nearest

    gallery = FeatureStore(folder / "store").open("many/all", "normal")["pooled"]
    return lambda: nearest(gallery[:QUERIES], gallery, K)


STAGES: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    stage.__name__: stage for stage in (plan, add, records, first_row, verify, batches, knn, retrieval)
}


def listing(folder: Path) -> float:
    """Seconds of listing 1,000 sets, the median of five."""
    store = FeatureStore(folder)
    for number in range(SETS):
        store.add(f"d{number // 100}/all", f"b{number % 100}", np.ones((2, 4)), key={"number": number})
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        store.ls()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def slope(sizes: list[int], seconds: list[float]) -> float:
    fitted = [(n, s) for n, s in zip(sizes, seconds, strict=True) if n >= FITTED_FROM]
    if len(fitted) < 2:
        return float("nan")
    n, s = np.log(np.array(fitted)).T
    return float(np.polyfit(n, s, 1)[0])


def run(stage: str, folder: Path, rows: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--stage", stage, "--rows", str(rows), "--dir", str(folder)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(out)
    return found


def sizes_up_to(rows: int) -> list[int]:
    sizes = [10_000]
    while sizes[-1] * 4 <= rows:
        sizes.append(sizes[-1] * 4)
    return sizes if rows < 2 * sizes[-1] else [*sizes, rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_560_000)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(measured(STAGES[args.stage](args.dir, args.rows))))
        return
    sizes = sizes_up_to(args.rows)
    found: dict[str, list[dict[str, float]]] = {stage: [] for stage in STAGES}
    for rows in sizes:
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            for stage, results in found.items():
                results.append(run(stage, Path(folder), rows))
    print(f"\nCPU seconds and anonymous memory, MiB  [{environment()}]")
    print(f"{'stage':<10}" + "".join(f"{n:>17,}" for n in sizes) + "   slope")
    slopes = {stage: slope(sizes, [one["cpu"] for one in results]) for stage, results in found.items()}
    for stage, results in found.items():
        cells = "".join(f"{one['cpu']:>10.3f} {one['peak'] / 2**20:>6.0f}" for one in results)
        print(f"{stage:<10}{cells}   {slopes[stage]:.2f}")
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        seconds = listing(Path(folder))
    peak = max(found[stage][-1]["peak"] for stage in ("plan", "add"))
    opening = found["first_row"][-1]["wall"]
    report("ten_million_ls", ours=seconds, reference=0.5, unit="s", bound="1,000 sets below 0.5 s")
    report("ten_million_open", ours=opening, reference=0.005, unit="s", bound="open and first row below 5 ms")
    report("ten_million_memory", ours=peak, reference=2**30, unit="bytes", bound="plan, write and seal within 1 GiB")
    report(
        "ten_million", ours=float(np.nanmax(list(slopes.values()))), reference=1.1, unit="slope", bound="at most 1.1"
    )


if __name__ == "__main__":
    main()
