"""1,000,000 x 256 rows in clusters, in a float16 file: exact search, IVF-PQ and HNSW beside each other.

The gallery is mapped, never loaded: an index is built from blocks of its rows, and candidates are scored again with the
mapped rows. Each index is built, saved, loaded and searched in a process of its own. Recall is the share of the exact
ten nearest of 1,000 queries that are found; the index is the size of its file; the peak is the resident memory of the
process, mapped pages of the gallery included. Needs 512 MB and the indexes' files under --dir, removed at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from harness import environment, report
from numpy.typing import NDArray

DIMENSIONS, INTRINSIC, K = 256, 24, 10


class Kind(NamedTuple):
    """An index as it is built, and the searches that are timed."""

    factory: str
    train_rows: int
    searches: dict[str, dict[str, Any]]


def kinds(rows: int) -> dict[str, Kind]:
    lists = 2 ** round(np.log2(4 * np.sqrt(rows)))
    probes = {f"nprobe {n}": {"nprobe": n} for n in (8, 32)}
    again = {"nprobe 32, 100 scored again": {"nprobe": 32, "candidates": 100, "rescore": True}}
    return {
        "IVF-PQ": Kind(f"IVF{lists},PQ32", min(rows, 40 * lists), probes | again),
        "HNSW": Kind("HNSW32,SQ8", min(rows, 65536), {f"efSearch {n}": {"ef_search": n} for n in (32, 128)}),
    }


def write(folder: Path, rows: int, queries: int) -> None:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((max(rows // 100, 1), INTRINSIC), np.float32)
    spread = generator.standard_normal((INTRINSIC, DIMENSIONS), np.float32)
    for name, count in (("gallery", rows), ("queries", queries)):
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (count, DIMENSIONS))
        for start in range(0, count, 50_000):
            block = file[start : start + 50_000]
            chosen = centres[generator.integers(0, len(centres), len(block))]
            inner = chosen + 0.5 * generator.standard_normal(chosen.shape, np.float32)
            block[:] = inner @ spread + 0.2 * generator.standard_normal(block.shape, np.float32)


def exact(folder: Path) -> dict[str, Any]:
    from featurebank.retrieval.search import nearest

    gallery, queries = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("gallery", "queries"))
    start = perf_counter()
    _, rows = nearest(queries, gallery, K)
    seconds = perf_counter() - start
    np.save(folder / "exact.npy", rows)
    return {"build": 0.0, "bytes": 0, "searches": {"": (1.0, len(queries) / seconds)}}


def approximate(folder: Path, kind: Kind) -> dict[str, Any]:
    from featurebank.retrieval.index import FeatureIndex

    gallery, queries = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("gallery", "queries"))
    truth, path = np.load(folder / "exact.npy"), folder / "index.faiss"
    start = perf_counter()
    FeatureIndex.build(gallery, kind.factory, fingerprint="gallery", train_rows=kind.train_rows, threads=cores()).save(
        path
    )
    build = perf_counter() - start
    index = FeatureIndex.load(path, ["gallery"])
    searches = {}
    for name, options in kind.searches.items():
        chosen = options | ({"rescore": gallery} if "rescore" in options else {})
        index.search(queries[:10], K, **chosen)
        start = perf_counter()
        _, rows = index.search(queries, K, **chosen)
        searches[name] = recall(rows, truth), len(queries) / (perf_counter() - start)
    return {"build": build, "bytes": path.stat().st_size, "searches": searches}


def cores() -> int:
    import faiss

    return int(faiss.omp_get_max_threads())


def recall(rows: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return sum(len(np.intersect1d(*pair)) for pair in zip(rows, truth, strict=True)) / truth.size


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="a folder for features and indexes; else the system's temporary one")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    every = kinds(args.rows)
    if args.one:
        name, folder = args.one[0], Path(args.one[1])
        result = exact(folder) if name == "exact" else approximate(folder, every[name])
        print(json.dumps(result | {"peak": peak_bytes()}))
        return
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        write(Path(temporary), args.rows, args.queries)
        for name in ("exact", *every):
            command = [sys.executable, __file__, "--rows", str(args.rows), "--one", name, temporary]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[name] = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{args.rows} x {DIMENSIONS}, {args.queries} queries, k = {K}  [{environment()}]")
    print(f"{'index':<20} {'search':<28} {'recall@10':>9} {'queries/s':>9} {'build':>8} {'index':>9} {'peak':>9}")
    for name, result in results.items():
        factory = every[name].factory if name in every else name
        for search, (found, speed) in result["searches"].items():
            sizes = " ".join(f"{result[part] / 2**20:>5.0f} MiB" for part in ("bytes", "peak"))
            print(f"{factory:<20} {search:<28} {found:>9.3f} {speed:>9.0f} {result['build']:>7.0f}s {sizes}")
    for name in every:
        search, (found, speed) = list(results[name]["searches"].items())[-1]
        report(
            f"retrieval_ann_{name.lower().replace('-', '_')}",
            ours=speed,
            reference=results["exact"]["searches"][""][1],
            unit="queries/s",
            bound="recall_at_10 >= 0.9, ratio >= 1",
            recall_at_10=found,
            search=search,
            build_seconds=results[name]["build"],
            index_bytes=results[name]["bytes"],
            peak_bytes=results[name]["peak"],
        )


if __name__ == "__main__":
    main()
