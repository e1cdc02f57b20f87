from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurebank.extract.datasets import DatasetSpec
from featurebank.extract.datasets._crop import CropSplit
from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.errors import DatasetError
from featurebank.store.fingerprint import content_hash

Draw = Callable[[Path, int], Path]
FILES = ["a.png", "b.png", "a.png"]


def boxed(folder: Path, boxes: Sequence[Sequence[int]], files: Sequence[str] = FILES) -> CropSplit:
    spec = DatasetSpec(name="boxes", split="all")
    labels = np.zeros(len(files), np.int64)
    ids = [f"{k}" for k in range(len(files))]
    return CropSplit(spec, ids, labels, folder=folder, files=files, boxes=np.array(boxes))


@pytest.fixture
def folder(tmp_path: Path, draw: Draw) -> Path:
    for number, name in enumerate(FILES[:2]):
        draw(tmp_path / name, number)
    return tmp_path


def test_boxes_are_what_pillow_crops(folder: Path) -> None:
    found = boxed(folder, [[1, 2, 7, 5], [0, 0, 0, 0], [2, 2, -2, -2]])
    a, b = (Image.open(folder / name) for name in FILES[:2])
    for row, expected in enumerate((a.crop((1, 2, 7, 5)), b, a.crop((2, 2, 6, 6)))):
        assert np.array_equal(found.read(row), np.asarray(expected))


def test_the_hash_is_that_of_the_pixels_and_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.iterdir():
        os.utime(path, (1, 1))  # What changed just now is not remembered.
    found = boxed(folder, [[1, 2, 7, 5], [1, 2, 7, 5], [1, 2, 7, 6]])
    assert [digest.tobytes() for digest in found.content_hashes()] == [content_hash(found.read(k)) for k in range(3)]
    whole = FileSplit(found.spec, found.ids, found.labels, folder=folder, files=FILES).content_hashes()
    assert not (whole == found.content_hashes()).all(axis=1).any()
    monkeypatch.setattr(CropSplit, "_cut", None)
    again = boxed(folder, [[1, 2, 7, 6], [1, 2, 7, 5], [1, 2, 7, 5]])
    assert np.array_equal(again.content_hashes(), found.content_hashes()[[2, 1, 0]])
    monkeypatch.undo()
    part = found.take(np.array([2, 0]))
    assert np.array_equal(part.content_hashes(), found.content_hashes()[[2, 0]])
    assert np.array_equal(pickle.loads(pickle.dumps(part)).read(0), found.read(2))  # noqa: S301


def test_orientation_is_not_applied_to_boxes(tmp_path: Path) -> None:
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(boxed(tmp_path, [[1, 0, 4, 2]], ["turned.png"]).read(0), pixels[:2, 1:4])


def test_what_cannot_be_cut(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    found = boxed(folder, [[8, 0, 9, 4], [0, 0, 4, 4], [0, 0, 4, 4]], ["a.png", "broken.png", "none.png"])
    for row, message in ((0, "holds no pixel of 8 x 8"), (1, "not a readable image"), (2, "No such file")):
        with pytest.raises(OSError, match=message):
            found.read(row)
    assert found.content_hashes().any(axis=1).tolist() == [False, False, False]
    with pytest.raises(DatasetError, match=r"expected boxes of shape \(3, 4\) from 0"):
        boxed(folder, [[-1, 0, 4, 4]] * 3)
