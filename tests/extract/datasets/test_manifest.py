from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurebank.extract.datasets import DatasetSpec, Split, Subset, open_split, splits
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import UnknownNameError

Draw = Callable[[Path, int], Path]
Table = dict[str, Sequence[Any]]


def write(path: Path, table: Table) -> Path:
    """The same table as CSV or as Parquet."""
    if path.suffix == ".parquet":
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        pq.write_table(pa.table(table), path)
        return path

    def cell(value: Any) -> str:
        text = "|".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
        return f'"{text}"'

    rows = [list(table), *zip(*table.values(), strict=True)]
    path.write_text("\ufeff" + "\r\n".join(",".join(map(cell, row)) for row in rows) + "\r\n\r\n", "utf-8")
    return path


@pytest.fixture(params=[".csv", ".parquet"])
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def images(tmp_path: Path, draw: Draw) -> list[str]:
    names = [f"images/{k}.png" for k in range(4)]
    for k, name in enumerate(names):
        draw(tmp_path / name, k)
    return names


def opened(path: Path, split: str = "all", **facts: Any) -> Split:
    return open_split(DatasetSpec(name=f"manifest:{path}", split=split, **facts))


def test_class_names(tmp_path: Path, images: list[str], suffix: str) -> None:
    path = write(tmp_path / f"pets{suffix}", {"path": images, "label": ["dog", "cat", "dog", ""]})
    pets = opened(path)
    assert list(pets.ids) == images
    assert list(pets.class_names) == ["cat", "dog"]
    assert pets.labels.tolist() == [1, 0, 1, -1]
    assert pets.read(2) == (tmp_path / images[2]).read_bytes()
    assert splits(f"manifest:{path}") == ["all"]


@pytest.mark.parametrize("labels", [[3, 0, -1, 1], ["3", "0", "-1", "1"]])
def test_class_indices(tmp_path: Path, images: list[str], suffix: str, labels: list[Any]) -> None:
    pets = opened(write(tmp_path / f"pets{suffix}", {"path": images, "label": labels}))
    assert pets.labels.tolist() == [3, 0, -1, 1]
    assert list(pets.class_names) == []


def test_names_made_of_digits_are_names(tmp_path: Path, images: list[str], suffix: str) -> None:
    pets = opened(write(tmp_path / f"pets{suffix}", {"path": images, "label": ["007", "1", "10", "2"]}))
    assert list(pets.class_names) == ["007", "1", "10", "2"]
    assert pets.labels.tolist() == [0, 1, 2, 3]


def test_several_labels(tmp_path: Path, images: list[str], suffix: str) -> None:
    table: Table = {"path": images, "label": [["cat", "dog"], ["dog"], [], ["eel"]]}
    pets = opened(write(tmp_path / f"pets{suffix}", table))
    assert list(pets.class_names) == ["cat", "dog", "eel"]
    assert pets.labels.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    indices = opened(write(tmp_path / f"numbers{suffix}", table | {"label": [[0, 3], [1], [], [3]]}))
    assert indices.labels.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_splits_agree_on_classes(tmp_path: Path, images: list[str], suffix: str) -> None:
    table: Table = {"path": images, "label": ["dog", "cat", "dog", "eel"], "split": ["test", "train", "train", "test"]}
    path = write(tmp_path / f"pets{suffix}", table)
    assert splits(f"manifest:{path}") == ["test", "train"]
    test = opened(path, "test")
    assert list(test.ids) == [images[0], images[3]]
    assert list(test.class_names) == ["cat", "dog", "eel"]
    assert test.labels.tolist() == [1, 2]
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        opened(path, "trian")


