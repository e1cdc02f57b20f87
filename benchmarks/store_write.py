"""Writing 200,000 x 768 float16 with checksums: at least 0.6 times the speed of np.save.

Like with like: chunks and checksums without the commits against np.save, which both leave the data in the page cache;
then with the commits, which sync, against np.save with the file synced. ``commits_unsynced`` is the ratio across: our
synced writing against the unsynced np.save. The layout before and the seal after are shown beside. Needs about 700 MB
under --dir, removed at the end.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import report, table
from numpy.typing import NDArray

from featurebank.store import FeatureSetWriter, Output, Records

DIMENSIONS = 768


def save(path: Path, values: NDArray[Any], *, sync: bool) -> float:
    start = time.perf_counter()
    with path.open("wb") as file:
        np.save(file, values)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def write(path: Path, values: NDArray[Any], records: Records, commit_every: int) -> tuple[float, float, float, float]:
    """Seconds of the layout, of the chunks with their checksums, of the commits, and of the seal."""
    laid_out = time.perf_counter()
    output = Output(name="pooled", shape=(DIMENSIONS,))
    with FeatureSetWriter.create(path, key={}, outputs=[output], records=records) as writer:
        rows = writer.chunk_rows("pooled")
        start, committing = time.perf_counter(), 0.0
        for index in range(writer.n_chunks("pooled")):
            writer.write_chunk("pooled", index, values[index * rows : (index + 1) * rows])
            if (index + 1) % commit_every == 0:
                before = time.perf_counter()
                writer.commit()
                committing += time.perf_counter() - before
        before = time.perf_counter()
        writer.mark_ok(0, writer.n_rows)
        writer.commit()
        end = time.perf_counter()
        committing += end - before
        writer.seal().close()
        sealed = time.perf_counter()
    path.unlink()
    return start - laid_out, end - start - committing, committing, sealed - end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure; else the system's temporary one")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--commit-every", type=int, default=64, help="chunks of 1.5 MiB per commit")
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    values = generator.standard_normal((args.rows, DIMENSIONS), np.float32).astype(np.float16)
    records = Records(
        ids=[f"{row:08}" for row in range(args.rows)],
        labels=np.arange(args.rows) % 10,
        content_hash=generator.integers(0, 256, (args.rows, 16), np.uint8),
    )
    names = ("layout", "chunks and checksums", "commits", "seal", "np.save", "np.save, synced")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        for turn in range(args.repeats + 1):
            took = [
                *write(Path(folder) / "ours.h5", values, records, args.commit_every),
                save(Path(folder) / "a.npy", values, sync=False),
                save(Path(folder) / "b.npy", values, sync=True),
            ]
            if turn:  # the first is a warm-up
                for name, value in zip(names, took, strict=True):
                    seconds[name].append(value)
    table(f"{args.rows} x {DIMENSIONS} float16, {values.nbytes / 1e6:.0f} MB", seconds)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    chunks, durable = middle["chunks and checksums"], middle["chunks and checksums"] + middle["commits"]
    shown = {"layout_s": middle["layout"], "seal_s": middle["seal"], "commits_unsynced": middle["np.save"] / durable}
    rate = values.nbytes / 1e6
    pairs = (("store_write", chunks, "np.save"), ("store_write_synced", durable, "np.save, synced"))
    for name, ours, reference in pairs:
        report(name, ours=rate / ours, reference=rate / middle[reference], unit="MB/s", bound="ratio >= 0.6", **shown)


if __name__ == "__main__":
    main()
