"""Kills whatever writes a store, again and again, with ``kill -9``, and compares what comes out with undisturbed runs.

Extractions in one process and with four workers, half of them at their sealing; packing, unpacking and merging. The
moment is an operation on the disk (a write, a sync, a link, a rename, an unlink), and for packing, unpacking and
merging, whose copies and HDF5's own writes are no such operations, every other time a moment of the clock. With four
workers, two of them are killed at up to three operations of a run, which must go on by itself, before the process that
writes is killed too.

usage: python benchmarks/chaos.py [--kills 200] [--seed 0] [--images 256]
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hdf5plugin  # noqa: F401 - imported once, not in every child
import numpy as np
import timm  # noqa: F401
import xxhash
from harness import environment, report
from killing import Blow, Facts, run_child
from PIL import Image

from featurebank.extract import engine
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.run import run_features
from featurebank.pipelines.extracting.scale.cluster import Cluster
from featurebank.pipelines.keeping import upkeep
from featurebank.store import FeatureSet, FeatureSetWriter, FeatureStore, Output, Records, StoreError
from featurebank.store.fingerprint import fingerprint

BACKBONES = ("timm:test_vit.r160_in1k@random:0", "timm:test_resnet.r160_in1k@random:0")
SEALING = 8
CHUNK_BYTES = 4096
WORKERS, VICTIMS, STRIKES = 4, 2, 3
SETS, ROWS = 3, 8000
SHARES = {"extract": 0.3, "extract, 4 workers": 0.24, "pack": 0.16, "unpack": 0.14, "merge": 0.16}
COPYING = ("pack", "unpack", "merge")

clusters: list[Any] = []
"""In a child: that of its run."""


@dataclass
class Tally:
    """What became of one kind's stores; all but the first two must stay 0.

    Attributes:
        kills: processes that were killed.
        stores: runs that came to their end after that.
        differ: files that differ from those of the undisturbed run, sources that were touched, files half-written under
            their final name.
        lost: chunks that were valid on disk and computed again.
        left: files that remain after collecting.
    """

    kills: int = 0
    stores: int = 0
    differ: int = 0
    lost: int = 0
    left: int = 0


class SmallChunks(FeatureSetWriter):
    """Many chunks of few rows: many operations to be killed in."""

    written = 0

    @classmethod
    def create(cls, path: Any, **keywords: Any) -> Any:
        """As the writer, in chunks of few rows."""
        return super().create(path, **{**keywords, "chunk_bytes": CHUNK_BYTES})

    def write_chunk(self, name: str, index: int, values: Any) -> None:
        """As the writer, counted."""
        SmallChunks.written += 1
        super().write_chunk(name, index, values)


def make_images(folder: Path, n: int) -> None:
    generator = np.random.default_rng(0)
    target = folder / "all" / "one"
    target.mkdir(parents=True)
    for index in range(n):
        small = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        small.resize((90, 80), Image.Resampling.BICUBIC).save(target / f"{index:05}.png")


def config(images: Path, store: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "store": store,
            "backbones": list(BACKBONES),
            "datasets": [{"name": f"folder:{images}", "splits": ["all"], "label": "chaos"}],
            "extraction": {"device": "cpu", "compile": "never", "precision": "float32", "batch_size": 8, "workers": 1},
        }
    )


def extract(images: Path, store: Path, workers: int | None) -> int:
    """How many chunks were written."""
    logging.getLogger("featurebank").setLevel(logging.ERROR)
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    vars(engine)["FeatureSetWriter"] = SmallChunks
    enter = Cluster.__enter__

    def remember(self: Cluster) -> Cluster:
        clusters.append(self._client.cluster)
        return enter(self)

    Cluster.__enter__ = remember  # type: ignore[method-assign]
    if not run_features(config(images, store), workers=workers, say=lambda _: None).ok:
        raise SystemExit("some feature sets were not made")
    return SmallChunks.written


def some_workers() -> list[int]:
    """The ids of two living workers of this process's cluster."""
    return [nanny.pid for cluster in clusters for nanny in cluster.workers.values() if nanny.pid][:VICTIMS]


