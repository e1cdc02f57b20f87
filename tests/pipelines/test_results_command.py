"""``featurebank results``: what a store knows, filtered, sorted, laid out, exported; nothing is computed."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Done, featurebank_, words

from featurebank.pipelines.asking.results import COLUMNS, Computed, Results, Row
from featurebank.pipelines.summaries.results import filtered

NETS = ("[red]net", "timm:resnet18[run_a]", "timm:resnet18[run_b]")
VALUES = dict(zip(NETS, (0.7, 0.9, 0.8), strict=True))


def row(backbone: str, **more: Any) -> Row:
    settings: dict[str, Any] = {
        "question": "linear", "train": "pets/train", "test": "pets/test", "set": "pets/test", "metric": "accuracy",
        "primary": True, "value": VALUES[backbone], "low": 0.6, "high": 0.95, "interval": "test rows, Wilson",
        "n": 1200, "fingerprints": ("ab" * 32, "cd" * 32),
    }  # fmt: skip
    return Row(backbone=backbone, **(settings | more))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two numbers of a linear probe and two scores of each backbone."""
    folder = tmp_path_factory.mktemp("results")
    results = Results(folder)
    for name in NETS:
        nll = {"metric": "nll", "direction": "lower", "primary": False, "value": 1 - VALUES[name], "low": None}
        linear = [row(name), row(name, **nll, high=None, interval="", details={"of": [1, "é"]})]
        scores = [
            row(name, question="ood", score=score, set="=noise/test", metric="auroc", value=VALUES[name] + at / 100)
            for at, score in enumerate(("msp", "vim"))
        ]
        for rows in (linear, scores):
            results.once(rows[0].question, {"net": name}, ["ab"], lambda rows=rows: Computed(rows=rows), version=1)  # type: ignore[misc]
    return folder


def results(root: Path, *arguments: Any, code: int = 0) -> Done:
    done = featurebank_("results", *arguments, "--store", root)
    assert done.code == code, done.err
    return done


def listed(root: Path, *arguments: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = results(root, *arguments, "--json").json["rows"]
    return rows


def test_without_more_the_main_numbers_are_listed(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    text = results(root).out
    assert len(listed(root)) == 9
    assert "9 numbers." in text
    assert "nll" not in text
    assert words(text).count("test rows, Wilson") == 1
    line = next(line for line in text.splitlines() if "[run_a]" in line and "linear" in line)
    assert line.split() == ["linear", NETS[1], "pets/test", "accuracy", ".900", ".600-.950", "1200"]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_all_numbers_are_listed_too(root: Path) -> None:
    assert len(listed(root, "--all")) == 12
    assert "12 numbers." in results(root, "--all").out
    assert "nll" in results(root, "--all").out


def test_json_has_every_column_of_every_row(root: Path) -> None:
    (found,) = listed(root, "--all", "--where", "metric=nll", "--where", f"backbone={NETS[1]}")
    assert tuple(found) == COLUMNS
    assert (found["value"], found["low"], found["direction"], found["n"]) == (pytest.approx(0.1), None, "lower", 1200)
    assert (found["fingerprints"], found["details"]) == (["ab" * 32, "cd" * 32], {"of": [1, "é"]})
    assert len(found["result"]) == 16


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        (["question=ood"], 6),
        (["question=ood", "score=vim"], 3),
        (["score=vim", "score=msp"], 6),
        (["backbone=timm:*"], 6),
        (["backbone=timm:resnet18[run_a]"], 3),
        (["backbone=[red]net"], 3),
        (["backbone=*[run_?]"], 0),
        (["backbone=*[run_*]"], 6),
        (["set==noise/test"], 6),
        (["metric=acc"], 0),
        (["metric=acc*", "question=ood"], 0),
        (["shots="], 9),
        (["primary=True"], 9),
        (["n=1200"], 9),
        ([f"fingerprints={'ab' * 32} *"], 9),
    ],
)
def test_rows_are_those_of_all_conditions(root: Path, conditions: list[str], count: int) -> None:
    given = [word for one in conditions for word in ("--where", one)]
    found = listed(root, *given)
    assert len(found) == count
    assert f"{count} numbers." in results(root, *given).out


