from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurebank.extract.datasets import DatasetSpec, Subset, open_split, splits
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import UnknownNameError

Draw = Callable[[Path, int], Path]


def spec(folder: Path, split: str = "all") -> DatasetSpec:
    return DatasetSpec(name=f"folder:{folder}", split=split)


def test_classes_ids_and_bytes(tmp_path: Path, draw: Draw) -> None:
    names = ["dog/10.png", "dog/2.JPG", "cat/a.webp", "cat/deep/er.png", "Ant/z.bmp"]
    for k, name in enumerate(names):
        draw(tmp_path / name, k)
    (tmp_path / "empty").mkdir()
    for hidden in (".git/x.png", "cat/.b.png"):
        draw(tmp_path / hidden, 9)
    (tmp_path / "cat/notes.txt").write_text("no image")
    opened = open_split(spec(tmp_path))
    assert list(opened.ids) == ["Ant/z.bmp", "cat/a.webp", "cat/deep/er.png", "dog/10.png", "dog/2.JPG"]
    assert list(opened.class_names) == ["Ant", "cat", "dog", "empty"]
    assert opened.labels.tolist() == [0, 1, 1, 2, 2]
    assert [opened.read(k) for k in range(5)] == [(tmp_path / name).read_bytes() for name in opened.ids]
    assert splits(f"folder:{tmp_path}") == ["all"]


def test_a_flat_folder_has_no_labels(tmp_path: Path, draw: Draw) -> None:
    for k in range(3):
        draw(tmp_path / f"{k}.png", k)
    opened = open_split(spec(tmp_path))
    assert opened.labels.tolist() == [-1, -1, -1]
    assert list(opened.class_names) == []


def test_splits_are_sub_folders_and_agree_on_classes(tmp_path: Path, draw: Draw) -> None:
    for k, name in enumerate(["train/cat/1.png", "train/dog/1.png", "val/dog/2.png", "odd/cat/1.png"]):
        draw(tmp_path / name, k)
    (tmp_path / "val/cat").mkdir()
    assert splits(f"folder:{tmp_path}") == ["train", "val"]
    val = open_split(spec(tmp_path, "val"))
    assert list(val.ids) == ["dog/2.png"]
    assert val.labels.tolist() == [1]
    assert open_split(spec(tmp_path, "odd")).labels.tolist() == [0]
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        open_split(spec(tmp_path, "trian"))
    with pytest.raises(UnknownNameError, match="did you mean 'val'"):
        open_split(spec(tmp_path, "all"))


@pytest.mark.parametrize("split", ["..", ".", "", "cat/..", "/"])
def test_a_split_cannot_leave_the_folder(split: str, tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "pets/cat/1.png", 0)
    with pytest.raises(UnknownNameError):
        open_split(spec(tmp_path / "pets", split))


def test_links_are_followed_but_not_in_circles(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "elsewhere/1.png", 0)
    pets = tmp_path / "pets"
    pets.mkdir()
    (pets / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(pets)
    assert list(open_split(spec(pets)).ids) == ["cat/1.png"]


def test_order_does_not_depend_on_the_locale_or_the_disk(tmp_path: Path, draw: Draw) -> None:
    names = ["é.png", "z.png", "Z.png", "a b.png", "a-b.png", "10.png", "9.png"]
    for k, name in enumerate(names):
        draw(tmp_path / name, k)
    assert list(open_split(spec(tmp_path)).ids) == sorted(names, key=os.fsencode)


def test_root_is_where_a_relative_path_begins(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "pets/cat/1.png", 0)
    opened = open_split(DatasetSpec(name="folder:pets", split="all", root=tmp_path))
    assert list(opened.ids) == ["cat/1.png"]


def test_what_is_refused(tmp_path: Path, draw: Draw) -> None:
    with pytest.raises(DatasetError, match="expected a folder of images, found nothing"):
        open_split(spec(tmp_path / "missing"))
    with pytest.raises(DatasetError, match="expected a folder of images, found a file"):
        open_split(spec(draw(tmp_path / "a.png", 0)))
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match=r"expected images .*found none"):
        open_split(spec(tmp_path / "none"))
    with pytest.raises(DatasetError, match="expected folder:PATH"):
        open_split(DatasetSpec(name="folder:", split="all"))
    with pytest.raises(DatasetError, match="1 to 1 records"):
        open_split(DatasetSpec(name=f"folder:{tmp_path}", split="all", subset=Subset(size=2)))


def test_a_folder_without_permission_is_refused(tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "cat/1.png", 0)
    scandir = os.scandir

    def forbidden(folder: str) -> object:  # root may read every folder, so permissions alone would not do
        if folder.endswith("cat"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(DatasetError, match="cat: expected a readable folder, found: Permission denied"):
        open_split(spec(tmp_path))


def test_names_that_are_not_utf8_are_refused(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "a.png", 0).rename(tmp_path / os.fsdecode(b"\xff.png"))
    with pytest.raises(DatasetError, match=r"UTF-8.*udcff"):
        open_split(spec(tmp_path))


def test_a_file_that_vanishes_has_a_zero_hash_and_cannot_be_read(tmp_path: Path, draw: Draw) -> None:
    for k in range(2):
        draw(tmp_path / f"{k}.png", k)
    opened = open_split(spec(tmp_path))
    (tmp_path / "0.png").unlink()
    assert opened.content_hashes().any(axis=1).tolist() == [False, True]
    with pytest.raises(OSError, match="No such file"):
        opened.read(0)
    assert np.asarray(opened.labels).tolist() == [-1, -1]
