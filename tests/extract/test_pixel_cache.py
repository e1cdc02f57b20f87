"""The pixel cache: the same bytes with and without it, whatever happens to its files, and no original read twice."""

from __future__ import annotations

import errno
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from runs import RESNET, VIT, make_images, open_folder, run
from sealed_arrays import sealed_arrays

from featurebank.extract import backbones, pixel_cache
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.batches import Part
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.pixel_cache import PixelCache, expected_bytes
from featurebank.extract.preprocessing import Decode, Preprocessing
from featurebank.extract.wanted import Request, want
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.run import run_features
from featurebank.store import FeatureStore
from featurebank.store.fingerprint import content_hash

IMAGES = 20
BAD = 7
RECORD = Preprocessing(
    height=3, width=5, resize_height=8, resize_width=8, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)


def execution(cache: Path | None, **changes: Any) -> Execution:
    return Execution(device="cpu", compile="never", batch_size=8, pixel_cache=cache, **changes)


def content(number: int) -> bytes:
    """Every second hash ends in zeros."""
    digest = content_hash(str(number).encode())
    return digest[:14] + b"\0\0" if number % 2 else digest


def pixels(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (3, 5, 3), dtype=np.uint8)


def found(cache: PixelCache, numbers: range) -> list[int]:
    """Which of the numbers are in the cache; what is found must be right."""
    shelf = cache.shelf(RECORD)
    there = []
    for number in numbers:
        got = shelf.get(content(number))
        if got is not None:
            np.testing.assert_array_equal(got, pixels(number))
            there.append(number)
    return there


def filled(folder: Path, numbers: range) -> PixelCache:
    cache = PixelCache(folder)
    for number in numbers:
        cache.shelf(RECORD).put(content(number), pixels(number))
    return cache


def files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"*/*.{kind}"))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = make_images(tmp_path_factory.mktemp("images"), IMAGES)
    sorted(folder.rglob("*.png"))[BAD].write_bytes(b"no image")
    return open_folder(folder)


@pytest.fixture(scope="module")
def expected(split: Split, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What runs without a cache make."""
    store = tmp_path_factory.mktemp("plain")
    assert [o.state for o in run(store, split, [VIT, RESNET], execution=execution(None))] == ["sealed", "sealed"]
    return sealed_arrays(store)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions whose originals are read."""
    real, positions = Part.read, []

    def read(self: Part, position: int) -> Any:
        positions.append(position)
        return real(self, position)

    monkeypatch.setattr(Part, "read", read)
    return positions


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("featurebank"), "propagate", True)
    return caplog


# Through the engine.


def test_a_repeated_run_reads_no_original_and_gives_the_same_bytes(
    split: Split, expected: dict[str, bytes], tmp_path: Path, reads: list[int]
) -> None:
    for store in ("first", "second"):
        outcomes = run(tmp_path / store, split, [VIT, RESNET], execution=execution(tmp_path / "cache"))
        assert [(o.state, set(o.failed)) for o in outcomes] == [("sealed", {BAD})] * 2
        assert sealed_arrays(tmp_path / store) == expected
    assert sorted(reads[:IMAGES]) == list(range(IMAGES))
    assert reads[IMAGES:] == [BAD], "a failed image is tried again, no other one"


def test_an_original_is_read_where_one_geometry_is_missing(split: Split, tmp_path: Path, reads: list[int]) -> None:
    spec = backbones.resolve(VIT)
    other = replace(spec, preprocessing=replace(spec.preprocessing, interpolation="bilinear"))

    def runs(store: str, specs: Sequence[BackboneSpec], cache: Path | None = tmp_path / "cache") -> dict[str, bytes]:
        requests = [Request(backbone=spec, split=0) for spec in specs]
        sets = want(requests, [split], FeatureStore(tmp_path / store), precision="float32")
        reads.clear()
        extract(sets, [split], execution=execution(cache))
        return sealed_arrays(tmp_path / store)

    runs("a", [spec])
    both = runs("b", [spec, other])
    assert sorted(reads) == list(range(IMAGES))
    assert runs("c", [other, spec]) == both
    assert reads == [BAD]
    assert runs("plain", [spec, other], None) == both


