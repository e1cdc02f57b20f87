"""``featurebank probe --compare`` tests the numbers that the table shows, each metric and setting alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import analyses, named
from command_line import featurebank_, words
from probe_sets import clusters, write_set

from featurebank.pipelines.asking.results import Results
from featurebank.probes.comparison import paired_bootstrap, paired_statistics
from featurebank.probes.weighted import regression
from featurebank.store import FeatureStore

SPLITS = {"train": 90, "test": 75}
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Two backbones, the second noisier: classes, numbers, several labels, tokens, another set, prompts."""
    made = FeatureStore(tmp_path_factory.mktemp("compare") / "features")
    for backbone, noise in (("good", 0.5), ("poor", 0.9)):
        for split, n_rows in SPLITS.items():
            seed = split == "test"
            values, labels = clusters(n_rows, noise=noise, seed=seed)
            clean = clusters(n_rows, noise=0.3, seed=seed)[0].astype(np.float32)
            columns = {"size": clean[:, 0], "weight": clean[:, 1] - clean[:, 2]}
            write_set(made, f"pets/{split}", backbone, values, labels, columns=columns, class_names=NAMES)
            several = (clean[:, :3] > 0.4).astype(np.int64)
            several[::7, 1] = -1
            write_set(made, f"tags/{split}", backbone, values, several)
            generator = np.random.default_rng(n_rows)
            truth = generator.integers(0, 3, (n_rows // 3, 4))
            tokens = np.eye(3, 6)[truth] + noise * generator.standard_normal((n_rows // 3, 4, 6))
            outputs = {"tokens": tokens.astype(np.float16)}
            write_set(made, f"city/{split}", backbone, outputs, np.full(n_rows // 3, -1))
            np.save(made.root / f"{split}.npy", truth.reshape(-1, 2, 2).repeat(2, 1).repeat(2, 2).astype(np.uint8))
        write_set(made, "sketches/test", backbone, *clusters(60, noise=1.2 * noise, seed=3), class_names=NAMES)
        write_set(made, "prompts/text", backbone, np.eye(3, 8, dtype=np.float16), np.arange(3))
    return made


def compared(store: FeatureStore, *arguments: Any) -> Any:
    done = featurebank_("probe", *arguments, "--compare", "--store", store.root, "--json")
    assert done.code == 0, done.err
    return done.json


def tasks(root: Path) -> dict[str, tuple[list[Any], set[str]]]:
    """The arguments of each task, and the numbers that its table shows first."""
    masks = ("--train-masks", root / "train.npy", "--test-masks", root / "test.npy", "--epochs", 2)
    few = ("--shots", 3, "--shots", 5, "--fraction", 0.2, "--draws", 3, "--protocol", "ncm")
    return {
        "linear": (["pets"], {"accuracy pets/test"}),
        "knn": (["pets", "--k", 5], {"accuracy pets/test"}),
        "zeroshot": (["pets", "--text", "prompts/text"], {"accuracy pets/test"}),
        "fewshot": (["pets", *few], {f"accuracy {name} pets/test" for name in ("3-shot", "5-shot", "20%")}),
        "shift": (["pets", "--on", "sketches"], {"accuracy pets/test", "accuracy sketches/test"}),
        "multilabel": (["tags"], {"auroc tags/test"}),
        "regression": (["pets", "--target", "size", "--target", "weight"], {"r2 pets/test"}),
        "dense": (["city", *masks], {"miou city/test"}),
    }


@pytest.mark.parametrize("task", ["linear", "knn", "zeroshot", "fewshot", "shift", "multilabel", "regression", "dense"])
def test_a5_a_difference_is_that_of_the_two_cells(store: FeatureStore, task: str) -> None:
    arguments, expected = tasks(store.root)[task]
    found = compared(store, *arguments, "--task", task)
    cells = {(one["backbone"], named(row)): row["value"] for one in found["answers"] for row in one["rows"]}
    tables = analyses(found, "compare")
    assert {named(row) for (row,) in tables} == expected
    for (row,) in tables:
        difference = cells["good", named(row)] - cells["poor", named(row)]
        assert row["value"] == pytest.approx(difference, abs=1e-12)
        assert row["interval"][0] <= row["value"] <= row["interval"][1]
        exact = row["metric"] == "accuracy" and not row["shots"]
        assert row["details"]["test"] == ("mcnemar" if exact else "paired bootstrap")
        assert row["interval_kind"] == f"test rows, {'Bonett-Price' if exact else 'paired bootstrap'}"
    assert any(row["value"] > 0 for (row,) in tables)


def test_a5_numbers_of_labels_are_never_pooled(store: FeatureStore) -> None:
    arguments, _ = tasks(store.root)["fewshot"]
    found = compared(store, *arguments, "--task", "fewshot")
    results = Results(store.root)
    kept = {
        row.backbone: results.arrays(row) for row in results.rows() if row.question == "fewshot" and row.shots == "3"
    }
    for (row,) in analyses(found, "compare"):
        name = row["shots"]
        right = [(own[f"predictions {name}"] == own["labels"]).mean(0) for own in (kept["good"], kept["poor"])]
        expected = paired_bootstrap(*right, draws=2000)
        np.testing.assert_allclose(row["interval"], (expected.low, expected.high), atol=0.02)
        assert row["details"]["p"] == row["details"]["p_holm"]


def test_a5_r2_is_tested_not_the_absolute_error(store: FeatureStore) -> None:
    arguments, _ = tasks(store.root)["regression"]
    ((row,),) = analyses(compared(store, *arguments, "--task", "regression"), "compare")
    results = Results(store.root)
    kept = {
        row.backbone: results.arrays(row)
        for row in results.rows()
        if (row.question, row.metric) == ("regression", "r2")
    }
    first, second = (regression(own["targets"], own["predictions"], "r2") for own in (kept["good"], kept["poor"]))
    expected = paired_statistics(first, second, SPLITS["test"])
    assert (row["interval"], row["details"]["p"]) == ([expected.low, expected.high], expected.p_value)


def test_a5_the_table_names_the_metric_and_the_direction(store: FeatureStore) -> None:
    arguments, _ = tasks(store.root)["multilabel"]
    done = featurebank_("probe", *arguments, "--task", "multilabel", "--compare", "--store", store.root)
    assert "tags/test, multilabel: differences in AUROC" in words(done.out)
    assert "first minus second on the same rows: above 0 the first is better; p of the paired bootstrap" in done.out
    assert "95 % intervals: test rows, paired bootstrap" in done.out
