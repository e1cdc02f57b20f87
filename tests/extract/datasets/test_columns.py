"""Cells become numbers only where none of them loses anything by it; what no store holds is renamed or left out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from featurebank.extract.datasets import DatasetSpec, Split, _columns, open_split
from featurebank.extract.datasets._columns import column, storable
from featurebank.extract.errors import DatasetError
from featurebank.store import FeatureSetWriter, Output, Records, limits


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2", "-3"], "i"),
        (["1", "", "3"], "U"),
        (["007", "7"], "U"),
        (["1_1", "11"], "U"),
        (["1.10", "1.1"], "U"),
        (["12e4", "120000"], "U"),
        (["1e999", "1e99"], "U"),
        (["+1", "1"], "U"),
        (["-0", "0"], "U"),
        (["1.0", "1"], "U"),
        (["12345678901234567890", "12345678901234567891"], "U"),
        (["9223372036854775807", "-9223372036854775808"], "i"),
        (["9007199254740993", "1.5"], "U"),
        (["1" * 5000, "2"], "O"),
        (["1.5", "2.25", ""], "f"),
        (["1.5", "2"], "f"),
        (["1.5", "nan"], "f"),
        (["1.5", "nan", ""], "U"),
        (["1e-05", "0.5"], "f"),
        (["True", "False"], "b"),
        (["true", "True"], "U"),
        (["", ""], "U"),
        (["\u0661", "2"], "U"),
    ],
)
def test_a12_text_becomes_numbers_only_where_it_comes_back(cells: list[str], kind: str) -> None:
    found = column(cells)
    assert found.dtype.kind == kind
    assert len(set(found.tolist())) == len(set(cells)) or found.dtype.kind == "f"
    if kind in "UO":
        assert found.tolist() == cells


def test_a12_no_two_cells_ever_merge() -> None:
    """Over columns of all that numbers look like: equal values come from equal texts, and every text comes back."""
    parts = [
        "1",
        "0",
        "007",
        "1.0",
        "1.10",
        "1.1",
        "1e5",
        "1e+05",
        "-1",
        "-0.0",
        "0.0",
        "nan",
        "inf",
        "1_0",
        "10",
        " 1",
    ]
    draw = random.Random(0)  # noqa: S311
    for _ in range(3000):
        texts = draw.sample(parts, draw.randint(1, 4)) + draw.sample(["", "9" * 20, "1e400"], draw.randint(0, 1))
        found = column(texts)
        keys = [str(value) for value in found.tolist()]
        assert len(set(keys)) == len(set(texts)), texts
        if found.dtype.kind == "i":
            assert keys == [text.strip() for text in texts]
        if found.dtype.kind == "f":
            for value, text in zip(found.tolist(), texts, strict=True):
                assert text.strip() in {repr(value), str(int(value)) if np.isfinite(value) else "nan"} | {""} & {text}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([1, None, 3], ["1", "", "3"]),
        ([2**60 + 1, None, 2**60], [str(2**60 + 1), "", str(2**60)]),
        ([1, 2**63], ["1", str(2**63)]),
        ([True, None], ["True", ""]),
        (["1", "2"], ["1", "2"]),
        ([1.5, None], [1.5, np.nan]),
        ([1, 2], [1, 2]),
    ],
)
def test_a12_cells_with_a_type_keep_it(cells: list[Any], expected: list[Any]) -> None:
    np.testing.assert_array_equal(column(cells, typed=True), np.array(expected))


def manifest(folder: Path, table: dict[str, Sequence[Any]], suffix: str) -> Split:
    n = len(next(iter(table.values())))
    table = {"path": [f"{k}.png" for k in range(n)], "label": [0] * n, **table}
    (folder / "0.png").touch()
    path = folder / f"pets{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table(table), path)
    else:
        rows = [
            ",".join("" if cell is None else str(cell) for cell in row) for row in zip(*table.values(), strict=True)
        ]
        path.write_text("\n".join([",".join(table), *rows]))
    return open_split(DatasetSpec(name=f"manifest:{path}", split="all"))


def hugging_face(folder: Path, table: dict[str, Sequence[Any]]) -> Split:
    n = len(next(iter(table.values())))
    images = pa.array([{"bytes": bytes([k]), "path": None} for k in range(n)])
    pq.write_table(pa.table({"image": images, "label": [0] * n, **table}), folder / "all-00000-of-00001.parquet")
    return open_split(DatasetSpec(name=f"hf:{folder}", split="all"))


def test_a12_identifiers_stay_apart_in_every_source(tmp_path: Path) -> None:
    numbers = [2**60 + k for k in range(4)]
    gaps = [*numbers[:3], None]
    for name, split in (
        ("csv", manifest(tmp_path, {"uid": numbers, "gap": gaps}, ".csv")),
        ("parquet", manifest(tmp_path, {"uid": numbers, "gap": gaps}, ".parquet")),
        ("hf", hugging_face(tmp_path, {"uid": numbers, "gap": gaps})),
    ):
        assert split.columns["uid"].tolist() == numbers, name
        assert split.columns["gap"].tolist() == [*map(str, numbers[:3]), ""], name


ODD: dict[str, Sequence[Any]] = {
    "__index_level_0__": [0, 1],
    "Patient ID": ["a", "b"],
    "Patient_ID": ["c", "d"],
    "a/b": [1, 2],
    "größe": [1.5, 2.5],
    "x" * 200: [1, 2],
    "caption": ["short", "x" * 5000],
    "nul": ["a\0", "a"],
}


def test_c9_odd_columns_are_renamed_or_left_out_with_a_note(tmp_path: Path) -> None:
    for split in (manifest(tmp_path, ODD, ".csv"), hugging_face(tmp_path, ODD)):
        assert set(split.columns) == {
            "index_level_0__", "Patient_ID_2", "Patient_ID", "a_b", "gr__e", "x" * 100,
        }  # fmt: skip
        assert split.columns["Patient_ID"].tolist() == ["c", "d"]
        assert split.columns["Patient_ID_2"].tolist() == ["a", "b"]
        notes = "\n".join(split.notes)
        assert "column 'Patient ID' is called 'Patient_ID_2' in the store" in notes
        assert "column 'caption' is left out: a text in it has 5,000 bytes, a store holds 4,096" in notes
        assert "column 'nul' is left out: a text in it has a NUL" in notes
        records = Records(
            ids=split.ids, labels=split.labels, content_hash=np.ones((2, 16), np.uint8), columns=split.columns
        )
        outputs = [Output(name="pooled", shape=(1,))]
        path = tmp_path / f"{len(split.notes)}{type(split).__name__}.h5"
        FeatureSetWriter.create(path, key={"a": 1}, outputs=outputs, records=records).close()


def test_c9_columns_that_are_lists_are_left_out_with_a_note(tmp_path: Path) -> None:
    split = hugging_face(tmp_path, {"boxes": [[1, 2], [3]], "raw": [b"a", b"b"], "n": [1, 2]})
    assert list(split.columns) == ["n"]
    assert [note.split(":")[0] for note in split.notes] == ["column 'boxes' is left out", "column 'raw' is left out"]


def test_c9_one_long_text_does_not_make_a_large_array_of_all() -> None:
    kept, notes = storable({"text": column(["x" * 4000, *["y"] * 300_000])})
    assert not kept
    assert "300,001 texts, each as long as the longest, are 1,200,004,000 bytes" in notes[0]


def test_c9_ids_and_class_names_that_no_store_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"ids must have at most 1,024 bytes.*found one of 2,000 bytes among 2"):
        manifest(tmp_path, {"id": ["a", "b" * 2000]}, ".csv")
    with pytest.raises(DatasetError, match="class names must be UTF-8 without NUL"):
        manifest(tmp_path, {"label": ["a\0", "b"]}, ".csv")


def test_c9_what_is_left_out_is_what_a_store_refuses() -> None:
    for name in ("COLUMNS", "NAME_BYTES", "TEXT_BYTES", "ALL_TEXT_BYTES"):
        assert getattr(_columns, name) == getattr(limits, name)


def test_c9_a_text_too_long_takes_its_column_from_its_own_split_alone(tmp_path: Path) -> None:
    path = tmp_path / "pets.csv"
    path.write_text(f"path,label,split,note\na.png,0,train,{'x' * 5000}\na.png,0,test,short\n")
    (tmp_path / "a.png").touch()
    train, test = (open_split(DatasetSpec(name=f"manifest:{path}", split=split)) for split in ("train", "test"))
    assert not train.columns
    assert test.columns["note"].dtype == np.dtype("<U5")


def test_c9_a_thousand_odd_columns_are_a_few_notes() -> None:
    kept, notes = storable({f"a {k}": np.arange(2) for k in range(1100)})
    assert len(kept) == limits.COLUMNS
    assert notes[-1] == "1,084 more columns are renamed or left out"
    assert len(notes) == 17
