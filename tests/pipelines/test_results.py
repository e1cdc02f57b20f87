"""The table of results: computed once, written whole, read by anyone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from featurebank.pipelines.results import Results, Row


def row(value: float = 0.5) -> Row:
    return Row(
        backbone="net", dataset="pets/test", task="linear", metric="accuracy", value=value, low=0.4, high=0.6,
        fingerprints=("ab", "cd"), settings={"C": 0.1},
    )  # fmt: skip


def test_an_unchanged_result_is_not_computed_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    first = results.once("linear", {"C": 1}, ["ab"], lambda: [row()])
    again = results.once("linear", {"C": 1}, ["ab"], lambda: pytest.fail("computed again"))
    assert first == ([row()], False)
    assert again == ([row()], True)


@pytest.mark.parametrize(
    ("task", "settings", "inputs"),
    [("linear", {"C": 2}, ["ab"]), ("linear", {"C": 1}, ["ac"]), ("knn", {"C": 1}, ["ab"])],
)
def test_other_inputs_or_settings_are_another_result(
    tmp_path: Path, task: str, settings: dict[str, object], inputs: list[str]
) -> None:
    results = Results(tmp_path)
    results.once("linear", {"C": 1}, ["ab"], lambda: [row()])
    assert results.once(task, settings, inputs, lambda: [row(0.7)]) == ([row(0.7)], False)
    assert len(results.rows()) == 2


def test_a_damaged_result_is_computed_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.once("linear", {}, [], lambda: [row()])
    path = next((tmp_path / "results" / "linear").glob("*.json"))
    path.write_text(path.read_text()[:-5])
    assert results.once("linear", {}, [], lambda: [row(0.9)]) == ([row(0.9)], False)


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> list[Row]:
        raise ValueError("one class")

    with pytest.raises(ValueError, match="one class"):
        Results(tmp_path).once("linear", {}, [], fail)
    assert not (tmp_path / "results").exists()


def test_the_table_is_tidy(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.once("linear", {"C": 1}, ["ab"], lambda: [row()])
    results.once("linear", {"C": 2}, ["ab"], lambda: [row(0.7)])
    with (tmp_path / "results" / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert sorted(float(line["value"]) for line in table) == [0.5, 0.7]
    assert table[0]["fingerprints"] == "ab cd"
    assert json.loads(table[0]["settings"]) == {"C": 0.1}
    assert not list((tmp_path / "results").rglob("*.tmp"))
