"""k nearest neighbours, k = 200, of 10,000 queries in a gallery of 50,000 x 768, with DINO's vote.

Ours, which reads the gallery as a float16 memory map, beside

- scikit-learn's brute-force KNeighborsClassifier on float32 in memory;
- torch: the whole matrix of similarities, then topk.

Every run is a process of its own, the cases taking turns; loading the data is not timed. Beside the seconds stands the
peak resident memory of the process, features and libraries included. Needs 300 MB under --dir, removed at the end.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import report, table
from numpy.typing import NDArray

DIMENSIONS, CLASSES, K, TEMPERATURE = 768, 100, 200, 0.07

Predict = Callable[[], NDArray[Any]]


def ours(folder: Path) -> Predict:
    from featurebank.probes.neighbours import KNNProbe

    gallery, queries = (np.load(folder / f"{name}16.npy", mmap_mode="r") for name in ("gallery", "queries"))
    labels = np.load(folder / "labels.npy")
    return lambda: KNNProbe(K, temperature=TEMPERATURE).fit(gallery, labels).predict(queries)


def scikit_learn(folder: Path) -> Predict:
    from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]

    gallery, queries = (np.load(folder / f"{name}32.npy") for name in ("gallery", "queries"))
    labels = np.load(folder / "labels.npy")

    def votes(distances: NDArray[Any]) -> NDArray[Any]:
        return np.exp((1 - distances) / TEMPERATURE)

    model = KNeighborsClassifier(K, weights=votes, algorithm="brute", metric="cosine")
    return lambda: model.fit(gallery, labels).predict(queries)


def whole_matrix(folder: Path) -> Predict:
    import torch
    from torch.nn.functional import normalize

    gallery, queries = (torch.from_numpy(np.load(folder / f"{name}32.npy")) for name in ("gallery", "queries"))
    labels = torch.from_numpy(np.load(folder / "labels.npy"))

    def predict() -> NDArray[Any]:
        similarity, rows = (normalize(queries) @ normalize(gallery).T).topk(K, dim=1)
        votes = torch.zeros(len(queries), CLASSES)
        return votes.scatter_add_(1, labels[rows], (similarity / TEMPERATURE).exp()).argmax(1).numpy()

    return predict


CASES = {"ours": ours, "scikit-learn": scikit_learn, "whole matrix": whole_matrix}


def one(case: str, folder: Path) -> None:
    """Prints the seconds and the peak memory of one run, and keeps its predictions."""
    predict = CASES[case](folder)
    start = time.perf_counter()
    predictions = predict()
    seconds = time.perf_counter() - start
    np.save(folder / f"{case}.npy", predictions)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(seconds, peak)


def write(folder: Path, n_gallery: int, n_queries: int) -> None:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CLASSES, DIMENSIONS), np.float32)
    labels = generator.integers(0, CLASSES, n_gallery + n_queries)
    noise = generator.standard_normal((len(labels), DIMENSIONS), np.float32)
    features = (centres[labels] + 4 * noise).astype(np.float16)
    for name, rows in (("gallery", slice(n_gallery)), ("queries", slice(n_gallery, None))):
        np.save(folder / f"{name}16.npy", features[rows])
        np.save(folder / f"{name}32.npy", features[rows].astype(np.float32))
    np.save(folder / "labels.npy", labels[:n_gallery])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="a folder for the features; else the system's temporary one")
    parser.add_argument("--gallery", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one[0], Path(args.one[1]))
        return
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    peaks: dict[str, list[float]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        folder = Path(temporary)
        write(folder, args.gallery, args.queries)
        for _ in range(args.repeats):
            for case in CASES:
                command = [sys.executable, __file__, "--one", case, str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                took, peak = map(float, done.stdout.split())
                seconds[case].append(took)
                peaks[case].append(peak)
        found = {case: np.load(folder / f"{case}.npy") for case in CASES}
    for case in CASES:
        assert (found[case] == found["ours"]).mean() > 0.999, case  # noqa: S101 - the same neighbours, or no comparison
    middle, memory = ({case: statistics.median(values) for case, values in runs.items()} for runs in (seconds, peaks))
    title = f"k = {K} of {args.queries} queries in {args.gallery} x {DIMENSIONS}"
    table(title, seconds, {case: f"peak {memory[case] / 2**20:.0f} MiB" for case in CASES})
    for name, case, bound in (
        ("knn_scikit_learn", "scikit-learn", "ratio <= 1"),
        ("knn_whole_matrix", "whole matrix", "ratio <= 2, peak_memory_ratio <= 0.5"),
    ):
        report(
            name, ours=middle["ours"], reference=middle[case], unit="s", bound=bound,
            peak_memory_ratio=memory["ours"] / memory[case],
        )  # fmt: skip


if __name__ == "__main__":
    main()