def test_a_filter_is_there_for_python() -> None:
    rows = [row(name) for name in NETS]
    assert filtered(rows, {"backbone": ["*run*"], "metric": ["accuracy"]}) == rows[1:]
    assert filtered([replace(one, primary=False) for one in rows], {}, primary=True) == []
    assert filtered([replace(rows[0], n=None)], {"n": [""]}) == [replace(rows[0], n=None)]


@pytest.mark.parametrize("column", COLUMNS)
def test_rows_are_sorted_by_any_column(root: Path, column: str) -> None:
    found = [one[column] for one in listed(root, "--all", "--sort", column)]
    assert len(found) == 12
    if column in ("n", "seconds", "version", "high", "low"):
        assert found == sorted(found, key=lambda value: (value is None, value or 0))
    elif column not in ("value", "details", "primary"):
        assert found == sorted(found)


def test_the_best_values_come_first(root: Path) -> None:
    assert [one["value"] for one in listed(root, "--where", "score=vim", "--sort", "value")] == [0.91, 0.81, 0.71]
    lowest = listed(root, "--all", "--where", "metric=nll", "--sort", "value")
    assert [one["backbone"] for one in lowest] == [NETS[1], NETS[2], NETS[0]]


def test_a_pivot_has_a_line_for_each_backbone(root: Path) -> None:
    text = results(root, "--pivot").out
    assert "pets/train -> pets/test" in text
    lines = [line.split() for line in text.splitlines() if line.startswith(NETS)]
    assert [line[0] for line in lines] == [NETS[1], NETS[2], NETS[0]]
    assert [word for word in lines[0] if "-" not in word][1:] == [".900", ".900", ".910"]
    head = " ".join(text.partition("───")[0].split())
    for word in ("linear", "ood", "msp", "vim", "AUROC"):
        assert word in head


def test_csv_is_that_of_the_store_in_a_file_or_on_stdout(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    assert results(root, "--all", "--csv", path).out == ""
    Results(root).write_table()
    assert path.read_bytes() == (root / "results" / "results.csv").read_bytes()
    printed = results(root, "--all", "--csv", "-").out
    assert printed == path.read_text("utf-8")
    lines = list(csv.DictReader(io.StringIO(printed)))
    assert len(lines) == 12
    assert tuple(lines[0]) == COLUMNS
    assert {line["set"] for line in lines} == {"pets/test", "'=noise/test"}  # no spreadsheet computes it
    details = [line["details"] for line in lines if line["metric"] == "nll"]
    assert [json.loads(text) for text in details] == 3 * [{"of": [1, "é"]}]
    one = results(root, "--csv", "-", "--where", "score=vim", "--where", "backbone=*a]").out
    assert len(one.splitlines()) == 2


def test_parquet_has_the_same_rows(root: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("out.parquet", "out"):
        assert results(root, "--all", "--parquet", tmp_path / name, "--csv", tmp_path / "both.csv").out == ""
        read = parquet.read_table(tmp_path / name).to_pylist()
        assert tuple(read[0]) == COLUMNS
        shown = listed(root, "--all")
        assert [one | {"details": None} for one in read] == [one | {"details": None} for one in shown]
        assert [json.loads(one["details"] or "{}") for one in read] == [one["details"] for one in shown]
    assert (tmp_path / "both.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--where", "metrc=x"), "unknown column 'metrc'; did you mean 'metric'"),
        (("--sort", "valu"), "unknown column 'valu'; did you mean 'value'"),
        (("--where", "metric"), "--where must be COLUMN=VALUE, such as metric=accuracy; found 'metric'"),
    ],
)
def test_wrong_words_are_one_clear_error(root: Path, arguments: tuple[str, ...], message: str) -> None:
    done = results(root, *arguments, code=2)
    assert message in words(done.err)
    assert done.out == ""


def test_a_store_that_knows_nothing_has_no_numbers(tmp_path: Path) -> None:
    assert words(results(tmp_path).out) == "0 numbers."
    assert words(results(tmp_path, "--pivot").out) == "0 numbers."
    assert listed(tmp_path) == []
    assert results(tmp_path, "--csv", "-").out == ",".join(COLUMNS) + "\n"
    assert "expected a store's folder, found nothing" in words(results(tmp_path / "none", code=2).err)


def test_a_file_that_cannot_be_written_is_one_message(root: Path, tmp_path: Path) -> None:
    for option in ("--csv", "--parquet"):
        done = results(root, option, tmp_path / "none" / "out", code=1)
        assert str(tmp_path / "none") in words(done.err).replace(" ", "")
