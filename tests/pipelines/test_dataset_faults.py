"""Datasets with faults, seen by the commands: one is no other's affair, and nothing is lost or rounded in silence."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
from command_line import featurebank_, words
from probe_sets import clusters, write_set
from runs import VIT, make_images

from featurebank.extract.datasets._columns import column
from featurebank.store import FeatureStore

CONFIG = """
store: features
backbones: ["{backbone}"]
datasets:
  - {{name: "wds:{folder}/cut.tar", splits: [all]}}
  - {{name: "manifest:{folder}/labels.csv", splits: [all]}}
  - {{name: "hf:{folder}/deep", splits: [all]}}
  - {{name: "folder:{folder}/pictures", splits: [all]}}
extraction: {{device: cpu, compile: never, precision: float32, batch_size: 8}}
"""


def test_c9_a17_the_fault_of_one_dataset_is_one_line_and_notes_reach_the_user(tmp_path: Path) -> None:
    make_images(tmp_path / "pictures", 3)
    (tmp_path / "pictures/class0/a.heic").touch()
    info = tarfile.TarInfo("0.png")
    info.size = 1 << 60
    (tmp_path / "cut.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    (tmp_path / "labels.csv").write_text(f"path,label\npictures/class0/00000.png,{'9' * 30}\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/state.json").write_text("[" * 100_000)
    (tmp_path / "run.yaml").write_text(CONFIG.format(backbone=VIT, folder=tmp_path))
    done = featurebank_("features", tmp_path / "run.yaml", "--store", tmp_path / "features")
    assert done.code != 0
    said = words(done.err)
    for name in ("cut.tar", "labels.csv", "state.json"):
        assert name in said + words(done.out)
    assert "1 file passed over: .heic 1" in said
    with FeatureStore(tmp_path / "features").open("pictures/all", VIT) as found:
        assert found.provenance["dataset_notes"] == ["1 file passed over: .heic 1"]


def test_a12_retrieve_by_identifiers_with_a_gap(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    values, _ = clusters(40, noise=3.0)
    numbers = [2**60 + k // 2 for k in range(40)]
    for place, cells in (("pets/gaps", [*numbers[:39], None]), ("pets/whole", numbers)):
        write_set(store, place, "net", values, np.zeros(40), columns={"uid": column(cells, typed=True)})
    queries = ("--by", "uid", "--store", store.root, "--json")

    def found(*sets: str) -> float:
        done = featurebank_("retrieve", *sets, *queries)
        assert done.code == 0, done.err
        (value,) = [row["value"] for row in done.json["answers"][0]["rows"] if row["metric"] == "map"]
        return float(value)

    # One float for all of them would make every row relevant: 1.000.
    whole = found("pets/whole")
    assert whole < 0.5
    assert abs(found("pets/gaps") - whole) < 0.1
    assert found("pets/gaps", "--gallery", "pets/whole") < 0.9


def test_a13_regression_over_decimals_and_classification_refuses(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    for split, n, seed in (("train", 200, 0), ("test", 100, 1)):
        values, _ = clusters(n, noise=1.0, seed=seed)
        truth = values.astype(np.float64) @ np.linspace(-1, 1, values.shape[1])
        write_set(store, f"ages/{split}", "net", values, np.full(n, -1), columns={"label": truth})
    found = featurebank_("probe", "ages", "--task", "regression", "--store", store.root, "--json")
    assert found.code == 0, found.err
    (r2,) = [row["value"] for one in found.json["answers"] for row in one["rows"] if row["metric"] == "r2"]
    assert r2 > 0.998
    done = featurebank_("probe", "ages", "--store", store.root)
    assert done.code != 0
    assert "expected classes, found labels with decimals" in words(done.out + done.err)
