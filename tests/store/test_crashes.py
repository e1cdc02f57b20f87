"""Crashes: after any prefix of the writer's operations, with unsynced writes lost or torn, resume goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import feature_sets
import kill_copying
import numpy as np
import pytest
from feature_sets import N_ROWS, OUTPUTS, fill, make_sealed, make_values, make_writer
from kill_copying import copy, place
from numpy.typing import NDArray

from featurebank.store import FeatureSet, FeatureSetWriter, FeatureStore
from featurebank.store._disk import Disk

Operation: TypeAlias = "tuple[int, bytes] | None"  # address and data of a write; None is a sync
Chunk: TypeAlias = tuple[str, int]

VALUES = make_values()
OLD = {name: (values * np.float32(0.5)).astype(values.dtype) for name, values in VALUES.items()}


class Recorder:
    """Records every operation on the disk while the writer's script runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.operations: list[Operation] = []
        write, sync = Disk.write, Disk.sync

        def recorded_write(disk: Disk, address: int, data: bytes | NDArray[np.uint8]) -> None:
            self.operations.append((address, bytes(data)))
            write(disk, address, data)

        def recorded_sync(disk: Disk) -> None:
            self.operations.append(None)
            sync(disk)

        monkeypatch.setattr(Disk, "write", recorded_write)
        monkeypatch.setattr(Disk, "sync", recorded_sync)


def chunk(writer: FeatureSetWriter, values: dict[str, NDArray[np.generic]], at: Chunk) -> NDArray[np.generic]:
    name, index = at
    rows = writer.chunk_rows(name)
    return values[name][index * rows : (index + 1) * rows]


def last_sync(operations: list[Operation], end: int) -> int:
    return max((i for i, operation in enumerate(operations[:end]) if operation is None), default=-1)


def crashed(base: bytes, operations: list[Operation], end: int, safe: int, chance: random.Random) -> bytes:
    """The file after a crash within operation ``end``: writes before ``safe`` are there, of the others any part."""
    image = bytearray(base)
    for i, operation in enumerate(operations[: end + 1]):
        if operation is None:
            continue
        address, data = operation
        kept = len(data) if i < safe else chance.choice([0, len(data), chance.randrange(len(data) + 1)])
        image[address : address + kept] = data[:kept]
    return bytes(image)


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_resume_after_every_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed_bytes: bytes, power_cut: bool
) -> None:
    """A killed process loses nothing that it had written; a power cut whatever was not synced, in any order."""
    path = tmp_path / "demo.h5"
    writer = make_writer(path)
    base = writer.partial_path.read_bytes()
    recorder = Recorder(monkeypatch)
    chunks: list[Chunk] = [(o.name, index) for o in OUTPUTS for index in range(writer.n_chunks(o.name))]
    # (operations so far, the chunks that are valid on disk from there on until they are written again)
    committed: list[tuple[int, set[Chunk]]] = [(0, set())]
    valid: set[Chunk] = set()

    def write(at: Chunk, values: dict[str, NDArray[np.generic]]) -> None:
        committed.append((len(recorder.operations), valid - {at}))
        valid.discard(at)
        writer.write_chunk(*at, chunk(writer, values, at))
        fresh.add(at)

    def commit() -> None:
        writer.commit()
        valid.update(fresh)
        fresh.clear()
        committed.append((len(recorder.operations), set(valid)))

    fresh: set[Chunk] = set()
    for number, at in enumerate(chunks):
        write(at, OLD if number % 4 == 1 else VALUES)
        writer.mark_failed(number, "for now")
        if number % 3 == 2:
            commit()
            writer.set_provenance({"at": number, "log": "x" * 5000})
    commit()
    for at in chunks[1::4]:
        write(at, VALUES)
    fill(writer, VALUES)
    commit()
    writer.seal(provenance={}).close()
    assert path.read_bytes() == sealed_bytes
    operations = list(recorder.operations)
    monkeypatch.undo()
    path.unlink()

    chance = random.Random(7)  # noqa: S311 - a reproducible sequence, not a secret
    for end in range(len(operations)):
        safe = last_sync(operations, end) if power_cut else end
        # What was valid when everything before `safe` was done, and was not written again since.
        known = max(k for k, (at, _) in enumerate(committed) if at <= max(safe, 0))
        expected = set.intersection(*(then for at, then in committed[known:] if at <= end))
        writer.partial_path.write_bytes(crashed(base, operations, end, safe, chance))
        with FeatureSetWriter.resume(path) as resumed:
            here = {at for at in chunks if not resumed.pending(at[0])[at[1]]}
            assert expected <= here, f"operation {end} of {len(operations)} lost {expected - here}"
            found = resumed.partial_path.read_bytes()
            for at in here:
                new = chunk(resumed, VALUES, at)
                if found.find(new.tobytes()) < 0:
                    assert found.find(chunk(resumed, OLD, at).tobytes()) >= 0, f"operation {end}: {at} is torn"
                    resumed.write_chunk(*at, new)
            fill(resumed, VALUES)
            resumed.seal(provenance={}).close()
        assert path.read_bytes() == sealed_bytes, f"operation {end}"
        path.unlink()


CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
from feature_sets import make_values, make_writer
writer = make_writer(sys.argv[1])
values = make_values()["tokens"]
writer.write_chunk("tokens", 0, values[:16])
writer.mark_ok(0, 16)
writer.commit()
writer.write_chunk("tokens", 1, values[16:32])
print("ready", flush=True)
sys.stdin.read()
"""


def test_kill_9_costs_what_was_not_committed(tmp_path: Path) -> None:
    path = tmp_path / "demo.h5"
    command = [sys.executable, "-c", CHILD, str(path), str(Path(feature_sets.__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        os.kill(child.pid, signal.SIGKILL)
    with FeatureSetWriter.resume(path) as writer:
        assert writer.pending("tokens").tolist() == [False, True, True, True, True]
        assert writer.status.tolist() == [1] * 16 + [0] * (N_ROWS - 16)
        fill(writer, VALUES)
        writer.seal().close()


@pytest.mark.parametrize("verb", ["seal", "pack", "unpack", "merge"])
def test_kill_9_at_every_operation(tmp_path: Path, verb: str) -> None:
    """What has its name is whole, whenever the kill comes; the same again gives the same bytes."""
    if verb in ("pack", "unpack"):
        pytest.importorskip("hdf5plugin")
    source, targets = tmp_path / "source", tmp_path / "targets"
    make_sealed(place(source)).close()
    if verb == "unpack":
        copy("pack", source, tmp_path / "packed")
        source = tmp_path / "packed"
    before = place(source).read_bytes()
    subprocess.run([sys.executable, kill_copying.__file__, verb, str(source), str(targets)], check=True)
    expected = place(targets / "whole").read_bytes()
    *killed, finished = sorted((path for path in targets.iterdir() if path.name != "whole"), key=lambda p: int(p.name))
    assert place(finished).read_bytes() == expected
    assert len(killed) > 5
    for target in killed:
        if place(target).exists():
            assert place(target).read_bytes() == expected
        if verb == "seal":
            FeatureStore(target).gc(delete=True, hours=0)
        if not place(target).exists():
            copy(verb, source, target)
        FeatureStore(target).gc(delete=True, hours=0)
        assert [path for path in target.rglob("*") if path.is_file() and path.name != ".origin"] == [place(target)]
        assert place(target).read_bytes() == expected
    assert place(source).read_bytes() == before


@pytest.mark.parametrize("verb", ["pack", "merge"])
def test_what_a_kill_left_is_in_nobodys_way(tmp_path: Path, verb: str) -> None:
    if verb == "pack":
        pytest.importorskip("hdf5plugin")
    source, target = tmp_path / "source", tmp_path / "target"
    make_sealed(place(source)).close()
    hidden = place(target).with_name(".0123456789abcdef.layout")
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(place(source).read_bytes()[:5000])
    copy(verb, source, target)
    with FeatureSet(place(target)) as made:
        assert made.verify().ok
    assert hidden.exists()
    FeatureStore(target).gc(delete=True, hours=0)
    assert [path for path in target.rglob("*") if path.is_file()] == [place(target)]
