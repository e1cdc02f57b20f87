"""60,000 x 512 searched in itself, about five positives a query: metrics beside FAISS's search of the same top 1,000.

Ours, from the exact ranks: Recall@{1, 10, 100, 1000}, MAP@R, R-precision and MRR; and, as a second case, full-ranking
mAP. Beside

- FAISS's flat index, searched for the 1,001 nearest, no metric computed;
- pytorch-metric-learning's AccuracyCalculator on FAISS, asked for MAP@R, R-precision and precision at 1, its k as low
  as these allow (``max_bin_count``): the least work it can do, and no recall beyond 1;
- the whole matrix, sorted: argsort of N x N similarities, then average precision by rank, as BoB's script does. That
  takes 16 N^2 bytes, so it is measured at --sorted rows, beside ours at the same rows.

Every run is a process of its own, the cases taking turns; loading the data is not timed. Beside the seconds stands the
peak resident memory of the process, features and libraries included. Needs 130 MB under --dir, removed at the end.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from harness import report, table
from numpy.typing import NDArray

DIMENSIONS, DEPTH = 512, 1000

Case = Callable[[NDArray[np.float32], NDArray[np.int64]], Callable[[], dict[str, float]]]


def _ours(names: tuple[str, ...]) -> Case:
    def prepare(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Callable[[], dict[str, float]]:
        from featurebank.retrieval import metrics
        from featurebank.retrieval.ranks import exact_ranks
        from featurebank.retrieval.relevance import LabelRelevance

        every: dict[str, Callable[[Any], NDArray[np.float64]]] = {
            **{f"recall@{k}": partial(metrics.hit_rate_at_k, k=k) for k in (1, 10, 100, 1000)},
            "map@r": metrics.map_at_r,
            "r_precision": metrics.r_precision,
            "mrr": metrics.reciprocal_rank,
            "map": metrics.average_precision,
        }

        def run() -> dict[str, float]:
            blocks = [
                {name: every[name](found) for name in names}
                for _, found in exact_ranks(features, features, LabelRelevance(labels))
            ]
            return {n: metrics.mean_over_queries(np.concatenate([block[n] for block in blocks])) for n in names}

        return run

    return prepare


def faiss_search(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Callable[[], dict[str, float]]:
    import faiss

    def run() -> dict[str, float]:
        index = faiss.IndexFlatIP(DIMENSIONS)
        index.add(features)
        hits = np.zeros(len(features), bool)
        for start in range(0, len(features), 4096):
            at = slice(start, min(start + 4096, len(features)))
            _, rows = index.search(features[at], min(DEPTH, len(features) - 1) + 1)
            others = rows[:, :2] != np.arange(at.start, at.stop)[:, None]
            first = np.take_along_axis(rows, others.argmax(1)[:, None], 1)[:, 0]
            hits[at] = labels[first] == labels[at]
        return {"recall@1": float(hits.mean())}

    return run


def metric_learning(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Callable[[], dict[str, float]]:
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator  # type: ignore[import-untyped]

    names = {"precision_at_1": "recall@1", "mean_average_precision_at_r": "map@r", "r_precision": "r_precision"}
    calculator = AccuracyCalculator(include=tuple(names), k="max_bin_count", device=torch.device("cpu"))
    given = torch.from_numpy(features), torch.from_numpy(labels)
    return lambda: {names[name]: float(value) for name, value in calculator.get_accuracy(*given).items()}


def sorted_matrix(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        similarity = features @ features.T
        np.fill_diagonal(similarity, -np.inf)
        ranking = np.argsort(-similarity, axis=0)
        precisions, hits = [], []
        for query, label in enumerate(labels):
            ranks = np.flatnonzero(labels[ranking[:-1, query]] == label)
            if len(ranks):
                precisions.append((np.arange(1, len(ranks) + 1) / (ranks + 1)).mean())
                hits.append(ranks[0] == 0)
        return {"map": float(np.mean(precisions)), "recall@1": float(np.mean(hits))}

    return run


TOP = ("recall@1", "recall@10", "recall@100", "recall@1000", "map@r", "r_precision", "mrr")
CASES: dict[str, Case] = {
    "ours, metrics of the top": _ours(TOP),
    "ours, full-ranking mAP": _ours(("recall@1", "map")),
    "FAISS search alone": faiss_search,
    "pytorch-metric-learning": metric_learning,
    "sorted matrix": sorted_matrix,
}


def one(case: str, folder: Path, rows: int) -> None:
    """Prints the seconds, the peak memory and the metrics of one run."""
    features, labels = (np.load(folder / f"{name}.npy")[:rows] for name in ("features", "labels"))
    run = CASES[case](features, labels)
    start = perf_counter()
    values = run()
    seconds = perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(seconds, peak, *(f"{name}={value!r}" for name, value in values.items()))


def write(folder: Path, rows: int) -> None:
    """Classes of three to nine images, one after another, so that the first rows have about as many of each."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(3, 10, rows // 6 + 1)
    labels = np.resize(np.repeat(np.arange(len(sizes)), sizes), rows).astype(np.int64)
    centres = generator.standard_normal((len(sizes), DIMENSIONS), np.float32)
    features = centres[labels] + 2.5 * generator.standard_normal((rows, DIMENSIONS), np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.save(folder / "features.npy", features)
    np.save(folder / "labels.npy", labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="a folder for the features; else the system's temporary one")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--sorted", type=int, default=15_000, help="rows of the sorted matrix")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "FOLDER", "ROWS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one[0], Path(args.one[1]), int(args.one[2]))
        return
    runs = [(case, args.rows) for case in CASES if case != "sorted matrix"]
    runs += [("ours, full-ranking mAP", args.sorted), ("sorted matrix", args.sorted)]
    seconds: dict[str, list[float]] = {f"{case}, {rows} rows": [] for case, rows in runs}
    peaks: dict[str, list[float]] = {name: [] for name in seconds}
    values: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        write(Path(temporary), args.rows)
        for _ in range(args.repeats):
            for (case, rows), name in zip(runs, seconds, strict=True):
                command = [sys.executable, __file__, "--one", case, temporary, str(rows)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                took, peak, *found = done.stdout.splitlines()[-1].split()
                seconds[name].append(float(took))
                peaks[name].append(float(peak))
                values[name] = {metric: float(value) for metric, value in (pair.split("=") for pair in found)}
    memory = {name: statistics.median(sizes) for name, sizes in peaks.items()}
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    table(
        f"{args.rows} x {DIMENSIONS} in itself",
        seconds,
        {name: f"peak {memory[name] / 2**20:.0f} MiB  {_spelled(values[name])}" for name in seconds},
    )
    top, full, faiss, other, ours_small, matrix = seconds
    for name in (faiss, other):
        _agree(values[top], values[name])
    _agree(values[ours_small], values[matrix])
    for title, ours, reference, bound in (
        ("retrieval_top_metrics", top, faiss, "ratio <= 1.1, peak_bytes <= 1.5e9"),
        ("retrieval_full_map", full, faiss, "ratio <= 2, peak_bytes <= 1.5e9"),
        ("retrieval_metric_learning", top, other, "ratio <= 1.25: it finds max_bin_count rows, ours ranks all"),
        ("retrieval_sorted_matrix", ours_small, matrix, "ratio <= 0.2, peak_memory_ratio <= 0.1"),
    ):
        report(
            title,
            ours=middle[ours],
            reference=middle[reference],
            unit="s",
            bound=bound,
            peak_bytes=memory[ours],
            peak_memory_ratio=memory[ours] / memory[reference],
        )


def _spelled(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in values.items())


def _agree(ours: dict[str, float], reference: dict[str, float]) -> None:
    for name in ours.keys() & reference.keys():
        if abs(ours[name] - reference[name]) > 1e-3:
            raise SystemExit(f"{name} must be alike, or times mean nothing; found {ours[name]} and {reference[name]}")


if __name__ == "__main__":
    main()
