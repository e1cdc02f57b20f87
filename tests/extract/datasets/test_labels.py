"""What labels mean: indices, names, lists, values, or nothing."""

from __future__ import annotations

import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from featurebank.extract.datasets import DatasetSpec, Listing, NamedDataset, Pixels, Split, open_split
from featurebank.extract.datasets._labels import parse_labels
from featurebank.extract.errors import DatasetError


@pytest.mark.parametrize(
    ("cells", "labels", "names"),
    [
        (["0.0", "1.0", "2.0", "10.0"], [0, 1, 2, 10], []),
        ([0.0, 10.0, float("nan"), 2.0], [0, 10, -1, 2], []),
        (["3", "nan", "NA", "", None, "<NA>", "0"], [3, -1, -1, -1, -1, -1, 0], []),
        (["cat", "NA", "nan", "ant"], [1, -1, -1, 0], ["ant", "cat"]),
        (["none", "NAN", "null"], [1, 0, 2], ["NAN", "none", "null"]),
        (["007", "1", "10"], [0, 1, 2], ["007", "1", "10"]),
        (["12e4", "1.5"], [1, 0], ["1.5", "12e4"]),
        (["[0, 2]", "[1]", "[]"], [[1, 0, 1], [0, 1, 0], [0, 0, 0]], []),
        (["['dog', 'cat']", '["cat"]'], [[1, 1], [1, 0]], ["cat", "dog"]),
        (["0|2", "1.0"], [[1, 0, 1], [0, 1, 0]], []),
        ([["a", "b"], [], None], [[1, 1], [0, 0], [-1, -1]], ["a", "b"]),
        (["a|b", "", "NA"], [[1, 1], [0, 0], [-1, -1]], ["a", "b"]),
    ],
)
def test_a13_labels(cells: list[Any], labels: list[Any], names: list[str]) -> None:
    found = parse_labels(cells, "pets.csv")
    assert found.labels.tolist() == labels
    assert list(found.class_names) == names
    assert found.values is None


@pytest.mark.parametrize("cells", [["0.5", "2", "-3.25", "NA"], [0.5, 2.0, -3.25, None]])
def test_a13_decimals_stay_values(cells: list[Any]) -> None:
    found = parse_labels(cells, "pets.csv")
    assert found.labels.tolist() == [-1] * 4
    np.testing.assert_array_equal(found.values, [0.5, 2, -3.25, np.nan])
    assert any("no classes" in note for note in found.notes)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["[0, 2", "1"], r"must be written \[0, 2\], .* found '\[0, 2'"),
        (["[[0], 2]"], "must be written"),
        (["[a, b]"], "must be written"),
        (["0.5|1.5"], "must be classes, found decimals"),
        (["0|3000000000", "1"], "each must be below 65,536, found 3000000000"),
        (["0", "9" * 30], "class indices of 64 bits, .* found '999"),
        (["0", "9" * 5000], "class indices of 64 bits"),
        (["-5", "1"], "-1 .none. or 0 upwards, found '-5'; values to regress to belong in a column of their own"),
    ],
)
def test_c9_labels_that_no_label_can_be(cells: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=f"pets.csv: .*{message}"):
        parse_labels(cells, "pets.csv")


def test_a13_what_was_taken_to_mean_none_is_said() -> None:
    assert parse_labels(["NA", "NA", "", "x"], "pets.csv").notes == ["2 labels 'NA' taken to mean none"]


def hub(folder: Path, labels: list[Any]) -> Split:
    images = pa.array([{"bytes": bytes([k]), "path": None} for k in range(len(labels))])
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "all.parquet")
    return open_split(DatasetSpec(name=f"hf:{folder}", split="all"))


def test_a13_decimals_of_every_source_become_a_column(tmp_path: Path) -> None:
    (tmp_path / "0.png").touch()
    (tmp_path / "ages.csv").write_text("path,label\n0.png,1.5\n1.png,2\n2.png,NA\n")
    for split in (
        open_split(DatasetSpec(name=f"manifest:{tmp_path / 'ages.csv'}", split="all")),
        hub(tmp_path, [1.5, 2.0, None]),
    ):
        assert split.labels.tolist() == [-1, -1, -1]
        assert [None if math.isnan(value) else value for value in split.columns["label"].tolist()] == [1.5, 2.0, None]


def test_a13_whole_floats_of_every_source_are_indices(tmp_path: Path) -> None:
    assert hub(tmp_path, [1.0, 10.0, None, 2.0]).labels.tolist() == [1, 10, -1, 2]
    for name, content in (("0.png", b"x"), ("0.json", b'{"label": 3.0}')):
        (tmp_path / name).write_bytes(content)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("0.png", "0.json"):
            tar.add(tmp_path / name, name)
    assert open_split(DatasetSpec(name=f"wds:{path}", split="all")).labels.tolist() == [3]


def test_a13_labels_of_ones_own_loader_are_never_cut_off(tmp_path: Path) -> None:
    """Lists and arrays with decimals, which NumPy makes whole numbers of in silence."""
    (tmp_path / "0.png").touch()

    def labels(values: Any, pixels: bool) -> object:
        found = Listing(files=["0.png"] * 3, ids=list("abc"), labels=values)
        array = Pixels(pixels=np.zeros((3, 4, 4), np.uint8), labels=values)
        own = NamedDataset(name="own", loader=lambda *_: array if pixels else found, splits={"all": 3})
        return own.open(DatasetSpec(name="own", split="all", root=tmp_path)).labels.tolist()

    for pixels in (False, True):
        assert labels([2.0, 0.0, float("nan")], pixels) == [2, 0, -1]
        for odd, shown in (([0.5, 1.5, 2.0], "0.5"), ([0, 1, 1e300], "1e.300"), (["0", "1", "2"], "<U1")):
            with pytest.raises(DatasetError, match=f"labels must be whole numbers, found {shown}"):
                labels(odd, pixels)