def copy(kind: str, source: Path, target: Path) -> int:
    """The verb of the command line; what it prints is not ours to show."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    if kind == "merge":
        upkeep.merge(source, store=target, as_json=True)
    else:
        getattr(upkeep, kind)(target, store=source, as_json=True)
    return 0


def make_sets(store: FeatureStore) -> None:
    """Sealed sets of two outputs whose values compress, as features after a ReLU do."""
    for number in range(SETS):
        generator = np.random.default_rng(number)
        key = {"dataset": {"name": "made", "split": "all"}, "backbone": {"name": f"net{number}"}}
        labels = generator.integers(0, 10, ROWS)
        hashes = generator.integers(0, 256, (ROWS, 16), dtype=np.uint8)
        records = Records(ids=[f"{row:05}" for row in range(ROWS)], labels=labels, content_hash=hashes)
        outputs = [Output(name="pooled", shape=(128,)), Output(name="tokens", shape=(4, 16), dtype="float32")]
        path = store.path_for("made", "all", f"net{number}", fingerprint(key))
        with FeatureSetWriter.create(path, key=key, outputs=outputs, records=records, chunk_bytes=1 << 16) as writer:
            for output in outputs:
                values = np.maximum(generator.standard_normal((ROWS, *output.shape)), 0).astype(output.dtype)
                rows = writer.chunk_rows(output.name)
                for index in range(writer.n_chunks(output.name)):
                    writer.write_chunk(output.name, index, values[index * rows : (index + 1) * rows])
            writer.mark_ok(0, ROWS)
            writer.seal().close()


def file_digests(root: Path) -> dict[str, str]:
    """Of every file of a set's folder, hidden ones too; not of the store's own notes."""
    files = (path for path in sorted(root.glob("*/*/*/*")) if path.is_file())
    return {str(path.relative_to(root)): xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in files}


def array_digests(root: Path) -> dict[str, str]:
    """Every verified array of every sealed set, but for the provenance, which has the seconds of the run."""
    found = {}
    for path in sorted(root.rglob("*.h5")):
        with FeatureSet(path) as made:
            made.verify()
            arrays = {name: made[name] for name in made.outputs}
            arrays |= {"id": made.ids, "label": made.labels, "hash": made.content_hash, "status": made.status}
            for name, array in arrays.items():
                found[f"{path.relative_to(root)} {name}"] = xxhash.xxh3_128_hexdigest(array.tobytes())
    return found


def differing(found: Mapping[str, str], expected: Mapping[str, str]) -> int:
    return sum(found.get(name) != expected.get(name) for name in found.keys() | expected.keys())


def half_written(store: Path) -> int:
    """Files that have their final name and do not verify."""
    found = 0
    for path in store.rglob("*.h5"):
        try:
            with FeatureSet(path) as made:
                made.verify()
        except StoreError:
            found += 1
    return found


def valid_chunks(store: Path) -> int:
    """How many chunks have a valid checksum, in sealed and unfinished sets."""
    valid = 0
    for partial in store.rglob("*.h5.partial"):
        with FeatureSetWriter.resume(partial.with_suffix("")) as writer:
            valid += sum(int((~writer.pending(output.name)).sum()) for output in writer.outputs)
    for sealed in store.rglob("*.h5"):
        with FeatureSet(sealed) as made:
            valid += sum(-(-len(made) // made.chunk_rows(name)) for name in made.outputs)
    return valid


def collect(store: Path) -> int:
    """Has the store's leftovers deleted; how many files are left that are no sealed sets."""
    FeatureStore(store).gc(delete=True, hours=0)
    return sum(not name.endswith(".h5") for name in file_digests(store))


