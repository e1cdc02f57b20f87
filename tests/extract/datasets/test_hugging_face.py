"""Folders that `datasets` itself writes, against what `datasets` itself reads."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from featurebank.extract.datasets import DatasetSpec, Split, Subset, dataset_digest, label_of, open_split, splits
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import UnknownNameError

datasets = pytest.importorskip("datasets")

Draw = Callable[[Path, int], Path]
N = 23


@pytest.fixture
def table(tmp_path: Path, draw: Draw) -> Any:
    """A dataset as users make them: images, two kinds of labels, further columns."""
    features = datasets.Features(
        img=datasets.Image(),
        fine_label=datasets.ClassLabel(names=["crow", "gull", "wren"]),
        coarse_label=datasets.Value("int64"),
        weight=datasets.Value("float32"),
        ringed=datasets.Value("bool"),
        place=datasets.Value("string"),
        notes=datasets.Sequence(datasets.Value("int32")),
    )
    rows = {
        "img": [{"bytes": draw(tmp_path / f"{k}.png", k).read_bytes(), "path": f"{k}.png"} for k in range(N)],
        "fine_label": [k % 3 for k in range(N)],
        "coarse_label": [k % 2 for k in range(N)],
        "weight": [None if k == 1 else k / 4 for k in range(N)],
        "ringed": [k % 2 == 0 for k in range(N)],
        "place": [None if k == 2 else f"place {k}" for k in range(N)],
        "notes": [[k] for k in range(N)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(params=["saved", "saved in shards", "saved with splits", "Parquet"])
def folder(request: pytest.FixtureRequest, table: Any, tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "birds"
    if request.param == "saved with splits":
        datasets.DatasetDict(train=table, test=table.select(range(3))).save_to_disk(path)
        return path, "train"
    if request.param == "Parquet":
        (path / "data").mkdir(parents=True)
        for k, rows in enumerate((range(10), range(10, N))):
            table.select(rows).to_parquet(path / "data" / f"train-{k:05d}-of-00002.parquet", batch_size=4)
        table.select(range(2)).to_parquet(path / "data" / "test-00000-of-00001.parquet")
        return path, "train"
    table.save_to_disk(path, num_shards=3 if request.param == "saved in shards" else 1)
    return path, "all"


def opened(folder: tuple[Path, str], columns: str = "", subset: Subset | None = None) -> Split:
    return open_split(DatasetSpec(name=f"hf:{folder[0]}{columns}", split=folder[1], subset=subset))


def test_it_is_what_datasets_reads(folder: tuple[Path, str], table: Any) -> None:
    found = opened(folder)
    rows = table.cast_column("img", datasets.Image(decode=False))
    assert len(found) == N
    assert [found.read(k) for k in range(N)] == [row["img"]["bytes"] for row in rows]
    assert found.labels.tolist() == table["fine_label"][:]
    assert list(found.class_names) == ["crow", "gull", "wren"]
    assert found.ids[:2] == [f"{folder[1]}/00000", f"{folder[1]}/00001"]
    assert sorted(found.columns) == ["coarse_label", "place", "ringed", "weight"]
    assert found.columns["place"][:4].tolist() == ["place 0", "place 1", "", "place 3"]
    assert found.columns["ringed"].dtype == np.bool_
    assert np.isnan(found.columns["weight"][1])


def test_threads_pickles_and_subsets(folder: tuple[Path, str]) -> None:
    found = opened(folder, subset=Subset(size=11))
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(found.read, list(range(11)) * 5))
    assert contents == [found.read(k) for k in range(11)] * 5
    again = pickle.loads(pickle.dumps(found))  # noqa: S301
    assert dataset_digest(again) == dataset_digest(found)


def test_columns_by_name(folder: tuple[Path, str]) -> None:
    found = opened(folder, "@image=img,label=coarse_label")
    assert found.labels.tolist() == [k % 2 for k in range(N)]
    assert len(found.class_names) == 0
    with pytest.raises(UnknownNameError, match=r"unknown column .* 'fine_lable'; did you mean 'fine_label'"):
        opened(folder, "@label=fine_lable")
    with pytest.raises(DatasetError, match="expected whole numbers in the column 'place'"):
        opened(folder, "@label=place")


def test_splits_and_names(folder: tuple[Path, str]) -> None:
    assert folder[1] in splits(f"hf:{folder[0]}")
    assert label_of(DatasetSpec(name=f"hf:{folder[0]}", split="all")) == "birds"
    with pytest.raises(UnknownNameError, match="unknown split"):
        opened((folder[0], "tranche"))


def test_two_labels_or_two_images_must_be_named(table: Any, tmp_path: Path) -> None:
    both = table.cast_column("coarse_label", datasets.ClassLabel(names=["a", "b"]))
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(
        DatasetError, match=r"expected one label column, found fine_label, coarse_label; name it: .*@label=COLUMN"
    ):
        opened((tmp_path / "both", "all"))
    table.remove_columns("img").save_to_disk(tmp_path / "none")
    with pytest.raises(DatasetError, match="expected one image column, found none among fine_label"):
        opened((tmp_path / "none", "all"))
    table.remove_columns("fine_label").save_to_disk(tmp_path / "unlabelled")
    assert set(opened((tmp_path / "unlabelled", "all")).labels.tolist()) == {-1}


def test_images_beside_the_table(tmp_path: Path, draw: Draw) -> None:
    image = draw(tmp_path / "set" / "images" / "a.png", 1)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": None, "path": name} for name in ("images/a.png", "../b.png")], kind)
    pq.write_table(pa.table({"image": images, "label": [4, None]}), tmp_path / "set" / "test.parquet")
    found = opened((tmp_path / "set", "test"))
    assert found.read(0) == image.read_bytes()
    assert found.labels.tolist() == [4, -1]
    with pytest.raises(OSError, match="a file below"):
        found.read(1)
    assert found.content_hashes().any(axis=1).tolist() == [True, False]


def test_folders_that_are_none(table: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected a folder of Hugging Face's datasets"):
        opened((tmp_path / "none", "all"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"expected dataset_dict\.json or state\.json"):
        opened((tmp_path / "empty", "all"))
    table.save_to_disk(tmp_path / "cut")
    (arrow,) = (tmp_path / "cut").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:1000])
    with pytest.raises(DatasetError, match="expected Arrow or Parquet files of one schema"):
        opened((tmp_path / "cut", "all"))
    (tmp_path / "cut" / "state.json").write_text("{")
    with pytest.raises(DatasetError, match="expected JSON that save_to_disk writes"):
        opened((tmp_path / "cut", "all"))
    for name in ("a", "b"):
        (tmp_path / "configs" / name).mkdir(parents=True)
        table.to_parquet(tmp_path / "configs" / name / "train-00000-of-00001.parquet")
    with pytest.raises(DatasetError, match="expected one configuration, found 'train' in a, b"):
        opened((tmp_path / "configs", "train"))
    (tmp_path / "mixed").mkdir()
    table.to_parquet(tmp_path / "mixed" / "train-00000-of-00002.parquet")
    table.remove_columns("notes").to_parquet(tmp_path / "mixed" / "train-00001-of-00002.parquet")
    with pytest.raises(DatasetError, match="another schema"):
        opened((tmp_path / "mixed", "train"))
