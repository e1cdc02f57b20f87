"""Storage that is slow: how often each byte is read, the wall-clock, and how soon the first feature is safe.

Every request for a JPEG waits 10 ms, and all of them share 20 MB/s. The reference is the way it was before: every file
is hashed before the run, so that the key is known at once, and read again by two threads to be decoded. The last line
has a folder of ``--many`` files, of which only the beginning is extracted: until the first row is committed.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import environment, report
from photographs import photographs

from featurebank.extract import backbones, batches, datasets
from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.wanted import Request, want
from featurebank.store import FeatureSetWriter, FeatureStore

BACKBONE = "timm:test_efficientnet.r160_in1k@random:0"
WAITED_SECONDS: float = batches.WAITED_SECONDS
LATENCY = 0.010
RATE = 20e6


@dataclass
class Storage:
    """A pipe of ``RATE`` bytes a second that all requests share, each ``LATENCY`` long."""

    requests: int = 0
    nbytes: int = 0
    _free: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def passed(self, nbytes: int) -> None:
        """Returns when so many bytes have come through."""
        time.sleep(LATENCY)
        with self._lock:
            self.requests += 1
            self.nbytes += nbytes
            now = time.perf_counter()
            self._free = max(now, self._free) + nbytes / RATE
            wait = self._free - now
        time.sleep(wait)


class SlowSplit(FileSplit):
    """A folder of images behind a `Storage`."""

    storage: Storage

    def read(self, index: int) -> bytes:
        """As a file's, slowly."""
        content = super().read(index)
        self.storage.passed(len(content))
        return content

    def _hashed(self) -> Any:
        hashes = super()._hashed()
        with _threads() as pool:
            list(pool.map(lambda path: self.storage.passed(os.stat(path).st_size), map(self.path, range(len(self)))))  # noqa: PTH116
        return hashes


def _threads() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1)))  # as many as hash files


def opened(folder: Path, storage: Storage) -> SlowSplit:
    """The images, in the order of a folder's split."""
    plain = datasets.open_split(DatasetSpec(name=f"folder:{folder}", split="all", label="slow"))
    split = SlowSplit(plain.spec, plain.ids, plain.labels, plain.class_names, folder=folder, files=list(plain.ids))
    split.storage = storage
    return split


@dataclass
class First:
    """When the first row was committed; ends the run there if it shall."""

    start: float
    ends: bool = False
    seconds: float = 0.0

    def look(self, writer: FeatureSetWriter) -> None:
        """Called after each commit."""
        if not self.seconds and any(writer.held(output.name).any() for output in writer.outputs):
            self.seconds = time.perf_counter() - self.start
            if self.ends:
                raise KeyboardInterrupt


def run(folder: Path, *, hashed_first: bool, first_only: bool = False) -> dict[str, float]:
    """One extraction into a new store: wall-clock, seconds to the first commit, bytes read."""
    storage, spec = Storage(), backbones.resolve(BACKBONE)
    real = FeatureSetWriter.commit, FeatureSetWriter.keep_parts
    start = time.perf_counter()
    first = First(start, ends=first_only)

    def commit(writer: FeatureSetWriter) -> int:
        done = real[0](writer)
        first.look(writer)
        return done

    def keep_parts(writer: FeatureSetWriter, parts: Any) -> None:
        real[1](writer, parts)
        first.look(writer)

    kind: Any = FeatureSetWriter
    kind.commit, kind.keep_parts = commit, keep_parts
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["FEATUREBANK_CACHE"] = f"{temporary}/cache"
        try:
            vars(batches)["WAITED_SECONDS"] = math.inf if hashed_first else WAITED_SECONDS
            split = opened(folder, storage)
            ready = time.perf_counter()
            digests = {0: datasets.dataset_digest(split)} if hashed_first else None
            request = Request(backbone=spec, split=0)
            store, once = FeatureStore(Path(temporary)), not hashed_first
            wanted = want([request], [split], store, precision="float32", digests=digests, read_once=once)
            outcome = extract(wanted, [split], execution=Execution(device="cpu", compile="never"))[0]
            assert outcome.state == "sealed", outcome.error  # noqa: S101
        except KeyboardInterrupt:
            pass
        finally:
            kind.commit, kind.keep_parts = real
    wall = time.perf_counter() - start
    return {"wall": wall, "first": first.seconds, "opening": ready - start, "bytes": storage.nbytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--many", type=int, default=200_000)
    parser.add_argument("--reference-only", action="store_true", help="only the way that hashes every file first")
    args = parser.parse_args()
    logging.getLogger("featurebank").setLevel(logging.ERROR)
    print(f"{LATENCY * 1e3:.0f} ms a request, {RATE / 1e6:.0f} MB/s for all  [{environment()}]")
    ways = {"hashed first": True} if args.reference_only else {"read once": False, "hashed first": True}
    seen: dict[str, dict[str, float]] = {}
    with photographs(args.rows) as folder:
        size = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
        _settled(folder)
        run(folder, hashed_first=True, first_only=True)  # imports, the network's file
        for name, hashed_first in ways.items():
            seen[name] = run(folder, hashed_first=hashed_first)
            _show(f"{args.rows:,} files, {name}", seen[name], size)
    if args.reference_only:
        return
    with tempfile.TemporaryDirectory() as temporary:
        many = _linked(Path(temporary), args.many)
        late = run(many, hashed_first=False, first_only=True)
        _show(f"{args.many:,} files, read once", late, 0)
    ours, reference = seen["read once"], seen["hashed first"]
    report(
        "read_once",
        ours=ours["wall"],
        reference=reference["wall"],
        unit="s",
        bound="ratio <= 0.6, bytes <= 1.01, first <= 2 s",
        bytes_of_files=round(ours["bytes"] / size, 4),
        first_seconds=round(ours["first"], 2),
        first_seconds_of_many=round(late["first"], 2),
    )


def _show(name: str, seen: dict[str, float], size: int) -> None:
    share = f", {seen['bytes'] / size:.3f} x the files' bytes" if size else ""
    opening = f"(opened after {seen['opening']:.2f})"
    print(f"{name:<32} {seen['wall']:7.2f} s, first row safe after {seen['first']:6.2f} s {opening}{share}", flush=True)


def _settled(folder: Path) -> None:
    """Files that are an hour old: nobody expects them to change."""
    earlier = time.time() - 3600
    for path in folder.rglob("*.jpg"):
        os.utime(path, (earlier, earlier))


def _linked(folder: Path, n: int) -> Path:
    """A folder of ``n`` names for a few hundred photographs."""
    many = folder / "many"
    with photographs(256, folder=folder) as few:
        sources = sorted(few.rglob("*.jpg"))
        for index in range(n):
            target = many / f"class_{index % 100:03}" / f"{index:07}.jpg"
            if index < 100:
                target.parent.mkdir(parents=True)
            os.link(sources[index % len(sources)], target)
    _settled(many)
    return many


if __name__ == "__main__":
    main()
