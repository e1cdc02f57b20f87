"""kill -9 at random moments: the bytes of an uninterrupted run, and no valid chunk computed twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs import make_images

from featurebank.store import FeatureSet, FeatureSetWriter

IMAGES = 400
KILLS = 20
FOREVER = 300.0

Chunks = set[tuple[str, str, int]]


class Worker:
    """Talks to kill_worker.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, seconds: float) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def worker(images: Path, store: Path, log: Path) -> Iterator[Worker]:
    script = Path(__file__).parents[1] / "support" / "kill_worker.py"
    command = [sys.executable, str(script), str(images), str(store), str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Worker(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def valid_chunks(store: Path) -> Chunks:
    """Every chunk of every unfinished set that has a valid checksum."""
    valid: Chunks = set()
    for partial in store.rglob("*.h5.partial"):
        with FeatureSetWriter.resume(partial.with_suffix("")) as writer:
            for output in writer.outputs:
                done = ~writer.pending(output.name)
                valid |= {(partial.parent.name, output.name, int(i)) for i in done.nonzero()[0]}
    for sealed in store.rglob("*.h5"):
        with FeatureSet(sealed) as made:
            for name in made.outputs:
                n_chunks = -(-len(made) // made.chunk_rows(name))
                valid |= {(sealed.parent.name, name, i) for i in range(n_chunks)}
    return valid


def logged(log: Path) -> list[tuple[str, str, int]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(backbone, name, int(index)) for backbone, name, index in (line.split(" ") for line in lines)]


def outputs(store: Path) -> dict[tuple[str, str], bytes]:
    made = {}
    for path in sorted(store.rglob("*.h5")):
        with FeatureSet(path) as feature_set:
            feature_set.verify()
            for name in feature_set.outputs:
                made[path.parent.name, name] = feature_set[name].tobytes()
            made[path.parent.name, "status"] = feature_set.status.tobytes()
    return made


@pytest.mark.slow
def test_kill_at_twenty_random_moments(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", IMAGES)
    next(images.rglob("*.png")).write_bytes(b"a damaged image")
    with worker(images, tmp_path / "whole", tmp_path / "whole.log") as whole:
        assert whole.run(FOREVER) == "0"
    expected = outputs(tmp_path / "whole")
    n_chunks = len(logged(tmp_path / "whole.log"))
    assert n_chunks > 80, "too few chunks to be killed between them"

    moments = random.Random(0)  # noqa: S311 - a reproducible sequence, not a secret
    kills = rounds = repeated = 0
    while kills < KILLS:
        rounds += 1
        store, log = tmp_path / f"store{rounds}", tmp_path / f"log{rounds}"
        store.mkdir()
        with worker(images, store, log) as killed:
            while True:
                before, seen = valid_chunks(store), len(logged(log))
                answer = killed.run(moments.uniform(0.0, 0.8) if kills < KILLS else FOREVER)
                repeated += len(before & set(logged(log)[seen:]))
                if answer != "killed":
                    assert answer == "0"
                    break
                kills += 1
        assert outputs(store) == expected
        assert not list(store.rglob("*.partial"))
    assert repeated == 0, "chunks with a valid checksum were computed again"
    assert kills >= KILLS
