from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from featurebank.extract.datasets import DatasetSpec, Split, Subset, label_of, open_split, splits
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import UnknownNameError

Draw = Callable[[Path, int], Path]

FILES = ["ninco/a hen/0.png", "ninco/a hen/1.png", "ninco/b.png", "imagenet_1k/val/2.png"]


@pytest.fixture
def data(tmp_path: Path, draw: Draw) -> Path:
    """OpenOOD's layout: images below one folder, lists below another."""
    for number, name in enumerate(FILES):
        draw(tmp_path / "images_largescale" / name, number)
    return tmp_path


def listed(data: Path, *lines: str, root: str | None = "images_largescale") -> Split:
    path = data / "benchmark_imglist" / "imagenet" / "test_ninco.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return open_split(DatasetSpec(name=f"list:{path}", split="all", root=root and data / root))  # type: ignore[arg-type]


def test_paths_and_labels_in_the_order_of_the_list(data: Path) -> None:
    split = listed(data, "# comment", "ninco/b.png -1", "", "ninco/a hen/1.png 7", "ninco/a hen/0.png\t0")
    assert list(split.ids) == ["ninco/b.png", "ninco/a hen/1.png", "ninco/a hen/0.png"]
    assert split.labels.tolist() == [-1, 7, 0]
    assert split.read(1) == (data / "images_largescale" / "ninco/a hen/1.png").read_bytes()
    assert len(split.class_names) == 0


def test_without_a_root_the_paths_begin_at_the_list(data: Path) -> None:
    path = data / "images_largescale" / "all.txt"
    path.write_text("\ufeffninco/b.png 3\r\n", encoding="utf-8")
    split = open_split(DatasetSpec(name=f"list:{path}", split="all", subset=Subset(size=1)))
    assert (list(split.ids), split.labels.tolist()) == (["ninco/b.png"], [3])


def test_the_store_folder_is_named_after_the_list() -> None:
    spec = DatasetSpec(name="list:lists/imagenet/test_ninco.txt", split="all")
    assert label_of(spec) == "test_ninco"
    assert splits(spec.name) == ["all"]


def test_each_missing_image_is_named(data: Path) -> None:
    with pytest.raises(DatasetError, match=r"2 of them missing: ninco/c\.png, other/d\.png; give the root"):
        listed(data, "ninco/c.png 1", "ninco/b.png 2", "other/d.png 3")
    with pytest.raises(DatasetError, match=r"12 of them missing: 0\.png, .*9\.png, …;"):
        listed(data, *(f"{k}.png -1" for k in range(12)))


@pytest.mark.parametrize("line", ["ninco/b.png", "ninco/b.png one", "ninco/b.png -2", "../b.png 1", "/b.png 1", "b ²"])
def test_lines_that_do_not_fit(data: Path, line: str) -> None:
    with pytest.raises(DatasetError, match=r"test_ninco\.txt, line 2: expected a path below the root and a class"):
        listed(data, "ninco/b.png 0", line)


def test_lists_that_cannot_be_used(data: Path) -> None:
    with pytest.raises(DatasetError, match="expected a readable UTF-8 image list"):
        open_split(DatasetSpec(name=f"list:{data / 'none.txt'}", split="all"))
    with pytest.raises(DatasetError, match="expected at least one record"):
        listed(data, "# nothing")
    with pytest.raises(DatasetError, match="ids must be distinct"):
        listed(data, "ninco/b.png 0", "ninco/b.png 0")
    with pytest.raises(UnknownNameError, match="unknown split"):
        open_split(DatasetSpec(name="list:lists/test.txt", split="test"))
