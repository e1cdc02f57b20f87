"""A disk that fails at any operation of a run: one clear error, nothing lost, and the same bytes from the next run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from racing import small_chunks
from runs import VIT, make_images, open_folder, run
from sealed_arrays import sealed_arrays

from featurebank.extract import engine
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution
from featurebank.store import FeatureSetWriter, StoreError

IMAGES = 40
EXECUTION = Execution(device="cpu", compile="never", batch_size=8, workers=1, commit_seconds=0.01)
FAULTS = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO]
FROM_THE_START = 24
SEALING = 8


class Operations:
    """Counts positional writes, syncs and renames, and fails at one of them; a write is torn in the middle."""

    def __init__(self, fail_at: int | None, error: BaseException | None) -> None:
        self.done = 0
        self._fail_at = fail_at
        self._error = error

    def failing(self) -> bool:
        self.done += 1
        return self.done - 1 == self._fail_at

    def fail(self) -> None:
        assert self._error is not None
        raise self._error


@contextmanager
def disk(fail_at: int | None = None, error: BaseException | None = None) -> Iterator[Operations]:
    operations = Operations(fail_at, error)
    pwrite, fdatasync, rename = os.pwrite, os.fdatasync, os.rename

    def torn_pwrite(fd: int, data: Any, address: int) -> int:
        if operations.failing():
            pwrite(fd, data[: len(data) // 2], address)
            operations.fail()
        return pwrite(fd, data, address)

    def failing_sync(fd: int) -> None:
        if operations.failing():
            operations.fail()
        fdatasync(fd)

    def failing_rename(source: Any, target: Any) -> None:
        if operations.failing():
            operations.fail()
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", torn_pwrite)
        patch.setattr(os, "fdatasync", failing_sync)
        patch.setattr(os, "rename", failing_rename)
        yield operations


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = make_images(tmp_path_factory.mktemp("images"), IMAGES)
    sorted(folder.rglob("*.png"))[7].write_bytes(b"no image")
    return open_folder(folder)


@pytest.fixture(scope="module")
def whole(split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """What an undisturbed run makes, and in how many operations."""
    # Once before: from then on the contents are known, in this run as in those that are disturbed.
    assert run(tmp_path_factory.mktemp("before"), split, [VIT], execution=EXECUTION)[0].state == "sealed"
    store = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, disk() as operations:
        patch.setattr(engine, "FeatureSetWriter", small_chunks())
        assert run(store, split, [VIT], execution=EXECUTION)[0].state == "sealed"
    return sealed_arrays(store), operations.done


@pytest.mark.slow
def test_each_operation_may_fail(
    split: Split, whole: tuple[dict[str, bytes], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, n_operations = whole
    monkeypatch.setattr(engine, "FeatureSetWriter", small_chunks())
    some = range(0, n_operations - SEALING, max(1, n_operations // FROM_THE_START))
    for turn, at in enumerate(some):
        code = FAULTS[turn % len(FAULTS)]
        store = tmp_path / str(at)
        with disk(at, OSError(code, os.strerror(code))), pytest.raises(StoreError) as raised:
            run(store, split, [VIT], execution=EXECUTION)
        assert os.strerror(code) in str(raised.value)
        assert ".h5" in str(raised.value)
        assert not list(store.rglob("*.layout")), "the layout of a file that was not begun is left behind"
        assert run(store, split, [VIT], execution=EXECUTION)[0].state == "sealed"
        assert sealed_arrays(store) == expected, f"operation {at} of {n_operations}"


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_sealing_may_be_interrupted_at_every_step(
    split: Split,
    whole: tuple[dict[str, bytes], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    monkeypatch.setattr(engine, "FeatureSetWriter", small_chunks())

    def only_sealing(self: FeatureSetWriter, provenance: Any = None) -> Any:
        with disk(at, error) as operations:
            try:
                return real(self, provenance)
            finally:
                steps.append(operations.done)

    real = FeatureSetWriter.seal
    for at in range(SEALING):
        steps: list[int] = []
        store = tmp_path / str(at)
        with monkeypatch.context() as patch:
            patch.setattr(FeatureSetWriter, "seal", only_sealing)
            try:
                run(store, split, [VIT], execution=EXECUTION)
            except (StoreError, KeyboardInterrupt):
                pass
            else:
                assert steps[0] <= at, "a failed step was passed over"
        assert run(store, split, [VIT], execution=EXECUTION)[0].computed == 0, "rows were computed again"
        assert sealed_arrays(store) == whole[0]
