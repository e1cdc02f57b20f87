"""A partial under a provisional key: the same file as one that had its key from the beginning, whatever happens."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from feature_sets import KEY, N_ROWS, OUTPUTS, fill, make_head, make_records, make_values
from numpy.typing import NDArray

from featurebank.store import FeatureSetWriter, InvalidInputError, NotFoundError, Records, StorageError
from featurebank.store._disk import Disk
from featurebank.store.fingerprint import fingerprint, is_provisional, provisional

Operation: TypeAlias = "tuple[int, bytes] | int | None"  # address and data of a write; a length; None is a sync

DIGEST = "0123456789abcdef" * 4
FINAL: dict[str, Any] = {**KEY, "dataset": {**KEY["dataset"], "digest": DIGEST}}  # type: ignore[dict-item]
BEGUN: dict[str, Any] = {**KEY, "dataset": {**KEY["dataset"], "digest": provisional("fedcba98" * 8)}}  # type: ignore[dict-item]
VALUES = make_values()
HASHES = make_records().content_hash


def place(folder: Path, key: dict[str, Any]) -> Path:
    return folder / f"{fingerprint(key)[:16]}.h5"


def begun(folder: Path, key: dict[str, Any] = BEGUN, hashes: NDArray[np.uint8] | None = None) -> FeatureSetWriter:
    whole = make_records()
    records = Records(
        ids=whole.ids,
        labels=whole.labels,
        content_hash=np.zeros((N_ROWS, 16), np.uint8) if hashes is None else hashes,
        columns=whole.columns,
    )
    return FeatureSetWriter.create(
        place(folder, key),
        key=key,
        outputs=OUTPUTS,
        records=records,
        head=make_head(),
        provenance={"device": "cpu"},
        chunk_bytes=4096,
    )


def sealed_at_once(folder: Path) -> bytes:
    folder.mkdir()
    writer = begun(folder, FINAL, HASHES)
    fill(writer, VALUES)
    writer.seal().close()
    return place(folder, FINAL).read_bytes()


def known(writer: FeatureSetWriter) -> None:
    writer.set_content_hash(0, HASHES)
    writer.identify(place(writer.partial_path.parent, FINAL), FINAL)


def test_it_is_sealed_as_the_same_file_byte_for_byte(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    assert writer.is_provisional
    assert is_provisional(writer.manifest["key"])
    fill(writer, VALUES)
    known(writer)
    with writer.seal() as made:
        made.verify()
        assert made.key == FINAL
        assert made.content_hash.tolist() == HASHES.tolist()
    assert [path.name for path in tmp_path.iterdir()] == [place(tmp_path, FINAL).name]
    assert place(tmp_path, FINAL).read_bytes() == sealed_at_once(tmp_path / "other")


def test_it_is_not_sealed_under_a_provisional_key_or_given_another_key_than_its_own(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    fill(writer, VALUES)
    with pytest.raises(InvalidInputError, match="must have the key of its contents to be sealed"):
        writer.seal()
    other = {**FINAL, "precision": "float32"}
    with pytest.raises(InvalidInputError, match="only the digest of the dataset may change, in a provisional key"):
        writer.identify(place(tmp_path, other), other)
    with pytest.raises(InvalidInputError, match="must be named after its fingerprint"):
        writer.identify(place(tmp_path, BEGUN), FINAL)
    known(writer)
    writer.seal().close()


def test_after_a_crash_at_any_operation_it_is_what_it_was_or_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    writer = begun(tmp_path / "run")
    fill(writer, VALUES)
    writer.commit()
    base = writer.partial_path.read_bytes()
    operations: list[Operation] = []
    write, sync, truncate = Disk.write, Disk.sync, Disk.truncate

    def mine(disk: Disk) -> bool:
        return disk.path == writer.partial_path

    def writing(disk: Disk, address: int, data: Any) -> None:
        operations.extend([(address, bytes(data))] * mine(disk))
        write(disk, address, data)

    def syncing(disk: Disk) -> None:
        operations.extend([None] * mine(disk))
        sync(disk)

    def cutting(disk: Disk, size: int) -> None:
        operations.extend([size] * mine(disk))
        truncate(disk, size)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", writing)
        patch.setattr(Disk, "sync", syncing)
        patch.setattr(Disk, "truncate", cutting)
        known(writer)
        writer.seal().close()
    expected = place(tmp_path / "run", FINAL).read_bytes()
    chance, ends = random.Random(0), []  # noqa: S311 - a reproducible sequence, not a secret
    for number in range(2 * (len(operations) + 1)):
        folder = tmp_path / f"crash{number}"
        folder.mkdir()
        partial = place(folder, BEGUN).with_suffix(".h5.partial")
        partial.write_bytes(crashed(base, operations, number // 2, chance, power_cut=number % 2 > 0))
        try:
            resumed = FeatureSetWriter.resume(place(folder, BEGUN))
        except NotFoundError:
            ends.append("sealed")
        else:
            ends.append("as it was")
            assert resumed.is_provisional
            assert all(resumed.held(output.name).all() for output in OUTPUTS)
            known(resumed)
            resumed.seal().close()
        assert place(folder, FINAL).read_bytes() == expected, f"crash {number}"
        assert not list(folder.glob("*.partial"))
    assert set(ends) == {"sealed", "as it was"}


def crashed(base: bytes, operations: list[Operation], end: int, chance: random.Random, *, power_cut: bool) -> bytes:
    """The file after the first ``end`` operations; in a power cut, any part of what was not synced is lost."""
    safe = max((i for i, operation in enumerate(operations[:end]) if operation is None), default=-1)
    image = bytearray(base)
    for i, operation in enumerate(operations[:end]):
        lost = power_cut and i > safe
        if isinstance(operation, int):
            if not (lost and chance.random() < 0.5):
                del image[operation:]
        elif operation is not None:
            address, data = operation
            kept = chance.choice([0, len(data), chance.randrange(len(data) + 1)]) if lost else len(data)
            image.extend(bytes(max(0, address + kept - len(image))))
            image[address : address + kept] = data[:kept]
    return bytes(image)


def test_a_disk_that_is_full_then_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = begun(tmp_path)
    fill(writer, VALUES)
    writer.commit()
    before = writer.partial_path.read_bytes()
    real = Disk.write

    def full(disk: Disk, address: int, data: Any) -> None:
        if address >= len(before):
            real(disk, address, bytes(data)[:100])
            raise StorageError(28, "cannot write: No space left on device")
        real(disk, address, data)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", full)
        with pytest.raises(StorageError, match="No space left"):
            writer.identify(place(tmp_path, FINAL), FINAL)
    assert writer.partial_path.read_bytes() == before
    known(writer)
    writer.seal().close()


def test_content_hashes_are_kept_and_rows_are_forgotten_by_chunk(tmp_path: Path) -> None:
    with begun(tmp_path) as writer:
        fill(writer, VALUES)
        writer.set_content_hash(3, HASHES[3:5])
    rows = np.zeros(N_ROWS, np.bool_)
    rows[40] = True
    with FeatureSetWriter.resume(place(tmp_path, BEGUN)) as writer:
        assert np.flatnonzero(writer.content_hash.any(axis=1)).tolist() == [3, 4]
        writer.forget(rows)
        rest = {output.name: writer.chunk_rows(output.name) for output in OUTPUTS}
    with FeatureSetWriter.resume(place(tmp_path, BEGUN)) as writer:
        for name, size in rest.items():
            held = writer.held(name)
            assert not held[40 // size * size : (40 // size + 1) * size].any()
            assert held.sum() == N_ROWS - min(size, N_ROWS - 40 // size * size)
        part = np.arange(writer.chunk_rows("pooled")) < 12
        first = 40 // len(part) * len(part)
        chunk = np.zeros((len(part), 64), np.float16)
        chunk[:] = VALUES["pooled"][first : first + len(part)]
        writer.keep_parts({("pooled", 40 // len(part)): (part, chunk)})
        assert writer.held("pooled")[first : first + 12].all()
        writer.forget(np.arange(N_ROWS) == first)
    with FeatureSetWriter.resume(place(tmp_path, BEGUN)) as writer:
        assert not writer.held("pooled")[first : first + 12].any()