@dataclass
class Chaos:
    """One sequence of kills, reproducible from its seed."""

    root: Path
    chance: random.Random
    images: int
    stores: int = 0
    tallies: dict[str, Tally] = field(default_factory=lambda: {kind: Tally() for kind in SHARES})

    def __post_init__(self) -> None:
        make_images(self.root / "images", self.images)
        make_sets(FeatureStore(self.root / "sets"))
        self.sources = {kind: self.root / ("pack" if kind == "unpack" else "sets") for kind in COPYING}
        self.whole = self._extract(self.root / "whole", None, Blow())
        self.whole_arrays = array_digests(self.root / "whole")
        for again in ("", " again"):
            self.copied = {kind: self._copy(kind, self.root / f"{kind}{again}", Blow()) for kind in COPYING}
        self.copies = {kind: file_digests(self.root / kind) for kind in COPYING}
        self.originals = {kind: file_digests(source) for kind, source in self.sources.items()}
        for kind, tally in self.tallies.items():
            if kind in COPYING:
                tally.differ += differing(file_digests(self.root / f"{kind} again"), self.copies[kind])
        for kind in ("unpack", "merge"):
            self.tallies[kind].differ += differing(self.copies[kind], file_digests(self.root / "sets"))

    def extraction(self, kind: str, kills: int) -> None:
        """Kills an extraction until it comes to its end, at the latest after so many kills."""
        tally, store = self.tallies[kind], self._new_store()
        workers = None if kind == "extract" else WORKERS
        enough, killed = tally.kills + kills, True
        while killed:
            valid = valid_chunks(store)
            blow = self._blow_extraction(workers) if tally.kills < enough else Blow()
            facts = self._extract(store, workers, blow)
            killed = self._count(kind, blow, facts, store)
        tally.stores += 1
        tally.lost += abs(valid + facts.told - self.whole.told)
        tally.differ += differing(array_digests(store), self.whole_arrays)
        tally.left += collect(store)

    def copying(self, kind: str, kills: int) -> None:
        """Kills a pack, unpack or merge up to three times on its way, then lets it come to its end."""
        tally, store = self.tallies[kind], self._new_store()
        enough, killed = tally.kills + min(kills, self.chance.randint(1, 3)), True
        while killed:
            blow = self._blow_copying(kind) if tally.kills < enough else Blow()
            facts = self._copy(kind, store, blow)
            killed = self._count(kind, blow, facts, store)
            tally.differ += differing(file_digests(self.sources[kind]), self.originals[kind])
        tally.stores += 1
        tally.left += collect(store)
        tally.differ += differing(file_digests(store), self.copies[kind])

    def _extract(self, store: Path, workers: int | None, blow: Blow) -> Facts:
        return run_child(lambda: extract(self.root / "images", store, workers), blow, some_workers)

    def _copy(self, kind: str, store: Path, blow: Blow) -> Facts:
        return run_child(lambda: copy(kind, self.sources[kind], store), blow)

    def _new_store(self) -> Path:
        self.stores += 1
        return self.root / f"store{self.stores}"

    def _count(self, kind: str, blow: Blow, facts: Facts, store: Path) -> bool:
        ended = "killed" if facts.killed else "done"
        print(
            f"{kind}, to be killed {blow}: {facts.others} workers killed, {ended} in {facts.seconds:.2f} s", flush=True
        )
        self.tallies[kind].kills += facts.killed + facts.others
        self.tallies[kind].differ += half_written(store)
        return facts.killed

    def _blow_extraction(self, workers: int | None) -> Blow:
        operations = self.whole.operations
        sealing = self.chance.random() < 0.5
        at = self.chance.randrange(operations - SEALING if sealing else 0, operations)
        if workers is None:
            return Blow(at=at)
        strikes = self.chance.sample(range(at), min(at, self.chance.randint(1, STRIKES)))
        return Blow(at=at, others_at=frozenset(strikes))

    def _blow_copying(self, kind: str) -> Blow:
        facts = self.copied[kind]
        if self.chance.random() < 0.5:
            return Blow(after=self.chance.uniform(0, facts.seconds))
        return Blow(at=self.chance.randrange(facts.operations))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=256)
    arguments = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        chance = random.Random(arguments.seed)  # noqa: S311 - a reproducible sequence, not a secret
        chaos = Chaos(root=Path(folder), chance=chance, images=arguments.images)
        counts = {"extract": chaos.whole, **chaos.copied}
        counted = ", ".join(f"{kind} {facts.operations}" for kind, facts in counts.items())
        print(f"operations undisturbed: {counted}  [{environment()}]")
        for kind, share in SHARES.items():
            strike = chaos.copying if kind in COPYING else chaos.extraction
            while (left := math.ceil(share * arguments.kills) - chaos.tallies[kind].kills) > 0:
                strike(kind, left)
    print(f"\n{'kind':<18}  {'kills':>5}  {'stores':>6}  {'differ':>6}  {'lost':>4}  {'left over':>9}")
    for kind, t in chaos.tallies.items():
        print(f"{kind:<18}  {t.kills:>5}  {t.stores:>6}  {t.differ:>6}  {t.lost:>4}  {t.left:>9}")
    tallies = chaos.tallies.values()
    faults, kills = sum(t.differ + t.lost + t.left for t in tallies), sum(t.kills for t in tallies)
    print(f"{kills} kills, seed {arguments.seed}, {time.perf_counter() - started:.0f} s")
    report(
        "chaos",
        ours=faults,
        reference=kills,
        unit="faults of so many kills",
        bound="files that differ, valid chunks computed again, files left over: 0",
        kinds={kind: t.kills for kind, t in chaos.tallies.items()},
        seed=arguments.seed,
    )
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
