"""What probes say whatever the scale of their features, and of what they chose on the edge of what they tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import by_score, probes
from command_line import featurebank_, words
from probe_sets import clusters, write_set

from featurebank.store import FeatureStore

SCALES = {"as-is": 1.0, "small": 2.0**-5, "large": 2.0**5}
COLUMNS = 2.0 ** np.arange(-4, 4)
SEARCHED = ("knn", "nnguide", "react", "relation", "cop")
BEYOND = "on the edge of what was tried, so that the best may lie beyond: "


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The same features at several scales; of each column at one of its own too."""
    made = FeatureStore(tmp_path_factory.mktemp("scales") / "features")
    for split, n_rows in (("train", 100), ("test", 60)):
        values, labels = clusters(n_rows, noise=0.6, seed=split == "test")
        clean = clusters(n_rows, noise=0.3, seed=split == "test")[0].astype(np.float32)
        lengths = 2.0 ** np.random.default_rng(0).integers(-3, 4, (n_rows, 1))
        for backbone, scale in (*SCALES.items(), ("columns", COLUMNS), ("lengths", lengths)):
            rows = (values.astype(np.float32) * np.asarray(scale)).astype(np.float32)
            columns = {"size": clean[:, 0] + 10}
            write_set(made, f"pets/{split}", backbone, rows, labels, columns=columns)
            write_set(made, f"tags/{split}", backbone, rows, (clean[:, :3] > 0.4).astype(np.int64))
    return made


def asked(store: FeatureStore, *arguments: Any) -> Any:
    done = featurebank_("probe", *arguments, "--store", store.root, "--json")
    assert done.code == 0, done.err
    return probes(done.json)


@pytest.mark.parametrize("task", ["linear", "knn", "fewshot", "multilabel", "regression"])
def test_a7_the_scale_of_features_changes_no_number(store: FeatureStore, task: str) -> None:
    more: dict[str, tuple[Any, ...]] = {
        "fewshot": ("--shots", 4, "--draws", 2),
        "regression": ("--target", "size"),
    }
    key = "tags" if task == "multilabel" else "pets"
    alone = ("as-is", "small", "large", "lengths" if task == "knn" else "columns")  # a cosine knows no lengths
    found = {
        one["backbone"]: {row["metric"]: row["value"] for row in one["rows"]}
        for one in asked(store, key, "--task", task, *more.get(task, ()))
        if one["backbone"] in alone
    }
    reference = found.pop("as-is")
    assert len(found) == len(alone) - 1
    for values in found.values():
        assert values == pytest.approx(reference, abs=1e-5)


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("linear", ("--c", 1e-3, "--c", 1e-2), r"C = 0.0*1 \((lowest|highest) of 2\)"),
        ("knn", ("--k", 60, "--k", 75, "--temperature", 5.0), r"k = 60 \(lowest of 2\)"),
        (
            "fewshot",
            ("--shots", 4, "--draws", 3, "--c", 1e-9, "--c", 1e-2),
            r"C \((lowest|highest) of 2 in \d of 3 fits\)",
        ),
        ("multilabel", ("--c", 1e-6, "--c", 1e-3), r"C = 0.001 \(highest of 2\)"),
        ("linear", ("--c", 1e-2), ""),
    ],
)
def test_a7_a_choice_on_the_edge_is_told(store: FeatureStore, task: str, more: tuple[Any, ...], said: str) -> None:
    key = "tags@as-is" if task == "multilabel" else "pets@as-is"
    (one,) = asked(store, key, "--task", task, *more)
    notes = [note for note in one["notes"] if note.startswith(BEYOND)]
    assert bool(notes) == bool(said)
    assert all(re.match(said, note.removeprefix(BEYOND)) for note in notes)
    done = featurebank_("probe", key, "--task", task, *map(str, more), "--store", store.root)
    assert (BEYOND in words(done.out)) == bool(said)


def test_a7_parameters_of_scores_on_an_edge_are_told(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for place, seed, shift in (("pets/train", 0, 0.0), ("pets/val", 1, 0.0), ("pets/test", 2, 0.0)):
        values, labels = clusters(90, noise=0.4, seed=seed)
        write_set(store, place, "net", values + np.float16(shift), labels)
    for place, seed in (("far/test", 5), ("tune/test", 6)):
        write_set(store, place, "net", clusters(60, noise=1.5, seed=seed)[0], np.full(60, -1))
    some: tuple[Any, ...] = ("pets", "--ood", "far", "--validation", "tune", "--resamples", 0)
    some += tuple(word for name in SEARCHED for word in ("--score", name))
    done = featurebank_("ood", *map(str, some), "--store", store.root, "--json")
    assert done.code == 0, done.err
    (one,) = by_score(done.json)
    notes = {note.partition(": ")[0]: note for note in one["notes"] if BEYOND in note}
    told = 0
    for score in one["scores"]:
        (name,) = score["selected"]["tried"][0]["parameters"]
        areas = {tried["parameters"][name]: tried["auroc"] for tried in score["selected"]["tried"]}
        best = score["parameters"][name]
        ends = (min(areas), max(areas))
        inside = any(area == areas[best] for value, area in areas.items() if value not in ends)
        edge = best in ends and not inside
        said = f"{score['score']}: {BEYOND}{score['score']} {name} = {best:g} ("
        assert notes.get(score["score"], "").startswith(said) == edge
        assert (score["score"] in notes) == edge
        told += edge
    assert told


def test_a18_top_5_of_three_classes_is_no_number(store: FeatureStore, tmp_path: Path) -> None:
    (one,) = asked(store, "pets@as-is", "--task", "knn")
    assert [row["metric"] for row in one["rows"]] == ["accuracy", "balanced_accuracy"]
    many = FeatureStore(tmp_path)
    for split, seed in (("train", 0), ("test", 1)):
        write_set(many, f"birds/{split}", "net", *clusters(120, classes=6, noise=0.5, seed=seed))
    (one,) = asked(many, "birds", "--task", "knn")
    row = next(row for row in one["rows"] if row["metric"] == "top5_accuracy")
    assert row["interval"][0] < row["value"] <= row["interval"][1]
    assert row["interval_kind"] == "test rows, Wilson"
