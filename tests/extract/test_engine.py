"""The engine: right numbers, rows that never shift, failures that stay where they are, and runs that go on."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import RESNET, VIT, make_images, open_folder, run, wanted_sets

from featurebank.extract import backbones, engine
from featurebank.extract.assets import cache_dir
from featurebank.extract.decode import decode, decoded
from featurebank.extract.device import CompileMode, Execution
from featurebank.extract.engine import extract
from featurebank.extract.errors import ImageError
from featurebank.extract.forward import PixelsToFeatures, Runner
from featurebank.extract.progress import STAGES, Snapshot
from featurebank.extract.transform import Transform, normalisation
from featurebank.extract.wanted import Request, want
from featurebank.store import FeatureSet, FeatureSetWriter, FeatureStore, StorageError

OUTPUTS = ["pooled", "logits"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), 45)


def by_hand(folder: Path, ids: list[str], name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The same features, one image at a time, straight from the parts."""
    spec = backbones.resolve(name, outputs=OUTPUTS)
    network, transform = backbones.build(spec), Transform(spec.preprocessing)
    scale, shift = normalisation(spec.preprocessing)
    rows: dict[str, list[np.ndarray[Any, Any]]] = {output: [] for output in OUTPUTS}
    for record in ids:
        pixels = transform(decode((folder / record).read_bytes(), spec.preprocessing.decode))
        image = torch.from_numpy((pixels * scale + shift).astype(np.float32).transpose(2, 0, 1)[None].copy())
        with torch.inference_mode():
            for output, value in network(image).items():
                rows[output].append(value[0].numpy())
    return {output: np.stack(values) for output, values in rows.items()}


def test_features_are_those_of_the_network_row_by_row(folder: Path, tmp_path: Path) -> None:
    split = open_folder(folder)
    outcomes = run(tmp_path, split, [VIT, RESNET], outputs=OUTPUTS)
    assert [o.state for o in outcomes] == ["sealed", "sealed"]
    for outcome, name in zip(outcomes, [VIT, RESNET], strict=True):
        expected = by_hand(folder, list(split.ids), name)
        with FeatureSet(outcome.path) as made:
            assert list(made.ids) == list(split.ids)
            assert made.labels.tolist() == split.labels.tolist()
            assert made.content_hash.tolist() == split.content_hashes().tolist()
            assert made.ok.all()
            for output in OUTPUTS:
                np.testing.assert_allclose(made[output], expected[output].astype(np.float16), rtol=2e-3, atol=2e-4)
            assert made.head is not None
            weight, bias = made.head
            logits = made["pooled"].astype(np.float64) @ weight.T.astype(np.float64) + bias
            np.testing.assert_allclose(logits, made["logits"], rtol=1e-2, atol=1e-2)


def test_a_second_run_computes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_folder(folder)
    run(tmp_path, split, [VIT])
    monkeypatch.setattr(backbones, "build", lambda _: pytest.fail("a network was built"))
    assert [o.state for o in run(tmp_path, split, [VIT])] == ["present"]


