"""Growth: rows whose content the store holds already are copied, and only the others go through a network."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from racing import small_chunks
from runs import VIT, make_images, open_folder, run

from featurebank.extract import backbones, engine
from featurebank.extract.device import Execution
from featurebank.extract.forward import Runner
from featurebank.extract.reuse import runs
from featurebank.extract.wanted import Outcome
from featurebank.store import FeatureSet, FeatureSetWriter, FeatureStore, Records

OLD, GROWN = 200, 220
OUTPUTS = ["pooled", "tokens"]


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each forward pass took."""
    seen: list[int] = []
    real = Runner.__call__

    def counting(self: Runner, pixels: Any) -> Any:
        seen.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(Runner, "__call__", counting)
    monkeypatch.setattr(engine, "FeatureSetWriter", small_chunks())
    return seen


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder, and the same with a tenth more images, scattered among the old ones."""
    root = tmp_path_factory.mktemp("pictures")
    grown = make_images(root / "grown", GROWN)
    shutil.copytree(grown, root / "old")
    chance = random.Random(0)  # noqa: S311 - a reproducible sequence, not a secret
    for path in chance.sample(sorted((root / "old").rglob("*.png")), GROWN - OLD):
        path.unlink()
    return root / "old", grown


def test_a_dataset_grown_by_a_tenth_costs_a_tenth_of_the_forward_passes(
    pictures: tuple[Path, Path], tmp_path: Path, forwarded: list[int]
) -> None:
    old, grown = pictures
    run(tmp_path / "store", open_folder(old), [VIT], outputs=OUTPUTS)
    assert sum(forwarded) == OLD
    forwarded.clear()
    split = open_folder(grown)
    outcome = run(tmp_path / "store", split, [VIT], outputs=OUTPUTS)[0]
    assert 0.08 * OLD <= sum(forwarded) <= 0.12 * OLD
    assert (outcome.state, outcome.copied, outcome.computed) == ("sealed", OLD, GROWN - OLD)
    whole = run(tmp_path / "whole", split, [VIT], outputs=OUTPUTS)[0]
    with FeatureSet(outcome.path) as made, FeatureSet(whole.path) as expected:
        made.verify()
        assert made.ok.all()
        assert made.ids.tolist() == expected.ids.tolist() == list(split.ids)
        for name in OUTPUTS:
            np.testing.assert_allclose(made[name], expected[name], rtol=2e-3, atol=2e-3)


def test_a_set_of_known_images_builds_no_network(
    pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, grown = pictures
    large = run(tmp_path, open_folder(grown), [VIT])[0]
    monkeypatch.setattr(backbones, "build", lambda _: pytest.fail("a network was built"))
    small = run(tmp_path, open_folder(old), [VIT])[0]
    assert (small.state, small.copied, small.computed) == ("sealed", OLD, 0)
    with FeatureSet(small.path) as made, FeatureSet(large.path) as donor:
        rows = [donor.ids.tolist().index(name) for name in made.ids]
        assert made["pooled"].tobytes() == donor.load("pooled", rows).tobytes()
        assert made.head is not None
        assert donor.head is not None
        assert made.head[0].tobytes() == donor.head[0].tobytes()


def test_failed_rows_and_damaged_sets_are_not_copied(
    pictures: tuple[Path, Path], tmp_path: Path, forwarded: list[int]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(pictures[0], folder)
    bad = sorted(folder.rglob("*.png"))[5]
    bad.write_bytes(b"no image")
    first = run(tmp_path / "store", open_folder(folder), [VIT])[0]
    make_images(folder, 1, seed=9)
    forwarded.clear()
    again = run(tmp_path / "store", open_folder(folder), [VIT])[0]
    assert len(first.failed) == len(again.failed) == 1
    assert again.copied == OLD - 2 + (1 if len(open_folder(folder)) > OLD else 0)
    content = bytearray(first.path.read_bytes())
    content[-8000] ^= 1
    first.path.write_bytes(content)
    again.path.unlink()
    assert run(tmp_path / "store", open_folder(folder), [VIT])[0].copied == 0


def test_an_interrupted_copy_goes_on_and_gives_the_same_bytes(
    pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, grown = pictures
    small = small_chunks()
    monkeypatch.setattr(engine, "FeatureSetWriter", small)
    run(tmp_path / "a", open_folder(old), [VIT], outputs=OUTPUTS)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    whole = run(tmp_path / "a", open_folder(grown), [VIT], outputs=OUTPUTS)[0]
    write = small.write_chunk
    for _ in range(3):
        chunks = iter(range(3))

        def interrupted(self: Any, *chunk: Any, chunks: Iterator[int] = chunks) -> None:
            if next(chunks, None) is None:
                self.commit()
                raise KeyboardInterrupt
            write(self, *chunk)

        with monkeypatch.context() as patch:
            patch.setattr(small, "write_chunk", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "b", open_folder(grown), [VIT], outputs=OUTPUTS)
    resumed = run(tmp_path / "b", open_folder(grown), [VIT], outputs=OUTPUTS)[0]
    with FeatureSet(resumed.path) as made, FeatureSet(whole.path) as expected:
        assert all(made[name].tobytes() == expected[name].tobytes() for name in OUTPUTS)
        assert made.ok.all()


def test_runs_of_nothing_are_none() -> None:
    assert list(runs(np.array([], np.int64))) == []


def trusting() -> Execution:
    return Execution(device="cpu", compile="never", batch_size=8, trust_merged=True)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder, and the same with six more images."""
    root = tmp_path_factory.mktemp("few")
    make_images(root / "old", 24)
    return root / "old", make_images(root / "grown", 30)


