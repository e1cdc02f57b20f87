"""``featurebank probe`` on small synthetic stores: numbers, exit codes, what is kept, what is said."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import analyses, probes, values_of
from command_line import Done, featurebank_, words
from probe_sets import clusters, write_pair, write_set

from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.inputs import Rows
from featurebank.pipelines.asking.results import Results
from featurebank.pipelines.questions.knn import KNN
from featurebank.probes.few_labels import FewLabelsProbe
from featurebank.probes.fewshot import few_shot
from featurebank.probes.linear import linear_probe
from featurebank.probes.neighbours import KNNProbe
from featurebank.probes.shift import ALEXNET_ERRORS
from featurebank.store import FeatureStore

FEW = ("--task", "fewshot", "--shots", 3, "--draws", 2)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Two backbones on one dataset, the second noisier."""
    made = FeatureStore(tmp_path / "features")
    column = {"train": 60, "test": 45}
    for backbone, noise in (("good", 0.3), ("poor", 0.9)):
        for split, n_rows in column.items():
            values, labels = clusters(n_rows, noise=noise, seed=split == "test")
            place = np.array(["north", "south"])[(np.arange(n_rows) % 5 == 0).astype(int)]
            columns = {"place": place, "size": values[:, 0].astype(np.float32) * 3, "even": labels % 2 == 0}
            write_set(made, f"pets/{split}", backbone, values, labels, columns=columns, class_names=["a", "b", "c"])
    return made


def probe(store: FeatureStore, *arguments: Any) -> Done:
    return featurebank_("probe", *arguments, "--store", store.root)


def probe_json(store: FeatureStore, *arguments: Any, code: int = 0) -> Any:
    done = probe(store, *arguments, "--json")
    assert done.code == code, done.err
    return done.json