def test_the_numbers_do_not_depend_on_the_number_of_workers(folder: Path, tmp_path: Path) -> None:
    split = open_folder(folder)
    made = []
    for workers in (1, 3):
        execution = Execution(device="cpu", compile="never", batch_size=8, workers=workers)
        outcome = run(tmp_path / str(workers), split, [VIT], execution=execution)[0]
        made.append(FeatureSet(outcome.path).load("pooled"))
    assert np.array_equal(made[0], made[1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_numbers_depend_on_the_batch_size_only_within_the_tolerance(
    folder: Path, tmp_path: Path, precision: Any
) -> None:
    """Stated in the README: cosine of at least 0.9999 between batch sizes."""
    split = open_folder(folder)
    made = []
    for batch_size in (1, 4, 16):
        execution = Execution(device="cpu", compile="never", batch_size=batch_size)
        outcome = run(tmp_path / str(batch_size), split, [VIT, RESNET], precision=precision, execution=execution)
        made.append([FeatureSet(o.path).load("pooled").astype(np.float64) for o in outcome])
    for other in made[1:]:
        for a, b in zip(made[0], other, strict=True):
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            assert cosine.min() >= 0.9999


def test_bad_images_are_recorded_and_shift_nothing(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", 24)
    good = open_folder(folder)
    before = FeatureSet(run(tmp_path / "good", good, [VIT])[0].path)
    files = sorted(folder.rglob("*.png"))
    files[3].write_bytes(b"")
    files[11].write_bytes(files[11].read_bytes()[:200])
    files[20].write_text("not an image")
    outcome = run(tmp_path / "bad", open_folder(folder), [VIT])[0]
    after = FeatureSet(outcome.path)
    assert outcome.state == "sealed"
    assert set(outcome.failed) == {3, 11, 20} == set(after.reasons)
    assert np.flatnonzero(~after.ok).tolist() == [3, 11, 20]
    assert list(after.ids) == list(before.ids)
    for row in range(24):
        if row in outcome.failed:
            assert outcome.failed[row]
            assert not after["pooled"][row].any()
        else:
            np.testing.assert_array_equal(after["pooled"][row], before["pooled"][row])


def test_strict_stops_at_the_first_bad_image_and_names_it(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", 8)
    bad = sorted(folder.rglob("*.png"))[5]
    bad.write_bytes(b"")
    execution = Execution(device="cpu", compile="never", strict=True)
    with pytest.raises(ImageError, match=bad.name):
        run(tmp_path / "store", open_folder(folder), [VIT], execution=execution)


def test_a_file_that_changes_during_the_run_ends_its_dataset_with_both_hashes(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", 8)
    splits = [open_folder(folder), open_folder(make_images(tmp_path / "others", 8), label="others")]
    spec = backbones.resolve(VIT)
    requests = [Request(backbone=spec, split=index) for index in (0, 1)]
    sets = want(requests, splits, FeatureStore(tmp_path / "store"), precision="float32")
    changed = folder / splits[0].ids[2]
    changed.write_bytes((folder / splits[0].ids[0]).read_bytes())
    outcomes = extract(sets, splits, execution=Execution(device="cpu", compile="never"))
    assert [o.state for o in outcomes] == ["failed", "sealed"]
    assert re.search(r"^DatasetError: .* changed after the run began; expected XXH3 \w+, found \w+", outcomes[0].error)


def test_a_backbone_that_fails_does_not_stop_the_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backbones.build

    def build(spec: Any) -> Any:
        if "resnet" in spec.name:
            raise RuntimeError("no such kernel")
        return real(spec)

    monkeypatch.setattr(backbones, "build", build)
    outcomes = run(tmp_path, open_folder(folder), [RESNET, VIT])
    assert [o.state for o in outcomes] == ["failed", "sealed"]
    assert outcomes[0].error == "RuntimeError: no such kernel"
    assert outcomes[0].n_rows == 45


def test_values_that_are_not_finite_fail_their_set_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PixelsToFeatures.forward

    def forward(self: PixelsToFeatures, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = real(self, pixels)
        if "resnet" in self.network.spec.name and len(pixels) > 1:
            outputs["pooled"][0, 0] = torch.inf
        return outputs

    monkeypatch.setattr(PixelsToFeatures, "forward", forward)
    outcomes = run(tmp_path, open_folder(folder), [RESNET, VIT])
    assert [o.state for o in outcomes] == ["failed", "sealed"]
    assert outcomes[0].error.startswith("NonFiniteError")


def test_one_decode_serves_all_backbones(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(*arguments: Any) -> Any:
        calls.append(1)
        return decoded(*arguments)

    monkeypatch.setattr("featurebank.extract.batches.decoded", counting)
    run(tmp_path, open_folder(folder), [VIT, RESNET])
    assert len(calls) == 45


def test_out_of_memory_halves_the_batch_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = FeatureSet(run(tmp_path / "plain", open_folder(folder), [VIT])[0].path)
    real = PixelsToFeatures.forward

    def forward(self: PixelsToFeatures, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, pixels)

    monkeypatch.setattr(PixelsToFeatures, "forward", forward)
    log = logging.getLogger("featurebank")
    monkeypatch.setattr(log, "propagate", True)
    outcome = run(tmp_path / "small", open_folder(folder), [VIT])[0]
    assert outcome.state == "sealed"
    assert "the batch is 2 from here on" in caplog.text
    made = FeatureSet(outcome.path)
    np.testing.assert_allclose(made["pooled"], expected["pooled"], rtol=2e-3, atol=2e-4)


def test_out_of_memory_with_one_image_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = backbones.resolve(VIT)
    module = PixelsToFeatures(backbones.build(spec), spec, "float32", "float16")

    def forward(*_: Any) -> dict[str, torch.Tensor]:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(PixelsToFeatures, "forward", forward)
    runner = Runner(module, device="cpu", batch_size=4, compiled=False)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        runner(torch.zeros((4, 160, 160, 3), dtype=torch.uint8))
    assert runner.batch_size == 1


def test_a_run_that_was_stopped_goes_on_and_gives_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_folder(folder)
    monkeypatch.setattr(engine, "FeatureSetWriter", _SmallChunks)
    whole = FeatureSet(run(tmp_path / "whole", split, [VIT], outputs=["pooled", "tokens"])[0].path)
    written: list[tuple[str, int]] = []
    real = FeatureSetWriter.write_chunk

    def stop_after_three(self: FeatureSetWriter, name: str, index: int, values: Any) -> None:
        if len(written) == 3:
            self.commit()
            raise KeyboardInterrupt
        written.append((name, index))
        real(self, name, index, values)

    monkeypatch.setattr(FeatureSetWriter, "write_chunk", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", split, [VIT], outputs=["pooled", "tokens"])
    first = list(written)

    def count(self: FeatureSetWriter, name: str, index: int, values: Any) -> None:
        written.append((name, index))
        real(self, name, index, values)

    monkeypatch.setattr(FeatureSetWriter, "write_chunk", count)
    outcome = run(tmp_path / "broken", split, [VIT], outputs=["pooled", "tokens"])[0]
    assert outcome.state == "sealed"
    assert len(first) == 3
    assert len(written) == len(set(written)), "a chunk with a valid checksum was computed twice"
    resumed = FeatureSet(outcome.path)
    for output in whole.outputs:
        assert resumed[output].tobytes() == whole[output].tobytes()


class _SmallChunks(FeatureSetWriter):
    """Chunks of a few rows, so that a small test has many."""

    @classmethod
    def create(cls, path: Any, **keywords: Any) -> Any:
        return super().create(path, **{**keywords, "chunk_bytes": 1024})


def test_a_full_disk_is_one_clear_error_and_loses_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_folder(folder)
    real = FeatureSetWriter.commit
    calls = []

    def full(self: FeatureSetWriter) -> int:
        calls.append(1)
        raise OSError(28, "No space left on device", str(self.path))

    monkeypatch.setattr(FeatureSetWriter, "commit", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, split, [VIT])
    assert calls
    monkeypatch.setattr(FeatureSetWriter, "commit", real)
    assert run(tmp_path, split, [VIT])[0].state == "sealed"


def test_stage_shares_are_reported_live_and_kept_in_the_manifest(folder: Path, tmp_path: Path) -> None:
    split = open_folder(folder)
    seen: list[Snapshot] = []
    sets = wanted_sets(tmp_path, split, [VIT])
    outcome = extract(sets, [split], execution=Execution(device="cpu", compile="never"), observer=seen.append)[0]
    assert seen[-1].jobs[0].done == seen[-1].jobs[0].total == 45
    assert sum(seen[-1].shares.values()) == pytest.approx(1)
    assert set(seen[-1].shares) == set(STAGES)
    provenance = FeatureSet(outcome.path).provenance
    assert set(provenance["seconds"]) == set(STAGES)
    assert provenance["seconds"]["forward"] > 0
    assert provenance["execution"] == {"compiled": False, "batch_size": 16}
    assert provenance["images_per_second"] > 0
    assert str(folder) not in str(FeatureSet(outcome.path).manifest)


def test_an_error_of_the_store_is_not_taken_for_a_backbones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RefusedError(StorageError):
        """A store that cannot be written."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise RefusedError(30, "read-only")

    monkeypatch.setattr(FeatureSetWriter, "create", refuse)
    with pytest.raises(RefusedError):
        run(tmp_path, open_folder(folder), [VIT])


def test_compiled_features_are_the_eager_ones(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    split = open_folder(folder)
    assert len(split) % 8, "the last batch must be a short one"
    made = []
    graphs: dict[str, int] = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    modes: tuple[CompileMode, ...] = ("never", "always")
    for mode in modes:
        execution = Execution(device="cpu", compile=mode, batch_size=8)
        outcomes = run(tmp_path / mode, split, [RESNET, VIT], execution=execution)
        assert all(o.execution.startswith("eager" if mode == "never" else "compiled") for o in outcomes)
        made.append([FeatureSet(o.path)["pooled"].astype(np.float64) for o in outcomes])
    for a, b in zip(*made, strict=True):
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.99999
    assert graphs["unique_graphs"] - before == 2, "short batches or threads had it compiled again"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache_dir() / "compiled"), "kept for the next process"


def test_images_of_every_kind_go_through(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", 3)
    target = folder / "class0"
    Image.new("CMYK", (40, 30), (10, 20, 30, 40)).save(target / "cmyk.jpg")
    Image.new("RGBA", (40, 30), (10, 20, 30, 40)).save(target / "alpha.png")
    Image.new("P", (40, 30), 3).save(target / "palette.gif")
    Image.fromarray(np.full((30, 40), 40000, np.uint16)).save(target / "sixteen.png")
    Image.new("RGB", (1, 1), (1, 2, 3)).save(target / "one.png")
    outcome = run(tmp_path / "store", open_folder(folder), [VIT])[0]
    assert outcome.state == "sealed"
    assert not outcome.failed


def test_d17_building_is_said_once_for_all_splits_of_a_backbone(folder: Path, tmp_path: Path) -> None:
    splits = [open_folder(folder), open_folder(folder, label="others")]
    requests = [Request(backbone=backbones.resolve(VIT), split=index) for index in (0, 1)]
    sets = want(requests, splits, FeatureStore(tmp_path), precision="float32")
    notes: list[str] = []
    extract(
        sets,
        splits,
        execution=Execution(device="cpu", compile="never", batch_size=8),
        observer=lambda snapshot: notes.append(snapshot.note),
    )
    begun = [
        note for last, note in zip(["", *notes], notes, strict=False) if note.startswith("building") and note != last
    ]
    assert len(begun) == 1