@pytest.mark.parametrize("damage", ["a flipped bit", "a torn record", "a torn index", "no pixels", "zeros"])
def test_damage_is_noticed_and_made_again(
    split: Split, expected: dict[str, bytes], tmp_path: Path, reads: list[int], damage: str
) -> None:
    cache = tmp_path / "cache"
    run(tmp_path / "first", split, [VIT], execution=execution(cache))
    (data,), (index,) = files(cache, "pixels"), files(cache, "index")
    size = data.stat().st_size
    with data.open("r+b") as file:
        if damage == "a flipped bit":
            file.seek(size // 2)
            byte = file.read(1)[0]
            file.seek(size // 2)
            file.write(bytes([byte ^ 4]))
        elif damage == "a torn record":
            file.truncate(size - 1000)
        elif damage == "no pixels":
            file.truncate(0)
        elif damage == "zeros":
            file.seek(size // 3)
            file.write(bytes(size // 3))
    if damage == "a torn index":
        with index.open("r+b") as file:
            file.truncate(index.stat().st_size - 7)
    reads.clear()
    for store in ("second", "third"):
        again = len(reads)
        assert run(tmp_path / store, split, [VIT, RESNET], execution=execution(cache))[0].state == "sealed"
        assert sealed_arrays(tmp_path / store) == expected
    assert 2 <= again <= IMAGES
    assert reads[again:] == [BAD]


def test_what_cannot_be_written_is_told_once_and_the_run_goes_on(
    split: Split,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pixel_cache, "_write", full)
        run(tmp_path / "full", split, [VIT, RESNET], execution=execution(tmp_path / "cache"))
    assert sealed_arrays(tmp_path / "full") == expected
    (tmp_path / "file").write_bytes(b"")
    run(tmp_path / "nowhere", split, [VIT, RESNET], execution=execution(tmp_path / "file" / "cache"))
    assert sealed_arrays(tmp_path / "nowhere") == expected
    warnings = [r.getMessage() for r in told.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "No space left on device; the run goes on without adding to it" in warnings[0]
    assert "Not a directory" in warnings[1]


# Which pixels are the same.


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"mean": (0.5, 0.5, 0.5), "std": (2, 2, 2)}, True),
        ({"channels": "BGR"}, True),
        ({"interpolation": "bilinear"}, False),
        ({"width": 4}, False),
        ({"resize_height": 9}, False),
        ({"resize": "exact"}, False),
        ({"margins": "floor"}, False),
        ({"fill": (1, 2, 3)}, False),
        ({"decode": Decode(exif=False)}, False),
        ({"decode": Decode(background=None)}, False),
    ],
)
def test_a_shelf_is_of_one_decoder_and_geometry(changes: dict[str, Any], same: bool, tmp_path: Path) -> None:
    cache = filled(tmp_path, range(1))
    other = PixelCache(tmp_path).shelf(replace(RECORD, **changes))
    assert (other.get(content(0)) is not None) == same
    assert cache.shelf(RECORD).get(content(0)) is not None


def test_another_version_of_the_decoder_has_a_shelf_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, range(1))
    monkeypatch.setattr(PIL, "__version__", "0.1")
    assert found(PixelCache(tmp_path), range(1)) == []


def test_records_without_a_content_hash_are_passed_over(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path)
    cache.shelf(RECORD).put(bytes(16), pixels(0))
    assert cache.shelf(RECORD).get(bytes(16)) is None
    assert not files(tmp_path, "pixels")


def test_pixels_in_another_shelf_s_file_are_not_taken(tmp_path: Path) -> None:
    filled(tmp_path, range(4))
    other = replace(RECORD, fill=(9, 9, 9))
    shelf = PixelCache(tmp_path).shelf(other)
    shelf.put(content(9), pixels(9))
    for kind in ("pixels", "index"):
        target, source = sorted(files(tmp_path, kind), key=lambda path: path.stat().st_size)
        target.write_bytes(source.read_bytes())
    assert PixelCache(tmp_path).shelf(other).get(content(0)) is None


# Files.


def test_a_long_history_is_that_of_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_cache, "FOLD_FROM", 5)
    generator = random.Random(0)  # noqa: S311 - a reproducible sequence, not a secret
    known: set[int] = set()
    cache = PixelCache(tmp_path)
    for turn in range(400):
        number = generator.randrange(120)
        cache.shelf(RECORD).put(content(number), pixels(number))
        known.add(number)
        if turn % 37 == 0:
            victim = generator.choice(sorted(known))
            place = cache.shelf(RECORD)._place(content(victim))
            (data,) = files(tmp_path, "pixels")
            with data.open("r+b") as file:
                file.seek(place * (16 + 45) + 20)
                file.write(bytes(20))
            assert cache.shelf(RECORD).get(content(victim)) is None
            known.remove(victim)
        if turn % 100 == 99:
            assert found(cache, range(120)) == sorted(known)
            cache = PixelCache(tmp_path)
    assert found(cache, range(120)) == sorted(known)
    assert len(files(tmp_path, "pixels")) == 1, "a pair of files that nobody writes is gone on with"


