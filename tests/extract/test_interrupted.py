"""Ctrl-C keeps what was computed: not whole chunks only, but every row that had come through."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import featurebank_, words
from feature_sets import make_records
from runs import RESNET, VIT, make_images, open_folder, run
from sealed_arrays import sealed_arrays
from tiny_network import TinyNetwork

from featurebank.extract import backbones
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution
from featurebank.extract.sink import Assembler
from featurebank.store import FeatureSetWriter, FeatureStore, Output, StorageError

IMAGES = 210
BATCH = 16
EXECUTION = Execution(device="cpu", compile="never", batch_size=BATCH, workers=1)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = make_images(tmp_path_factory.mktemp("images"), IMAGES)
    sorted(folder.rglob("*.png"))[77].write_bytes(b"no image")
    return open_folder(folder)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "build", TinyNetwork)


def interrupt_at(patch: pytest.MonkeyPatch, row: int, number: int = signal.SIGINT) -> list[int]:
    """The signal once a batch has a row up to this one; the list grows by the rows that are computed."""
    computed: list[int] = []
    real = Assembler.add

    def add(self: Assembler, start: int, outputs: Any, failed: Any) -> None:
        real(self, start, outputs, failed)
        computed.extend(range(start, start + len(next(iter(outputs.values())))))
        if start + BATCH > row:
            os.kill(os.getpid(), number)

    patch.setattr(Assembler, "add", add)
    return computed


@pytest.fixture(scope="module")
def whole(split: Split, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "build", TinyNetwork)
        run(store, split, [VIT], execution=EXECUTION)
    return sealed_arrays(store)


def test_b5_sigint_at_twenty_random_rows_computes_at_most_one_batch_twice(
    split: Split, whole: dict[str, bytes], tmp_path: Path
) -> None:
    rows = random.Random(0)  # noqa: S311 - a reproducible sequence, not a secret
    for turn in range(20):
        store, row = tmp_path / str(turn), rows.randrange(IMAGES - BATCH)
        with pytest.MonkeyPatch.context() as patch:
            before = interrupt_at(patch, row)
            with pytest.raises(KeyboardInterrupt):
                run(store, split, [VIT], execution=EXECUTION)
        (entry,) = FeatureStore(store).ls()
        assert entry.state == "partial"
        assert entry.n_done == len(set(before)) > row - BATCH
        outcome = run(store, split, [VIT], execution=EXECUTION)[0]
        assert outcome.state == "sealed"
        assert outcome.computed <= IMAGES - len(before) + BATCH
        assert sealed_arrays(store) == whole, f"interrupted at row {row}"


def test_b5_an_interrupted_run_says_what_it_kept_and_goes_on_from_there_again_and_again(
    split: Split, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(logging.getLogger("featurebank"), "propagate", True)
    kept = []
    for row in (40, 100, 175):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, row)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, split, [VIT], execution=EXECUTION)
        kept.append(FeatureStore(tmp_path).ls()[0].n_done)
        assert f"on pictures/all: kept {kept[-1]} of 210 rows; run again to go on" in caplog.text
    assert kept == sorted(kept)
    assert kept[-1] >= 176
    outcome = run(tmp_path, split, [VIT], execution=EXECUTION)[0]
    assert outcome.computed <= IMAGES - kept[-1] + BATCH
    assert outcome.failed.keys() == {77}
    assert sealed_arrays(tmp_path) == whole


def test_b5_a_kill_after_resuming_loses_nothing_that_was_kept(split: Split, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 100)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, split, [VIT], execution=EXECUTION)
    kept = FeatureStore(tmp_path).ls()[0].n_done
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 150)
        patch.setattr(Assembler, "keep", lambda _: 0)  # as if the process had been killed
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, split, [VIT], execution=EXECUTION)
    assert FeatureStore(tmp_path).ls()[0].n_done == kept


def test_b5_a_backbone_that_fails_keeps_its_rows_too(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, passes = TinyNetwork.forward, iter(range(10**6))

    def forward(self: TinyNetwork, images: Any) -> Any:
        if self.spec.name == RESNET and len(images) > 1 and next(passes) == 5:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return real(self, images)

    monkeypatch.setattr(TinyNetwork, "forward", forward)
    outcomes = run(tmp_path, split, [RESNET, VIT], execution=EXECUTION)
    assert [o.state for o in outcomes] == ["failed", "sealed"]
    assert outcomes[0].kept == 5 * BATCH
    monkeypatch.setattr(TinyNetwork, "forward", real)
    assert run(tmp_path, split, [RESNET], execution=EXECUTION)[0].computed == IMAGES - 5 * BATCH


def partial(path: Path) -> FeatureSetWriter:
    outputs = [Output(name="pooled", shape=(64,)), Output(name="tokens", shape=(40, 64), dtype="float32")]
    return FeatureSetWriter.create(path, key={"a": 1}, outputs=outputs, records=make_records(), chunk_bytes=1 << 16)


def test_b5_parts_that_do_not_match_their_digest_are_as_none(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with partial(path) as writer:
        rows = np.arange(70) < 40
        values = np.full((70, 64), 2, np.float16)
        writer.keep_parts({("pooled", 0): (rows, values)})
        address = writer._header.table.outputs[0].values.address
        disk = writer.partial_path
    with FeatureSetWriter.resume(path) as writer:
        assert writer.held("pooled").tolist() == rows.tolist()
        part = writer.part("pooled", 0)
        assert part is not None
        assert (part[1][:40] == 2).all()
        assert not part[1][40:].any()
    with disk.open("r+b") as file:
        file.seek(address + 5)
        file.write(b"\x07")
    with FeatureSetWriter.resume(path) as writer:
        assert not writer.held("pooled").any()
        assert writer.part("pooled", 0) is None


@pytest.mark.parametrize(
    "told",
    [None, 3, [], {"pooled": 3}, {"pooled": {"0": 3}}, {"pooled": {"0": "0-999999999 " + "0" * 32}},
     {"pooled": {"9": "0-1 " + "0" * 32}}, {"pooled": {"-1": "0-1 " + "0" * 32}}, {"pooled": {"x": "0-1 " + "0" * 32}}],
)  # fmt: skip
def test_b5_a_record_of_parts_that_is_malformed_is_as_none(tmp_path: Path, told: Any) -> None:
    path = tmp_path / "a.h5"
    with partial(path) as writer:
        writer.set_provenance({"unfinished_chunks": told, "more": 1})
    with FeatureSetWriter.resume(path) as writer:
        assert not writer.held("pooled").any()
        assert writer.manifest["provenance"]["more"] == 1


def test_b5_no_sealed_set_tells_of_parts_and_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with partial(path) as writer:
        odd = np.where(np.arange(70)[:, None] == 5, np.inf, np.ones((70, 64), np.float16)).astype(np.float16)
        writer.keep_parts({("pooled", 0): (np.arange(70) < 40, odd)})
        assert not writer.held("pooled").any()
        writer.keep_parts({("pooled", 0): (np.arange(70) > 40, odd)})
        assert writer.held("pooled").sum() == 29
        for output in writer.outputs:
            for index in range(writer.n_chunks(output.name)):
                count = min(70 - index * writer.chunk_rows(output.name), writer.chunk_rows(output.name))
                writer.write_chunk(output.name, index, np.ones((count, *output.shape), output.dtype))
        writer.mark_ok(0, 70)
        with writer.seal() as sealed:
            assert sealed.provenance == {}


def test_b5_a_full_disk_at_the_end_is_said_and_hides_nothing(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    kept, keep_parts = [0], FeatureSetWriter.keep_parts

    def full(self: FeatureSetWriter, parts: Any) -> None:
        kept[0] += 1
        if kept[0] > 1:  # once at the beginning, so that the first rows are safe
            raise StorageError(28, "cannot write: No space left on device")
        keep_parts(self, parts)

    monkeypatch.setattr(logging.getLogger("featurebank"), "propagate", True)
    monkeypatch.setattr(FeatureSetWriter, "keep_parts", full)
    interrupt_at(monkeypatch, 60)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, split, [VIT], execution=EXECUTION)
    assert "could not be kept: " in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_b5_the_command_keeps_part_chunks_at_both_signals(tmp_path: Path, number: signal.Signals) -> None:
    make_images(tmp_path / "images" / "train", 60)
    config = tmp_path / "run.yaml"
    config.write_text(
        f"store: {tmp_path / 'store'}\nbackbones: [{VIT}]\n"
        f"datasets: [{{name: 'folder:{tmp_path / 'images'}', splits: [train]}}]\n"
        "extraction: {device: cpu, compile: never, precision: float32, batch_size: 16, workers: 1}\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 20, number)
        done = featurebank_("features", config)
    assert done.code == 130
    assert re.search(r"train: kept (16|32|48) of 60 rows; run again to go on", words(done.err))
    assert "interrupted" in done.err
    assert re.search(r"\b(16|32|48) of 60\b", featurebank_("ls", "--store", tmp_path / "store").out)
    assert signal.getsignal(signal.SIGTERM) == before
