"""``featurebank duplicates``: pairs by features, and whether their bytes are the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Done, featurebank_, words
from numpy.typing import NDArray
from retrieval_sets import make_pictures, write_split

from featurebank.extract.datasets import open_split
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.store import FeatureStore


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Nine train and nine test images: two test images are copies, one of them under another class."""
    train, test = (
        make_pictures(tmp_path / "pets" / split, 9, seed=seed) for seed, split in enumerate(("train", "test"))
    )
    shutil.copy(train / "class0" / "000.png", test / "class0" / "000.png")
    shutil.copy(train / "class1" / "001.png", test / "class2" / "002.png")
    made = FeatureStore(tmp_path / "store")
    generator = np.random.default_rng(0)
    values: dict[str, NDArray[np.float64]] = {split: generator.standard_normal((9, 64)) for split in ("train", "test")}
    opened = {
        split: open_split(DatasetSpec(name=f"folder:{tmp_path / 'pets'}", split=split)) for split in ("train", "test")
    }
    rows = {split: {Path(name).name: row for row, name in enumerate(opened[split].ids)} for split in opened}
    values["test"][rows["test"]["000.png"]] = values["train"][rows["train"]["000.png"]]
    values["test"][rows["test"]["002.png"]] = 2 * values["train"][rows["train"]["001.png"]]
    values["test"][rows["test"]["005.png"]] = values["test"][rows["test"]["004.png"]] + 0.01  # alike, not copied
    for split, array in values.items():
        write_split(made, opened[split], "net", array.astype(np.float16))
    return made


def counted(done: Done) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The numbers of the only backbone, and the pairs that are shown of it."""
    rows = done.json["answers"][0]["rows"]
    return {row["metric"]: row["value"] for row in rows}, rows[0]["details"]["pairs"]


def test_test_images_that_stand_in_train(store: FeatureStore) -> None:
    done = featurebank_("duplicates", "pets/train:test", "--store", store.root, "--json")
    assert done.code == 0, done.err
    counts, alike = counted(done)
    assert counts == {"images": 2, "pairs": 2, "same_bytes": 2}
    pairs = {(Path(row["first"]).name, Path(row["second"]).name): row for row in alike}
    assert set(pairs) == {("000.png", "000.png"), ("001.png", "002.png")}
    assert [pairs["001.png", "002.png"][side] for side in ("first_class", "second_class")] == ["class1", "class2"]
    assert all(row["cosine"] > 0.999 and row["same_bytes"] for row in pairs.values())


def test_the_table_says_what_stands_where(store: FeatureStore) -> None:
    done = featurebank_("duplicates", "pets/train:test", "--store", store.root)
    text = words(done.out)
    assert "near duplicates, cosine 0.98 or more: pets/train in pets/test" in text
    assert "net 2 2 2" in text
    assert "1.0000 = class1/001.png class1 class2/002.png class2" in text


def test_within_a_set_each_pair_once(store: FeatureStore) -> None:
    done = featurebank_("duplicates", "pets/test", "--store", store.root)
    assert done.code == 0, done.err
    text = words(done.out)
    assert "near duplicates, cosine 0.98 or more: pets/test" in text
    assert "same backbone images pairs bytes" in text  # a heading of two lines
    assert "net 2 1 0" in text
    assert all(f"{name}.png" in done.out for name in ("004", "005"))


def test_the_threshold_decides(store: FeatureStore) -> None:
    done = featurebank_("duplicates", "pets/train", "--store", store.root, "--threshold", "0.9999", "--json")
    counts, alike = counted(done)
    assert (counts["pairs"], counts["images"], alike) == (0, 0, [])


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["dogs/train"], "dogs", 2),
        (["pets/train", "--threshold", "1.5"], "--threshold must be above 0 and at most 1; found 1.5", 2),
        (["pets/train", "--output", "tokens"], "tokens", 2),
    ],
)
def test_bad_input_is_one_clear_error(store: FeatureStore, arguments: list[str], message: str, code: int) -> None:
    done = featurebank_("duplicates", *arguments, "--store", store.root)
    assert done.code == code, (done.code, done.err)
    assert message in words(done.err)


def test_no_store(tmp_path: Path) -> None:
    done = featurebank_("duplicates", "pets/train", "--store", tmp_path / "none")
    assert done.code == 2
    assert "expected a store's folder, found nothing" in words(done.err)
