"""The table of results: computed once, written whole, read by anyone."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurebank.pipelines.results import Computed, Result, Results, Row


def row(value: float = 0.5) -> Row:
    return Row(
        backbone="net", dataset="pets/test", task="linear", metric="accuracy", value=value, low=0.4, high=0.6,
        fingerprints=("ab", "cd"), settings={"C": 0.1},
    )  # fmt: skip


def computed(value: float = 0.5, **arrays: Any) -> Computed:
    return Computed(rows=[row(value)], arrays=arrays, notes=["3 rows left out"])


def test_an_unchanged_result_is_not_computed_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    first = results.once("linear", {"C": 1}, ["ab"], computed)
    again = results.once("linear", {"C": 1}, ["ab"], lambda: pytest.fail("computed again"))
    assert first.rows == (replace(row(), result=first.name),)
    assert (first.known, first.notes) == (False, ("3 rows left out",))
    assert again == replace(first, known=True)


@pytest.mark.parametrize(
    ("task", "settings", "inputs"),
    [("linear", {"C": 2}, ["ab"]), ("linear", {"C": 1}, ["ac"]), ("knn", {"C": 1}, ["ab"])],
)
def test_other_inputs_or_settings_are_another_result(
    tmp_path: Path, task: str, settings: dict[str, object], inputs: list[str]
) -> None:
    results = Results(tmp_path)
    results.once("linear", {"C": 1}, ["ab"], computed)
    other = results.once(task, settings, inputs, lambda: computed(0.7))
    assert (other.known, other.rows[0].value) == (False, 0.7)
    assert len(results.rows()) == 2


def path_of(folder: Path, result: Result, ending: str) -> Path:
    return folder / "results" / "linear" / f"{result.name}.{ending}"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"rows": [{}], "arrays": [], "notes": []}'])
def test_a_damaged_result_is_computed_again(tmp_path: Path, text: str) -> None:
    results = Results(tmp_path)
    path_of(tmp_path, results.once("linear", {}, [], computed), "json").write_text(text)
    assert results.once("linear", {}, [], lambda: computed(0.9)).rows[0].value == 0.9


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Computed:
        raise ValueError("one class")

    with pytest.raises(ValueError, match="one class"):
        Results(tmp_path).once("linear", {}, [], fail)
    assert not (tmp_path / "results").exists()


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        Results(tmp_path).once("linear", {}, [], lambda: computed(float("nan"), x=np.ones(2)))
    assert not (tmp_path / "results").exists()


def test_what_was_predicted_is_kept_and_read_back(tmp_path: Path) -> None:
    results = Results(tmp_path)
    kept: dict[str, Any] = {
        "ids": np.array(["ä", "b"]),
        "labels": np.array([1, 0]),
        "score": np.array([0.25, 1.0], np.float32),
    }
    result = results.once("linear", {}, [], lambda: computed(**kept))
    found = Results(tmp_path).arrays(results.rows()[0])
    assert set(found) == set(kept)
    for name, array in kept.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    path_of(tmp_path, result, "npz").unlink()
    assert not results.once("linear", {}, [], lambda: computed(**kept)).known


def test_arrays_never_need_pickle(tmp_path: Path) -> None:
    results = Results(tmp_path)
    with pytest.raises(ValueError, match="found Python objects in groups"):
        results.once("linear", {}, [], lambda: computed(groups=np.array(["a", None], object)))
    result = results.once("linear", {}, [], lambda: computed(x=np.ones(2)))
    np.savez(path_of(tmp_path, result, "npz"), x=np.array([None], object))
    with pytest.raises(ValueError, match="expected arrays without pickle"):
        results.arrays(result.rows[0])
    for damage in (b"", b"no archive", b"PK\x03\x04"):
        path_of(tmp_path, result, "npz").write_bytes(damage)
        with pytest.raises(ValueError, match="expected arrays without pickle"):
            results.arrays(result.rows[0])


def test_a_result_without_arrays_says_so(tmp_path: Path) -> None:
    results = Results(tmp_path)
    result = results.once("linear", {}, [], computed)
    with pytest.raises(ValueError, match="expected the predictions of linear, found no file"):
        results.arrays(result.rows[0])


def test_the_table_is_tidy(tmp_path: Path) -> None:
    results = Results(tmp_path)
    first = results.once("linear", {"C": 1}, ["ab"], computed)
    results.once("linear", {"C": 2}, ["ab"], lambda: computed(0.7, x=np.ones(1)))
    results.write_table()
    with (tmp_path / "results" / "results.csv").open(newline="") as file:
        table = {line["result"]: line for line in csv.DictReader(file)}
    assert sorted(float(line["value"]) for line in table.values()) == [0.5, 0.7]
    line = table[first.name]
    assert line["fingerprints"] == "ab cd"
    assert json.loads(line["settings"]) == {"C": 0.1}
    assert not list((tmp_path / "results").rglob("*.tmp"))
