from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import featurebank_, words
from official_layouts import LAYOUTS

from featurebank.extract.datasets._named import manifest
from featurebank.pipelines.keeping.datasets import markdown

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEATUREBANK_DATA", str(tmp_path / "data"))


def test_the_page_is_made_from_the_manifest() -> None:
    found = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert found == markdown(), "run: python -m featurebank.pipelines.keeping.datasets > docs/datasets.md"


def test_the_table_names_every_dataset_with_its_official_numbers() -> None:
    done = featurebank_("datasets")
    assert done.code == 0
    assert all(f"\n{name} " in done.out for name in manifest())
    assert "train 1,020, val 1,020, test 6,149" in words(done.out)
    rows = {row["name"]: row for row in featurebank_("datasets", "--json").json["datasets"]}
    assert rows.keys() == manifest().keys()
    assert rows["cub200"]["splits"]["test"] == 5794


def test_one_dataset_says_what_must_lie_where() -> None:
    done = featurebank_("datasets", "flowers102")
    assert done.code == 0
    for text in ("setid.mat, imagelabels.mat", "jpg/image_<number>.jpg", "data/flowers102", "nothing is there yet"):
        assert text in done.out


def test_it_looks_where_the_data_folder_is(tmp_path: Path) -> None:
    LAYOUTS["eurosat"](tmp_path / "data" / "eurosat")
    done = featurebank_("datasets", "eurosat")
    assert done.code == 0  # Nobody asked about a folder.
    assert "all: 3 records, officially 27,000" in done.out


def test_missing_files_are_named_one_by_one(tmp_path: Path) -> None:
    LAYOUTS["flowers102"](tmp_path)
    (tmp_path / "jpg" / "image_00004.jpg").unlink()
    done = featurebank_("datasets", "flowers102", "--root", tmp_path)
    assert done.code == 1
    assert "test: 1 of 5 files missing\n    jpg/image_00004.jpg\n" in done.out
    (tmp_path / "setid.mat").unlink()
    done = featurebank_("datasets", "flowers102", "--root", tmp_path, "--split", "val", "--json")
    assert done.code == 1
    (state,) = done.json["state"]
    assert state == {
        "split": "val",
        "official": 1020,
        "found": None,
        "missing": ["setid.mat"],
        "error": "",
        "ok": False,
    }


def test_many_missing_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "images_largescale" / "openimage_o" / "images").mkdir(parents=True)
    done = featurebank_("datasets", "openimage_o", "--root", tmp_path, "--split", "val")
    assert "val: 1,763 of 1,763 files missing" in done.out
    assert "… and 1,743 more; --json names them all" in done.out
    full = featurebank_("datasets", "openimage_o", "--root", tmp_path, "--split", "val", "--json")
    assert len(full.json["state"][0]["missing"]) == 1763


def test_files_that_are_wrong_are_told(tmp_path: Path) -> None:
    LAYOUTS["coco"](tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{")
    done = featurebank_("datasets", "coco", "--root", tmp_path, "--split", "val")
    assert done.code == 1
    assert "val: coco: expected JSON at" in words(done.out)


def test_a_packaged_dataset_needs_nothing() -> None:
    done = featurebank_("datasets", "digits")
    assert done.code == 0
    assert "part of scikit-learn" in done.out
    assert "nothing is there yet" not in done.out


def test_the_ground_truth_of_a_revisited_set(tmp_path: Path) -> None:
    LAYOUTS["roxford5k"](tmp_path)
    done = featurebank_("datasets", "roxford5k", "--root", tmp_path, "--truth", tmp_path / "truth.json")
    assert done.code == 0
    assert "the ground truth of 2 queries" in words(done.err)
    assert json.loads((tmp_path / "truth.json").read_text()).keys() == {"jpg/all_souls_13.jpg", "jpg/ashmolean_0.jpg"}
    again = featurebank_("datasets", "roxford5k", "--root", tmp_path, "--truth", tmp_path / "truth.json", "--json")
    assert again.json == {"path": str(tmp_path / "truth.json"), "queries": 2}
    done = featurebank_("datasets", "cub200", "--root", tmp_path, "--truth", tmp_path / "truth.json")
    assert done.code == 2
    assert "expected roxford5k or rparis6k" in words(done.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flower102",), "unknown dataset 'flower102'; did you mean 'flowers102'"),
        (("flowers102", "--split", "tset"), "unknown split of flowers102 'tset'"),
        (("chexpert@views=side", "--root", "."), "unknown value of chexpert@views 'side'"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str) -> None:
    done = featurebank_("datasets", *arguments)
    assert done.code == 2
    assert message in words(done.err)