def test_ids_and_further_columns(tmp_path: Path, images: list[str], suffix: str) -> None:
    table: Table = {
        "path": images, "label": [0, 1, 0, 1], "id": ["a", "b", "c", "d"],
        "age": [3, 1, -4, 1], "weight": [1.5, None, 2, 3],
        "indoor": [True, False, True, True], "owner": ["Zoë", "", "Al", "x"],
        "huge": ["1" * 30, "2", "3", "4"],
    }  # fmt: skip
    if suffix == ".parquet":
        table["weight"] = [1.5, None, 2.0, 3.0]
    pets = opened(write(tmp_path / f"pets{suffix}", table), subset=Subset(size=3, stratified=False, seed=1))
    rows = ["abcd".index(name) for name in pets.ids]
    assert len(rows) == 3
    assert {name: values.dtype.kind for name, values in pets.columns.items()} == {
        "age": "i",
        "weight": "f",
        "indoor": "b",
        "owner": "U",
        "huge": "U",
    }
    assert pets.columns["age"].tolist() == [table["age"][row] for row in rows]
    assert pets.columns["indoor"].tolist() == [table["indoor"][row] for row in rows]
    assert pets.columns["owner"].tolist() == [table["owner"][row] for row in rows]
    weights = np.array([1.5, np.nan, 2, 3])[rows]
    np.testing.assert_array_equal(pets.columns["weight"].astype(np.float64), weights)


def test_root_and_absolute_paths(tmp_path: Path, images: list[str], draw: Draw, suffix: str) -> None:
    elsewhere = draw(tmp_path / "elsewhere/9.png", 9)
    lists = tmp_path / "lists"
    lists.mkdir()
    path = write(lists / f"pets{suffix}", {"path": [*images, str(elsewhere)], "label": [0] * 5})
    pets = opened(path, root=tmp_path)
    assert pets.read(0) == (tmp_path / images[0]).read_bytes()
    assert pets.read(4) == elsewhere.read_bytes()
    with pytest.raises(DatasetError, match=r"relative to .*lists, found none of the first 4"):
        opened(write(lists / f"wrong{suffix}", {"path": images, "label": [0] * 4}))


@pytest.mark.parametrize("bad", ["../secret.png", "images/../../secret.png", "", "a\0b.png"])
def test_paths_must_stay_inside(tmp_path: Path, images: list[str], bad: str, suffix: str) -> None:
    path = write(tmp_path / f"pets{suffix}", {"path": [*images, bad], "label": [0] * 5})
    with pytest.raises(DatasetError, match=r"paths must lie inside .* found|line contains NUL"):
        opened(path)


def test_missing_columns_are_named(tmp_path: Path, images: list[str], suffix: str) -> None:
    with pytest.raises(DatasetError, match="expected the columns path and label, found path, class; add label"):
        opened(write(tmp_path / f"pets{suffix}", {"path": images, "class": [0] * 4}))
    with pytest.raises(DatasetError, match="found file; add path and label"):
        opened(write(tmp_path / f"pets{suffix}", {"file": images}))


def test_duplicate_ids_are_named(tmp_path: Path, images: list[str], suffix: str) -> None:
    with pytest.raises(DatasetError, match=r"ids must be distinct, found 1 more than once: 'images/0\.png'"):
        opened(write(tmp_path / f"pets{suffix}", {"path": [*images, images[0]], "label": [0] * 5}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the columns path and label, found none"),
        ("path,label\n", "expected at least one record, found none"),
        ("path,label\na.png,0\nb.png,1,2\n", "line 3: expected 2 fields as in the header, found 3"),
        ("path,label,path\na,0,b\n", "column names must be distinct"),
        ('path,label\n"a.png,0\n', "expected a readable UTF-8 table, found: unexpected end of data"),
        ("path,label\n\udcff,0\n", "expected a readable UTF-8 table"),
        ("path,label\na.png,-1|2\n", "each must be 0 or more, found -1"),
    ],
)
def test_damaged_csv(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "pets.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=message):
        opened(path)


def test_damaged_parquet_and_other_files(tmp_path: Path) -> None:
    path = tmp_path / "pets.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DatasetError, match=r"pets\.parquet: expected a Parquet file"):
        opened(path)
    with pytest.raises(DatasetError, match="No such file"):
        opened(tmp_path / "missing.csv")
    with pytest.raises(DatasetError, match=r"ending in \.csv or \.parquet, found '\.txt'"):
        opened(tmp_path / "pets.txt")
