"""Kills an extraction again and again, with ``kill -9``, and compares what comes out with an undisturbed run.

Half of the kills fall on the last operations of a feature set, its sealing. With four workers, every second kill takes
two workers, and the run must go on by itself; the others take the process that writes.

usage: python benchmarks/chaos.py [--kills 200] [--images 400]
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from harness import environment, report
from PIL import Image

from featurebank.extract import engine
from featurebank.pipelines.config import RunConfig
from featurebank.pipelines.features import run_features
from featurebank.pipelines.scale.cluster import Cluster
from featurebank.store import FeatureSet, FeatureSetWriter

BACKBONES = ("timm:test_vit.r160_in1k@random:0", "timm:test_resnet.r160_in1k@random:0")
SEALING = 8
CHUNK_BYTES = 4096

Result = tuple[str, int, int, int]
"""How a child ended, the rows it computed, its operations on the disk, how many of its workers were killed."""


class SmallChunks(FeatureSetWriter):
    """Many chunks of few rows: many operations to be killed in."""

    @classmethod
    def create(cls, path: Any, **keywords: Any) -> Any:
        """As the writer, in chunks of few rows."""
        return super().create(path, **{**keywords, "chunk_bytes": CHUNK_BYTES})


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


def count_operations(strike: Callable[[int], None]) -> Callable[[], int]:
    """Calls ``strike`` before every write, sync and rename with how many there were."""
    done = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal done
            strike(done)
            done += 1
            return function(*arguments)

        return call

    for name in ("pwrite", "fdatasync", "rename"):
        setattr(os, name, counted(getattr(os, name)))
    return lambda: done


def extract_in_child(images: Path, store: Path, *, workers: int | None, at: int | None, victims: int) -> Result:
    """Forks an extraction that is killed at an operation: itself, or so many of its workers."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        code = 1
        try:
            facts = _extract(images, store, workers, at, victims)
            os.write(into, "\n".join(map(str, facts)).encode())
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(into)
    with os.fdopen(out) as pipe:
        _, status = os.waitpid(child, 0)
        told = [int(line) for line in pipe.read().split()]
    if os.WIFSIGNALED(status):
        return "killed", 0, 0, 0
    if status:
        raise SystemExit(f"an extraction ended with status {status}")
    return "done", told[0], told[1], told[2]


def _extract(images: Path, store: Path, workers: int | None, at: int | None, victims: int) -> tuple[int, int, int]:
    logging.getLogger("featurebank").setLevel(logging.ERROR)
    vars(engine)["FeatureSetWriter"] = SmallChunks
    pids: list[int] = []
    struck: list[int] = []
    enter = Cluster.__enter__

    def remember(self: Cluster) -> Cluster:
        pids.extend(sorted(self._client.run(os.getpid).values()))
        return enter(self)

    Cluster.__enter__ = remember  # type: ignore[method-assign]

    def strike(done: int) -> None:
        if done == at:
            struck.extend(pids[:victims])
            for pid in struck or [os.getpid()]:
                os.kill(pid, signal.SIGKILL)

    operations = count_operations(strike)
    made = run_features(config(images, store), workers=workers, say=lambda _: None)
    if not made.ok:
        raise SystemExit("some feature sets were not made")
    return sum(o.computed for o in made.outcomes), operations(), len(struck)


def digests(store: Path) -> dict[str, str]:
    """Every verified array of every sealed set, but for the provenance."""
    found = {}
    for path in sorted(store.rglob("*.h5")):
        with FeatureSet(path) as made:
            made.verify()
            arrays = {name: made[name] for name in made.outputs}
            arrays |= {"id": made.ids, "label": made.labels, "hash": made.content_hash, "status": made.status}
            for name, array in arrays.items():
                found[f"{path.relative_to(store)} {name}"] = xxhash.xxh3_128_hexdigest(array.tobytes())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--images", type=int, default=400)
    arguments = parser.parse_args()
    chance = random.Random(0)  # noqa: S311 - a reproducible sequence, not a secret
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_images(root / "images", arguments.images)
        _, rows, operations, _ = extract_in_child(root / "images", root / "whole", workers=None, at=None, victims=0)
        expected = digests(root / "whole")
        kills = stores = different = extra = 0
        print(f"undisturbed: {rows} rows, {operations} operations  [{environment()}]")
        while kills < arguments.kills:
            workers = (None, 4)[stores % 2]
            stores += 1
            store, how = root / f"store{stores}", "killed"
            while how == "killed":
                sealing = chance.random() < 0.5
                first, last = (operations - SEALING, operations) if sealing else (0, operations)
                victims = 2 if workers and kills % 2 else 0
                at = chance.randrange(first, last) if kills < arguments.kills else None
                how, _, _, struck = extract_in_child(root / "images", store, workers=workers, at=at, victims=victims)
                kills += 1 if how == "killed" else struck
                print(f"{workers or 1} workers, at operation {at}, {struck} workers killed: {how}", flush=True)
            different += digests(store) != expected
            extra += len(list(store.rglob("*.partial")))
    print(f"{kills} kills over {stores} stores in {time.perf_counter() - started:.0f} s")
    bound = "stores that differ from the undisturbed run, or have something left over: 0"
    report("chaos", ours=different + extra, reference=stores, unit="stores", bound=bound, kills=kills, rows=rows)
    sys.exit(bool(different or extra))


if __name__ == "__main__":
    main()