def test_the_limit_holds_over_runs_and_is_told(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    told.set_level(logging.INFO, logger="featurebank")
    for _ in range(2):
        cache = PixelCache(tmp_path, limit_bytes=10 * (16 + 45))
        for number in range(30):
            cache.shelf(RECORD).put(content(number), pixels(number))
        assert found(PixelCache(tmp_path), range(30)) == list(range(10))
    messages = [record.getMessage() for record in told.records]
    assert messages == [f"pixel cache {tmp_path}: full at its limit of 6.1e-07 GB"] * 2


def test_the_expected_size_is_the_size(tmp_path: Path) -> None:
    filled(tmp_path, range(30))
    size = sum(path.stat().st_size for kind in ("pixels", "index") for path in files(tmp_path, kind))
    same = replace(RECORD, mean=(1, 1, 1))
    assert expected_bytes([(RECORD, 0, 30), (same, 0, 30)]) == size
    assert expected_bytes([(RECORD, 0, 30), (same, 1, 30), (replace(RECORD, width=7), 0, 30)]) > 3 * size


def writer(folder: Path, first: int, last: int) -> subprocess.Popen[str]:
    """A process that puts numbers [first, last), and says so when it begins and ends."""
    code = (  # The cache is kept, and so are its files, until the end.
        f"import sys; sys.path[:0] = {sys.path!r}; from test_pixel_cache import *; print('begun', flush=True); "
        f"kept = filled(Path({str(folder)!r}), range({first}, {last})); print('done', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def test_processes_that_write_at_once_have_files_of_their_own(tmp_path: Path) -> None:
    with writer(tmp_path, 0, 40) as one, writer(tmp_path, 20, 60) as other:
        for process in (one, other):
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["begun\n", "done\n"]
        assert len(files(tmp_path, "pixels")) == 2
        assert found(filled(tmp_path, range(60, 70)), range(80)) == list(range(70))
        assert len(files(tmp_path, "pixels")) == 3
        for process in (one, other):
            process.communicate()
    filled(tmp_path, range(70, 80))
    assert len(files(tmp_path, "pixels")) == 3
    assert found(PixelCache(tmp_path), range(80)) == list(range(80))


def test_a_killed_process_leaves_nothing_wrong(tmp_path: Path) -> None:
    moments = random.Random(0)  # noqa: S311 - a reproducible sequence, not a secret
    there: list[int] = []
    for _ in range(3):
        with writer(tmp_path, 0, 1_000_000) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0.05, 0.3))
            process.kill()
        before, there = there, found(PixelCache(tmp_path), range(3000))
        assert set(before) <= set(there)
    assert len(there) > 100
    assert len(files(tmp_path, "pixels")) == 1


# Asked for in a configuration.


def test_a_batch_run_says_how_large_it_gets_and_how_many_came_from_it(split: Split, tmp_path: Path) -> None:
    root = split.spec.name.removeprefix("folder:")
    (tmp_path / "run.yaml").write_text(
        f"store: out\nbackbones: ['{VIT}']\ndatasets: [{{name: 'folder:{root}', splits: [all]}}]\n"
        "extraction: {device: cpu, compile: never, precision: float32, pixel_cache: cache, pixel_cache_gb: 1}\n"
    )
    config = RunConfig.read(tmp_path / "run.yaml")
    assert config.extraction.pixel_cache == tmp_path / "cache"
    lines: list[str] = []
    run_features(config, say=lines.append)
    again = config.model_copy(update={"store": tmp_path / "again"})
    run_features(again, say=lines.append)
    sizes = [line for line in lines if line.startswith(f"pixel cache {tmp_path / 'cache'}: at most 0.00154 GB")]
    assert len(sizes) == 2
    assert all("limit 1 GB" in line and "GB free" in line for line in sizes)
    assert [line for line in lines if "images taken" in line] == [
        f"{IMAGES - 1} images taken from the pixel cache, their files not read"
    ]
    assert sealed_arrays(tmp_path / "out") == sealed_arrays(tmp_path / "again")


def test_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pixel_cache_gb must be positive and limits the folder named by pixel_cache"):
        Execution(pixel_cache_gb=1.0)
    with pytest.raises(ValueError, match="pixel_cache_gb must be positive"):
        Execution(pixel_cache=tmp_path, pixel_cache_gb=0.0)
    config = RunConfig.model_validate(
        {
            "backbones": [VIT],
            "datasets": [{"name": "fashion_mnist", "splits": ["train"]}],
            "extraction": {"pixel_cache_gb": 1},
        }
    )
    with pytest.raises(ConfigError, match="extraction: pixel_cache_gb must be positive"):
        run_features(config)