def timeless(one: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an answer without what its computation took."""
    return [row | {"seconds": 0} for row in one["rows"]]


def arrays(store: FeatureStore, backbone: str = "good") -> tuple[Any, Any, Any, Any]:
    sets = [store.open(f"pets/{split}", backbone) for split in ("train", "test")]
    return sets[0]["pooled"], sets[0].labels, sets[1]["pooled"], sets[1].labels


# what it computes


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_d15_a_device_that_is_not_there_is_the_error_of_each_cell(store: FeatureStore, device: str) -> None:
    done = probe(store, "pets", "--task", "linear", "--task", "knn", "--backbone", "good", "--device", device)
    assert done.code == 1
    said = f"of good: device must be one that torch can use here, such as 'cpu'; found '{device}': "
    assert words(done.out).count(said) == 2
    assert "Traceback" not in done.err


def test_linear_is_the_library_s_probe_with_intervals(store: FeatureStore) -> None:
    found = probe_json(store, "pets", "--task", "linear")
    assert [(p["backbone"], p["train"], p["test"]) for p in found["answers"]] == [
        ("good", "pets/train", "pets/test"),
        ("poor", "pets/train", "pets/test"),
    ]
    expected = linear_probe(*arrays(store))
    metrics = values_of(found)
    assert metrics["accuracy"] == expected.accuracy
    assert set(metrics) == {"accuracy", "balanced_accuracy", "nll", "brier", "ece", "ece_unscaled"}
    truth = arrays(store)[3]
    assert metrics["nll"] == pytest.approx(-expected.log_probabilities[np.arange(45), truth].mean(), rel=1e-9)
    rows = probes(found)[0]["rows"]
    assert rows[0]["interval"] == [expected.low, expected.high]
    assert all(row["interval"][0] <= row["value"] <= row["interval"][1] for row in rows)
    assert probes(found)[0]["chosen"] == {"C": expected.C, "temperature": expected.temperature}
    assert values_of(found, 1)["accuracy"] < metrics["accuracy"]


def test_knn_is_the_library_s_with_k_and_temperature_from_validation(store: FeatureStore) -> None:
    found = probe_json(store, "pets@poor", "--task", "knn", "--k", 3, "--k", 9, "--k", 500, "--temperature", 0.1)
    row, k = found["answers"][0]["rows"][0], probes(found)[0]["chosen"]["k"]
    assert k in (3, 9)
    x, y, x_test, y_test = arrays(store, "poor")
    reference = KNNProbe(k, temperature=0.1).fit(x, y).score(x_test, y_test)
    assert row["value"] == reference


def test_few_shot_is_the_library_s_over_draws(store: FeatureStore) -> None:
    found = probe_json(store, "pets@poor", *FEW, "--fraction", 0.2)
    expected = few_shot(*arrays(store, "poor"), 3, draws=2, estimator_factory=FewLabelsProbe)
    metrics = values_of(found)
    assert metrics["accuracy 3-shot"] == expected.mean
    assert set(metrics) == {"accuracy 3-shot", "accuracy 20%"}
    assert found["answers"][0]["rows"][0]["details"]["accuracies"] == list(expected.accuracies)
    assert found["answers"][0]["rows"][1]["details"]["rows"] == 12


def test_few_shot_is_asked_for_by_name_or_is_10_shots_1_and_10_percent(store: FeatureStore) -> None:
    assert set(values_of(probe_json(store, "pets@good", *FEW))) == {"accuracy 3-shot"}
    found = probe_json(store, "pets@good", "--task", "fewshot", "--protocol", "ncm")
    assert list(values_of(found)) == ["accuracy 10-shot", "accuracy 1%", "accuracy 10%"]


@pytest.mark.parametrize("protocol", ["ncm", "bob", "dinov2"])
def test_few_shot_takes_other_protocols(store: FeatureStore, protocol: str) -> None:
    found = probe_json(store, "pets@good", *FEW, "--fraction", 0.5, "--protocol", protocol)
    assert values_of(found)["accuracy 50%"] > 0.6


def test_the_protocol_of_bob_is_a_sweep_of_learning_rates(store: FeatureStore) -> None:
    found = probe_json(store, "pets@good", "--task", "linear", "--protocol", "bob")
    row = found["answers"][0]["rows"][0]
    assert found["answers"][0]["options"]["protocol"] == "bob"
    assert set(probes(found)[0]["chosen"]) == {"learning_rate", "weight_decay", "temperature"}
    assert row["value"] > 0.8


def test_a_validation_split_chooses_and_the_train_rows_are_all_fitted(store: FeatureStore) -> None:
    values, labels = clusters(30, noise=0.3, seed=7)
    write_set(store, "pets/val", "good", values, labels)
    found = probe_json(store, "pets@good", "--task", "linear", "--task", "knn")
    assert found["answers"][0]["sets"]["validation"] == ["pets/val"]
    assert len(found["answers"][0]["rows"][0]["fingerprints"]) == 3
    expected = linear_probe(*arrays(store), validation=(values, labels))
    assert values_of(found)["accuracy"] == expected.accuracy
    assert probes(found)[0]["chosen"]["C"] == expected.C


def test_zero_shot_from_a_file_and_from_a_set(store: FeatureStore, tmp_path: Path) -> None:
    centres = np.eye(3, 8, dtype=np.float32)
    np.save(tmp_path / "text.npy", centres)
    write_set(store, "prompts/text", "good", np.repeat(centres, 2, 0), np.repeat(np.arange(3), 2))
    from_file = probe_json(store, "pets@good", "--task", "zeroshot", "--text", tmp_path / "text.npy")
    from_set = probe_json(store, "pets@good", "--task", "zeroshot", "--text", "prompts/text")
    assert values_of(from_file) == values_of(from_set)
    x_test, y_test = (part.astype(np.float64) for part in arrays(store)[2:])
    assert set(values_of(from_file)) == {"accuracy", "balanced_accuracy"}  # the scale is not known
    assert values_of(from_file)["accuracy"] == (x_test[:, :3].argmax(1) == y_test).mean()
    assert "train" not in from_file["answers"][0]["sets"]


def test_multi_label_sets_have_their_own_task(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for split, n_rows, seed in (("train", 200, 0), ("test", 100, 1)):
        x = np.random.default_rng(seed).standard_normal((n_rows, 8)).astype(np.float16)
        y = (x[:, :3] > 0).astype(np.int64)
        y[::9, 1] = -1
        write_set(store, f"x-rays/{split}", "net", x, y)
    found = probe_json(store, "x-rays", "--task", "multilabel", "--missing", "zero")
    metrics = values_of(found)
    assert set(metrics) == {"auroc", "map"}
    assert min(metrics.values()) > 0.95
    done = probe(store, "x-rays", "--task", "linear")
    assert done.code == 1
    assert "expected one class a row, found labels (3,) a row; ask multilabel" in words(done.out)


def test_regression_to_columns_or_labels(store: FeatureStore) -> None:
    found = probe_json(store, "pets@good", "--task", "regression", "--target", "size")
    assert values_of(found)["r2"] > 0.99
    assert values_of(probe_json(store, "pets@good", "--task", "regression"))["mae"] < 0.5
    done = probe(store, "pets@good", "--task", "regression", "--target", "sise")
    assert "unknown column of pets/train 'sise'; did you mean 'size'?" in words(done.out)
    done = probe(store, "pets@good", "--task", "regression", "--target", "place")
    assert "expected columns of numbers to regress to" in words(done.out)


def test_dense_reads_tokens_and_masks_in_files(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    for split, n_rows in (("train", 24), ("test", 12)):
        generator = np.random.default_rng(n_rows)
        classes = generator.integers(0, 2, (n_rows, 2, 2))
        tokens = np.eye(2, 4)[classes.reshape(n_rows, 4)] + 0.05 * generator.standard_normal((n_rows, 4, 4))
        masks = classes.repeat(4, 1).repeat(4, 2).astype(np.uint8)
        masks[:, 0] = 255
        np.save(tmp_path / f"{split}.npy", masks)
        outputs = {"pooled": tokens.mean(1).astype(np.float16), "tokens": tokens.astype(np.float16)}
        write_set(store, f"city/{split}", "net", outputs, np.full(n_rows, -1), failed=[2])
    files = ("--train-masks", tmp_path / "train.npy", "--test-masks", tmp_path / "test.npy")
    found = probe_json(store, "city", "--task", "dense", *files, "--epochs", 40)
    metrics = values_of(found)
    assert set(metrics) == {"miou", "dice", "pixel_accuracy"}
    assert metrics["miou"] > 0.6
    assert found["answers"][0]["options"]["train_masks"].startswith("sha256:")
    assert "city/test: 1 of 12 rows left out: 1 failed" in found["answers"][0]["notes"]
    kept = Results(store.root).arrays(next(r for r in Results(store.root).rows() if r.metric == "miou"))
    assert kept["predictions"].shape == (11, 8, 8)
    assert kept["confusion"].sum() == 11 * 7 * 8
    wrong = probe(store, "city", "--task", "dense", *files[:3], tmp_path / "train.npy")
    assert "expected integers (12, H, W), a mask for each row of city/test" in words(wrong.out)
    assert probe(store, "city", "--task", "dense", *files, "--grid", 3, 2).code == 1


def test_dense_trains_on_rows_of_the_file_and_copies_no_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featurebank.probes.dense import DenseLinearProbe

    store, seen = FeatureStore(tmp_path / "features"), list[Any]()
    tokens = np.random.default_rng(0).standard_normal((10, 4, 4)).astype(np.float16)
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}.npy", (tokens[..., 0] > 0).reshape(10, 2, 2).astype(np.uint8))
        outputs = {"pooled": tokens.mean(1), "tokens": tokens}
        write_set(store, f"city/{split}", "net", outputs, np.full(10, -1))
    fit = DenseLinearProbe.fit

    def noting(probe: Any, given: Any, *arguments: Any, **settings: Any) -> Any:
        seen.append((given.shape, given.__array_interface__["data"][0]))
        return fit(probe, given, *arguments, **settings)

    monkeypatch.setattr(DenseLinearProbe, "fit", noting)
    files = ("--train-masks", tmp_path / "train.npy", "--test-masks", tmp_path / "test.npy")
    assert probe(store, "city", "--task", "dense", *files, "--epochs", 1).code == 0
    assert len(seen) == 4  # three rates, then the best on all rows
    assert set(seen) == {(tokens.shape, seen[0][1])}


# shift


@pytest.fixture
def shifted(store: FeatureStore) -> FeatureStore:
    for index, backbone in enumerate(("good", "poor", "third")):
        if backbone == "third":
            write_pair(store, "pets", backbone, noise=0.5, class_names=["a", "b", "c"])
        values, labels = clusters(90, noise=0.9 + 0.1 * index, seed=3)
        write_set(store, "sketches/test", backbone, values, labels, class_names=["a", "b", "c"])
        some = labels > 0
        write_set(store, "rare/test", backbone, values[some], 2 - labels[some], class_names=["c", "b"])
    return store


def test_shift_scores_other_sets_under_their_classes(shifted: FeatureStore) -> None:
    found = probe_json(shifted, "pets", "--task", "shift", "--on", "sketches", "--on", "rare/test")
    metrics = values_of(found)
    assert metrics["accuracy"] == linear_probe(*arrays(shifted)).accuracy
    sketches = shifted.open("sketches/test", "good")
    expected = linear_probe(*arrays(shifted)[:2], sketches["pooled"], sketches.labels).accuracy
    assert metrics["accuracy sketches/test"] == expected
    assert metrics["accuracy_lost sketches/test"] == pytest.approx(metrics["accuracy"] - expected)
    fit = linear_probe(*arrays(shifted)[:2], sketches["pooled"][sketches.labels > 0], np.zeros(60, np.int64))
    masked = np.array([2, 1])[fit.log_probabilities[:, [2, 1]].argmax(1)]
    assert metrics["accuracy rare/test"] == (masked == sketches.labels[sketches.labels > 0]).mean()
    lines = [table["lines"] for table in found["tables"] if table["title"].startswith("effective robustness")]
    assert [len(one) for one in lines] in ([], [3])
    done = probe(shifted, "pets", "--task", "shift", "--on", "sketches", "--on", "rare/test")
    assert "sketches/test" in done.out
    assert "lost" in done.out


def test_shift_onto_other_classes_needs_a_mapping(store: FeatureStore, tmp_path: Path) -> None:
    values, labels = clusters(30, noise=0.2)
    write_set(store, "birds/test", "good", values, labels, class_names=["x", "y", "z"])
    done = probe(store, "pets@good", "--task", "shift", "--on", "birds")
    assert done.code == 1
    assert "expected classes of the train set by name, found 3 others: 'x', 'y', 'z'; give --classes" in words(done.out)
    mapping = tmp_path / "classes.json"
    mapping.write_text(json.dumps({"birds/test": [0, 1, 2]}))
    found = probe_json(store, "pets@good", "--task", "shift", "--on", "birds", "--classes", mapping)
    assert values_of(found)["accuracy birds/test"] > 0.9
    mapping.write_text(json.dumps({"birds/test": [0, 1, 3]}))
    done = probe(store, "pets@good", "--task", "shift", "--on", "birds", "--classes", mapping)
    assert "expected classes of the head, 0..2, found [3] too" in words(done.out)


def test_the_backbone_s_own_head_is_scored_without_a_train_set(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    head = (np.eye(3, 8, dtype=np.float32), np.zeros(3, np.float32))
    values, labels = clusters(60)
    write_set(store, "pets/test", "net", values, labels, head=head)
    write_set(store, "more/test", "net", values[:30], labels[:30], head=head)
    found = probe_json(store, "pets", "--task", "shift", "--head", "own", "--on", "more")
    assert values_of(found)["accuracy"] == (values[:, :3].argmax(1) == labels).mean()
    write_set(store, "pets/test", "headless", values, labels)
    write_set(store, "more/test", "headless", values, labels)
    done = probe(store, "pets@headless", "--task", "shift", "--head", "own", "--on", "more")
    assert "headless has no classifier of its own in the store; leave out --head own" in words(done.out)


def test_corruptions_give_the_mce(store: FeatureStore) -> None:
    generator = np.random.default_rng(0)
    kinds = np.repeat(list(ALEXNET_ERRORS), 5 * 12)
    severity = np.tile(np.repeat(np.arange(1, 6), 12), len(ALEXNET_ERRORS))
    values, labels = clusters(len(kinds), noise=0.6)
    columns = {"corruption": kinds, "severity": severity}
    write_set(store, "pets_c/test", "good", values, labels, columns=columns, class_names=["a", "b", "c"])
    metrics = values_of(probe_json(store, "pets@good", "--task", "shift", "--on", "pets_c"))
    predictions = linear_probe(*arrays(store)[:2], values, labels).predictions
    errors = {kind: (predictions != labels)[kinds == kind].mean() for kind in ALEXNET_ERRORS}
    expected = 100 * np.mean([errors[kind] / ALEXNET_ERRORS[kind] for kind in errors])
    assert metrics["mce"] == pytest.approx(expected, rel=1e-12)
    assert metrics["corruption_error"] == pytest.approx(np.mean(list(errors.values())), rel=1e-12)
    for level in (1, 2):
        noisy = (values + level * generator.standard_normal(values.shape)).astype(np.float16)
        write_set(store, f"pets_n/fog_{level}", "good", noisy, labels, class_names=["a", "b", "c"])
    metrics = values_of(probe_json(store, "pets@good", "--task", "shift", "--on", "pets_n"))
    assert "mce" not in metrics
    both = [metrics["accuracy pets_n/fog_1"], metrics["accuracy pets_n/fog_2"]]
    assert metrics["corruption_error"] == pytest.approx(1 - np.mean(both))


# what is kept


def test_a_second_run_computes_nothing_and_says_so(store: FeatureStore) -> None:
    first = probe_json(store, "pets", "--task", "linear", "--task", "knn")
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    done = probe(store, "pets", "--task", "linear", "--task", "knn")
    assert "Answers: 0 computed, 4 known already" in done.out
    assert "linear of good: pets/train -> pets/test: known" in done.err
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    again = probe_json(store, "pets", "--task", "linear", "--task", "knn")
    assert [p["known"] for p in first["answers"] + again["answers"]] == [False] * 4 + [True] * 4
    assert [p["rows"] for p in first["answers"]] == [p["rows"] for p in again["answers"]]


def test_other_settings_are_computed_and_the_same_ones_reproduce_to_the_last_digit(store: FeatureStore) -> None:
    first = probe_json(store, "pets@poor", "--task", "linear")
    other = probe_json(store, "pets@poor", "--task", "linear", "--seed", 1)
    assert not other["answers"][0]["known"]
    for path in (store.root / "results").rglob("*.json"):
        path.unlink()
    again = probe_json(store, "pets@poor", "--task", "linear")
    assert timeless(again["answers"][0]) == timeless(first["answers"][0])


def test_results_and_predictions_are_read_back(store: FeatureStore) -> None:
    found = probe_json(store, "pets", "--task", "linear")
    results = Results(store.root)
    row = next(row for row in results.rows() if (row.backbone, row.metric) == ("poor", "accuracy"))
    kept = results.arrays(row)
    assert (kept["predictions"] == kept["labels"]).mean() == row.value == values_of(found, 1)["accuracy"]
    assert kept["ids"].tolist() == store.open("pets/test", "poor").ids.tolist()
    nll = next(row for row in results.rows() if (row.backbone, row.metric) == ("poor", "nll"))
    assert -kept["log_likelihood"].mean() == pytest.approx(nll.value, rel=1e-5)
    with (store.root / "results" / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12


# comparisons and groups


def test_backbones_are_compared_on_the_same_rows(store: FeatureStore) -> None:
    found = probe_json(store, "pets", "--task", "linear", *FEW, "--compare")
    by_task = {rows[0]["details"]["of"]: rows[0] for rows in analyses(found, "compare")}
    assert set(by_task) == {"linear", "fewshot"}
    row = by_task["linear"]
    assert row["value"] == pytest.approx(values_of(found)["accuracy"] - values_of(found, 2)["accuracy"])
    assert row["details"]["test"] == "mcnemar"
    assert row["interval"][0] <= row["value"] <= row["interval"][1]
    assert row["details"]["p"] <= row["details"]["p_holm"]
    assert by_task["fewshot"]["details"]["test"] == "paired bootstrap"
    done = probe(store, "pets", "--task", "linear", "--compare")
    assert "pets/test, linear: differences in accuracy" in done.out
    assert "good" in done.out


def test_backbones_with_other_failed_rows_are_compared_on_the_shared_ones(store: FeatureStore) -> None:
    values, labels = clusters(45, seed=1)
    write_pair(store, "pets", "third")
    write_set(store, "toys/train", "a", *clusters(60))
    write_set(store, "toys/test", "a", values, labels, failed=[0, 1])
    write_set(store, "toys/train", "b", *clusters(60))
    write_set(store, "toys/test", "b", values, labels, failed=[2])
    found = probe_json(store, "toys", "--task", "linear", "--compare")
    assert found["analyses"][0]["notes"][-1:] == ["a - b: of the 42 rows that both scored; the cells are of 43 and 44"]
    assert found["analyses"][0]["rows"][0]["value"] == 0.0


def test_a_comparison_needs_two_backbones(store: FeatureStore) -> None:
    done = probe(store, "pets@good", "--task", "linear", "--compare")
    assert (done.code, done.out) == (2, "")
    assert "--compare needs at least two backbones; found good" in done.err
    assert not (store.root / "results").exists()


def test_without_two_results_there_is_no_comparison(store: FeatureStore) -> None:
    write_pair(store, "toys", "good")
    write_set(store, "toys/train", "poor", clusters(9)[0], np.zeros(9))
    write_set(store, "toys/test", "poor", *clusters(9))
    found = probe_json(store, "toys", "--task", "linear", "--compare", code=1)
    assert found["analyses"] == []
    assert found["answers"][0]["rows"]


def test_probes_of_other_train_sets_are_not_mixed(store: FeatureStore) -> None:
    for backbone in ("good", "poor"):
        write_set(store, "pets/more", backbone, *clusters(80, seed=4))
    found = probe_json(store, "pets", "pets/more:test", "--task", "linear", "--compare")
    assert len(found["analyses"]) == 2
    assert len({one["rows"][0]["result"] for one in found["analyses"]}) == 2


def test_accuracy_by_group(store: FeatureStore) -> None:
    found = probe_json(store, "pets@poor", "--task", "linear", "--group", "place")
    (table,) = analyses(found, "groups")
    kept = Results(store.root).arrays(next(r for r in Results(store.root).rows() if r.question == "linear"))
    right = kept["predictions"] == kept["labels"]
    south = np.arange(45) % 5 == 0
    rows = {(row["metric"], row["group"]): row for row in table}
    assert rows["accuracy", "south"]["value"] == right[south].mean()
    assert rows["accuracy", "north"]["value"] == right[~south].mean()
    gap = next(row["value"] for row in table if row["metric"] == "accuracy_gap")
    assert gap == pytest.approx(abs(right[south].mean() - right[~south].mean()))
    assert {row["metric"] for row in table} >= {"worst_group_accuracy", "demographic_parity_gap"}
    done = probe(store, "pets@poor", "--task", "linear", "--group", "place")
    assert "poor, linear on pets/test: by place" in done.out
    assert "group 'south' has 9 rows, fewer than 30" in words(done.out)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--task", "linear", "--group", "plase"), 2, "unknown column 'plase'; did you mean 'place'?"),
        (("--task", "linear", "--group", "size"), 1, "cut a continuous column into bins"),
        ((*FEW, "--group", "place"), 2, "--group needs a question with one predicted class a row, such as linear"),
    ],
)
def test_groups_that_cannot_be_had(store: FeatureStore, arguments: tuple[Any, ...], code: int, message: str) -> None:
    done = probe(store, "pets@good", *arguments)
    assert done.code == code
    assert message in words(done.err)


# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pest",), "unknown dataset 'pest'; did you mean 'pets'?"),
        (("pets/tset",), "unknown split of pets 'tset'; did you mean 'test'"),
        (("pets@goot",), "unknown backbone of pets 'goot'; did you mean 'good'"),
        (("pets", "--backbone", "goot"), "unknown backbone of pets 'goot'; did you mean 'good'"),
        (("pets", "--task", "liner"), "unknown task 'liner'; did you mean 'linear'?"),
        (("pets", "--output", "poold"), "unknown output 'poold'; did you mean 'pooled'?"),
        (("pets", "--fingerprint", "xyz"), "there is no feature set whose fingerprint begins with 'xyz'"),
        (("pets", "--task", "shift"), "shift: shift needs --on DATASET/SPLIT"),
        (("pets", "--task", "shift", "--on", "pest"), "unknown dataset 'pest'; did you mean 'pets'?"),
        (("pets", "--task", "zeroshot"), "good has no text features of pets; make them: featurebank texts pets good"),
        (("pets", "--task", "dense"), "dense needs --train-masks and --test-masks"),
        (("pets", "--task", "linear", "--shots", 3), "--shots is for fewshot; found only linear"),
        (("pets", "--task", "linear", "--protocol", "sgd"), "protocol must be one of logistic, bob, dinov2"),
        ((), "linear needs KEY, a dataset of the store"),
    ],
)
def test_wrong_use_is_one_message_and_exit_2(store: FeatureStore, arguments: tuple[Any, ...], message: str) -> None:
    done = probe(store, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in words(done.err)
    assert not (store.root / "results").exists()


def test_a_store_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    done = featurebank_("probe", "pets", "--store", tmp_path / "nowhere")
    assert (done.code, done.out) == (2, "")
    assert "expected a store's folder, found nothing" in done.err


def make(
    folder: Path, train_labels: Any, test_labels: Any, *, failed: tuple[int, ...] = (), width: int = 8
) -> FeatureStore:
    store = FeatureStore(folder)
    for split, given, seed, columns in (("train", train_labels, 0, 8), ("test", test_labels, 1, width)):
        labels = np.asarray(given)
        noise = 0.3 * np.random.default_rng(seed).standard_normal((len(labels), columns))
        values = np.eye(4, columns)[np.maximum(labels, 0)] + noise
        write_set(store, f"odd/{split}", "net", values.astype(np.float32), labels, failed=failed)
    return store


def test_failed_and_unlabelled_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = np.arange(60) % 3
    labels[50:] = -1
    store = make(tmp_path, labels, labels, failed=(1, 2, 59))
    done = probe(store, "odd", "--task", "linear", "--task", "knn", "--k", 5)
    assert done.code == 0
    for split in ("train", "test"):
        assert words(done.out).count(f"odd/{split}: 12 of 60 rows left out: 3 failed, 9 unlabelled") == 1
    kept = Results(tmp_path).arrays(Results(tmp_path).rows()[0])
    assert len(kept["labels"]) == 48
    assert not {1, 2, 59} & set(kept["rows"].tolist())


def test_a_class_that_train_lacks_counts_as_wrong_and_is_named(tmp_path: Path) -> None:
    store = make(tmp_path, np.arange(60) % 3, np.arange(40) % 4)
    found = probe_json(store, "odd", "--task", "linear", "--task", "knn", "--k", 5, *FEW)
    for index in range(3):
        assert max(values_of(found, index).values()) <= 1.5
        accuracy = next(iter(values_of(found, index).values()))
        assert accuracy <= 0.75
        assert found["answers"][index]["notes"] == [
            "classes of odd/test without rows in odd/train: 3; 1 in all, rows counted as wrong: 10",
            "odd/test and odd/train name no classes: their numbers are taken to mean the same",
        ]


def test_a_class_that_test_lacks_is_named(tmp_path: Path) -> None:
    store = make(tmp_path, np.arange(60) % 3, np.arange(40) % 2)
    found = probe_json(store, "odd", "--task", "linear")
    assert found["answers"][0]["notes"][0] == "classes of odd/train without rows in odd/test: 2; 1 in all"
    assert values_of(found)["balanced_accuracy"] > 0.8


def test_one_row_a_class_cannot_choose_and_says_so(tmp_path: Path) -> None:
    store = make(tmp_path, [0, 1, 2], np.arange(30) % 3)
    found = probe_json(store, "odd", "--task", "linear", "--task", "fewshot", "--shots", 1, "--fraction", 1, code=1)
    assert "at least two rows to validate on one" in found["answers"][0]["error"]
    assert values_of(found, 1)["accuracy 1-shot"] > 0.5


@pytest.mark.parametrize(
    "arguments",
    [("linear",), ("knn", "--k", 3), ("fewshot", "--shots", 2, "--fraction", 0.5)],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize(
    ("train", "test", "width", "message"),
    [
        ([2] * 20, [2] * 20, 8, "at least two classes"),
        (
            [0, 1] * 10,
            [0, 1] * 10,
            5,
            "the rows of odd/train and odd/test must have the same shape, found (8,) and (5,)",
        ),
        ([-1] * 20, [0, 1] * 10, 8, "odd/train: expected labelled rows, found none among 20"),
        ([0, 1] * 10, [-1] * 20, 8, "odd/test: expected labelled rows, found none among 20"),
    ],
)
def test_rows_that_cannot_be_probed_are_a_failure_with_its_reason(  # noqa: PLR0917
    tmp_path: Path, arguments: tuple[Any, ...], train: list[int], test: list[int], width: int, message: str
) -> None:
    store = make(tmp_path, train, test, width=width)
    done = probe(store, "odd", "--task", *arguments)
    assert done.code == 1
    assert "failed" in done.out
    assert message in words(done.out)
    assert not (tmp_path / "results").exists()


def test_one_failure_does_not_stop_the_others(store: FeatureStore) -> None:
    for split in ("train", "test"):
        write_set(store, f"pets/{split}", "broken", clusters(9)[0], np.zeros(9), precision="float32")
    done = probe(store, "pets", "--task", "linear")
    assert done.code == 1
    assert "linear of broken: a probe needs at least two classes" in words(done.out)
    assert "Answers: 2 computed, 0 known already, 1 failed" in done.out


def test_sets_made_in_different_ways_are_a_failure(store: FeatureStore) -> None:
    write_set(store, "pets/train", "mixed", *clusters(9), precision="float32")
    write_set(store, "pets/test", "mixed", *clusters(9), precision="bfloat16")
    write_set(store, "pets/train", "half", *clusters(9))
    done = probe(store, "pets", "--task", "linear")
    assert done.code == 1
    assert "mixed on pets/test: the sets of a question must be made the same way" in words(done.out)
    assert "precision: 'float32' and 'bfloat16'" in words(done.out)
    assert "passed over: half has no pets/test" in words(done.out)
    failed = probe_json(store, "pets", "--task", "linear", code=1)["failed"]
    assert [(f["backbone"], f["set"]) for f in failed] == [("mixed", "pets/test")]


def test_fits_that_stop_short_are_a_note(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

    run = KNN.run

    def warned(self: KNN, rows: Rows) -> Answer:
        for _ in range(2):
            warnings.warn("1 of 11 fits stopped above tol", ConvergenceWarning, stacklevel=2)
        return run(self, rows)

    monkeypatch.setattr(KNN, "run", warned)
    for _ in range(2):
        found = probe_json(store, "pets@good", "--task", "knn", "--k", 5)
        assert found["answers"][0]["notes"] == ["1 of 11 fits stopped above tol"]


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04", None])
def test_files_that_hold_no_array_are_refused(store: FeatureStore, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "text.npy"
    if content is None:
        np.save(path, np.array([None], object), allow_pickle=True)
    else:
        path.write_bytes(content)
    done = probe(store, "pets@good", "--task", "zeroshot", "--text", path)
    assert done.code == 1
    assert f"{path}: expected a .npy file of numbers" in "".join(done.out.split("\n"))


def test_files_that_are_not_there_are_wrong_use(store: FeatureStore, tmp_path: Path) -> None:
    done = probe(store, "pets", "--task", "zeroshot", "--text", tmp_path / "none.npy")
    assert (done.code, done.out) == (2, "")
    done = probe(store, "pets", "--task", "dense", "--train-masks", tmp_path / "none.npy")
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize("task", [("--task", "knn"), ("--task", "knn", "--compare", "--group", "place")])
def test_a6_force_computes_what_is_known_again(store: FeatureStore, task: tuple[str, ...]) -> None:
    first = probe_json(store, "pets", *task)
    again, forced = probe_json(store, "pets", *task), probe_json(store, "pets", *task, "--force")
    parts = ("answers", "analyses")
    assert all(one["known"] for part in parts for one in again[part])
    assert not any(one["known"] for part in parts for one in forced[part])
    assert [timeless(one) for one in forced["answers"]] == [timeless(one) for one in first["answers"]]


def test_b7_a_store_that_cannot_be_written_still_answers(store: FeatureStore) -> None:
    (store.root / "results").write_text("in the way")
    done = probe(store, "pets", "--task", "knn", "--compare", "--group", "place")
    assert done.code == 0, done.err
    reason = f"not kept: {store.root / 'results'}: Not a directory"
    assert done.out.count(reason) == 4  # once for both backbones, then for the comparison and each backbone's groups
    found = probe_json(store, "pets", "--task", "knn")
    assert [one["notes"][-1] for one in found["answers"]] == [reason] * 2
    assert (store.root / "results").read_text() == "in the way"


def test_a11_probabilities_of_zero_shot_need_the_model_s_own_scale(store: FeatureStore, tmp_path: Path) -> None:
    centres = np.eye(3, 8, dtype=np.float32)
    np.save(tmp_path / "text.npy", centres)
    np.savez(tmp_path / "text.npz", text=centres, logit_scale=np.float32(14.5))
    zero = ("pets@good", "--task", "zeroshot", "--text")
    (unknown,) = probe_json(store, *zero, tmp_path / "text.npy")["answers"]
    assert [row["metric"] for row in unknown["rows"]] == ["accuracy", "balanced_accuracy"]
    assert any("no NLL, Brier score or ECE: the model's logit scale is not known" in note for note in unknown["notes"])
    by_file = probe_json(store, *zero, tmp_path / "text.npz")
    given = probe_json(store, *zero, tmp_path / "text.npy", "--logit-scale", 14.5)
    assert values_of(by_file) == values_of(given)
    assert probes(by_file)[0]["chosen"] == {"logit_scale": 14.5}
    x, y = (part.astype(np.float64) for part in arrays(store)[2:])
    logits = 14.5 * (x / np.linalg.norm(x, axis=1, keepdims=True))[:, :3]
    likelihood = logits[np.arange(45), y.astype(int)] - np.log(np.exp(logits).sum(1))
    assert values_of(by_file)["nll"] == pytest.approx(-likelihood.mean(), rel=1e-6)
    assert values_of(by_file)["accuracy"] == unknown["rows"][0]["value"]
    np.savez(tmp_path / "text.npz", text=centres, logit_scale=np.float32(0))
    assert "expected logit_scale to be one number above 0" in words(probe(store, *zero, tmp_path / "text.npz").out)
