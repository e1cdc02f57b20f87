"""A second run over the same photographs with and without the pixel cache: read, decode and transform on one thread.

Once with all files in memory, and once on a disk that answers after a stated delay: simulated by a sleep before every
read of an original and before every read of the cache.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from harness import alternate, report, table
from photographs import photographs
from stages import median, open_folder

from featurebank.extract import backbones
from featurebank.extract.batches import Part, Preparer, Reader, Shelves, batches
from featurebank.extract.datasets.contract import Split
from featurebank.extract.pixel_cache import PixelCache
from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.progress import Clock

BACKBONE = "efficientnet_lite0"
BATCH = 16


def prepare_all(split: Split, preprocessing: Preprocessing, cache: Path | None = None) -> None:
    """Every image of the split up to its pixels, as a run that begins with a cache, or without one."""
    clock = Clock()
    shelves = None if cache is None else Shelves(PixelCache(cache), [preprocessing])
    read = Reader(split, clock, strict=True, shelves=shelves)
    prepare = Preparer(split, [preprocessing], clock, strict=True, pinned=False, shelves=shelves)
    for batch in batches([(0, len(split))], [((0, len(split)),)], BATCH):
        read(batch)
        prepare.allocate(batch)
        prepare(batch, batch.start, batch.stop)


@contextmanager
def slow_disk(seconds: float) -> Iterator[None]:
    """Every read of an original, and every read of the cache, begins after a delay."""

    def delayed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            time.sleep(seconds)
            return function(*arguments)

        return call

    with mock.patch.object(Part, "read", delayed(Part.read)), mock.patch.object(os, "preadv", delayed(os.preadv)):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--delay-ms", type=float, default=10.0, help="of the slow disk, per read")
    args = parser.parse_args()
    preprocessing = backbones.resolve(BACKBONE).preprocessing
    with photographs(args.images) as folder, TemporaryDirectory(dir=folder.parent) as cache:
        split = open_folder(folder)
        prepare_all(split, preprocessing, Path(cache))
        cases = {
            "without": partial(prepare_all, split, preprocessing),
            "with": partial(prepare_all, split, preprocessing, Path(cache)),
        }
        measured = {"in memory": alternate(cases, repeats=args.repeats)}
        with slow_disk(args.delay_ms / 1e3):
            measured[f"{args.delay_ms:g} ms a read"] = alternate(cases, repeats=args.repeats, warmup=0)
        originals, kept = (
            sum(file.stat().st_size for file in root.rglob("*.*") if file.is_file()) for root in (folder, Path(cache))
        )
    print(f"{args.images} JPEGs of {originals / 1e6:.0f} MB for {BACKBONE}, a cache of {kept / 1e6:.0f} MB")
    for disk, seconds in measured.items():
        rates = {name: args.images / median(values) for name, values in seconds.items()}
        table(f"read, decode, transform, {disk}", seconds, {name: f"{r:.0f} images/s" for name, r in rates.items()})
        report(
            f"pixel_cache/{disk}",
            ours=rates["with"],
            reference=rates["without"],
            unit="images/s",
            bound="ratio >= 1",
        )


if __name__ == "__main__":
    main()