def donors(outcome: Outcome) -> list[Any]:
    with FeatureSet(outcome.path) as made:
        return list(made.provenance.get("donors", []))


def features(outcome: Outcome) -> np.ndarray:
    with FeatureSet(outcome.path) as made:
        made.verify()
        assert made.ok.all()
        return made.load("pooled")


def forged(path: Path) -> None:
    """Puts a set of the same key, records and store in the place of one, with the features of other images."""
    with FeatureSet(path) as true:
        key, records = true.key, Records(ids=list(true.ids), labels=true.labels, content_hash=true.content_hash)
        outputs, values = [true.info("pooled")], np.roll(true.load("pooled"), 1, axis=0)
        head = true.head
    path.unlink()
    with FeatureSetWriter.create(path, key=key, outputs=outputs, records=records, head=head) as writer:
        writer.write_chunk("pooled", 0, values)
        writer.mark_ok(0, len(values))
        writer.seal().close()


def test_b3_the_donors_of_copied_rows_are_named(few: tuple[Path, Path], tmp_path: Path) -> None:
    first, grown = (run(tmp_path, open_folder(folder), [VIT])[0] for folder in few)
    assert (grown.copied, grown.computed) == (24, 6)
    assert donors(first) == []
    assert donors(grown) == [{"fingerprint": first.fingerprint, "rows": 24, "own": True}]


@pytest.mark.parametrize("way", ["merge", "cp -r"])
def test_b3_rows_of_another_stores_set_are_copied_only_on_request(
    few: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    old, grown = few
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    donor = run(theirs, open_folder(old), [VIT])[0]
    if way == "merge":
        FeatureStore(ours).merge(FeatureStore(theirs))
    else:
        shutil.copytree(theirs, ours, ignore=shutil.ignore_patterns(".*"))
    made = run(ours, open_folder(grown), [VIT])[0]
    assert (made.copied, made.computed, donors(made)) == (0, 30, [])
    assert "has 24 of the images of pictures/all, but it is not of this store's own making" in caplog.text
    expected = features(made)
    made.path.unlink()
    asked = run(ours, open_folder(grown), [VIT], execution=trusting())[0]
    assert (asked.copied, asked.computed) == (24, 6)
    assert donors(asked) == [{"fingerprint": donor.fingerprint, "rows": 24, "own": False}]
    np.testing.assert_allclose(features(asked), expected, rtol=2e-3, atol=2e-3)
    # What came from elsewhere stays so, whoever sealed it last.
    make_images(tmp_path / "more", 32)
    assert run(ours, open_folder(tmp_path / "more"), [VIT])[0].copied == 0


def test_b3_a_donor_with_the_features_of_other_images_is_refused(
    few: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, grown = few
    forged(run(tmp_path / "theirs", open_folder(old), [VIT])[0].path)
    ours = FeatureStore(tmp_path / "ours")
    (merged,) = ours.merge(FeatureStore(tmp_path / "theirs"))
    made = run(ours.root, open_folder(grown), [VIT], execution=trusting())[0]
    assert (made.state, made.copied, made.computed, donors(made)) == ("sealed", 0, 30, [])
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith(f"{merged.path} has other features than are computed for the same image: 'pooled' differs")
    expected = run(tmp_path / "whole", open_folder(grown), [VIT])[0]
    assert features(made).tobytes() == features(expected).tobytes()


def test_b3_copied_rows_that_were_not_compared_are_not_gone_on_with(
    few: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, grown = few
    forged(run(tmp_path / "theirs", open_folder(old), [VIT])[0].path)
    ours = FeatureStore(tmp_path / "ours")
    ours.merge(FeatureStore(tmp_path / "theirs"))
    monkeypatch.setattr(engine, "FeatureSetWriter", small_chunks())
    with monkeypatch.context() as patch:
        patch.setattr(engine._Engine, "_walk", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(ours.root, open_folder(grown), [VIT], execution=trusting())
    (partial,) = ours.root.rglob("*.partial")
    assert b'"own":false' in partial.read_bytes()
    made = run(ours.root, open_folder(grown), [VIT])[0]
    assert (made.copied, made.computed, donors(made)) == (0, 30, [])
    expected = run(tmp_path / "whole", open_folder(grown), [VIT])[0]
    assert features(made).tobytes() == features(expected).tobytes()
