"""The table of results: computed once, written whole, read by anyone."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from featurebank.pipelines.asking.kept_arrays import LARGEST
from featurebank.pipelines.asking.results import LARGEST_DOCUMENT, Computed, Result, Results, Row


def row(value: float = 0.5) -> Row:
    return Row(
        backbone="net", set="pets/test", question="linear", metric="accuracy", value=value, low=0.4, high=0.6,
        fingerprints=("ab", "cd"), details={"rows": 3},
    )  # fmt: skip


def computed(value: float = 0.5, **arrays: Any) -> Computed:
    return Computed(rows=[row(value)], arrays=arrays, notes=["3 rows left out"])


def test_an_unchanged_result_is_not_computed_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    first = results.once("linear", {"C": 1}, ["ab"], computed, version=1)
    again = results.once("linear", {"C": 1}, ["ab"], lambda: pytest.fail("computed again"), version=1)
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
    results.once("linear", {"C": 1}, ["ab"], computed, version=1)
    other = results.once(task, settings, inputs, lambda: computed(0.7), version=1)
    assert (other.known, other.rows[0].value) == (False, 0.7)
    assert len(results.rows()) == 2


def path_of(folder: Path, result: Result, ending: str) -> Path:
    return folder / "results" / "linear" / f"{result.name}.{ending}"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"rows": [{}], "arrays": [], "notes": []}'])
def test_a_damaged_result_is_computed_again(tmp_path: Path, text: str) -> None:
    results = Results(tmp_path)
    path_of(tmp_path, results.once("linear", {}, [], computed, version=1), "json").write_text(text)
    assert results.once("linear", {}, [], lambda: computed(0.9), version=1).rows[0].value == 0.9


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Computed:
        raise ValueError("one class")

    with pytest.raises(ValueError, match="one class"):
        Results(tmp_path).once("linear", {}, [], fail, version=1)
    assert not (tmp_path / "results").exists()


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        Results(tmp_path).once("linear", {}, [], lambda: computed(float("nan"), x=np.ones(2)), version=1)
    assert not (tmp_path / "results").exists()


def test_what_was_predicted_is_kept_and_read_back(tmp_path: Path) -> None:
    results = Results(tmp_path)
    kept: dict[str, Any] = {
        "ids": np.array(["ä", "b"]),
        "labels": np.array([1, 0]),
        "score": np.array([0.25, 1.0], np.float32),
    }
    result = results.once("linear", {}, [], lambda: computed(**kept), version=1)
    found = Results(tmp_path).arrays(results.rows()[0])
    assert set(found) == set(kept)
    for name, array in kept.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    path_of(tmp_path, result, "npz").unlink()
    assert not results.once("linear", {}, [], lambda: computed(**kept), version=1).known


def test_arrays_never_need_pickle(tmp_path: Path) -> None:
    results = Results(tmp_path)
    with pytest.raises(ValueError, match="found Python objects in groups"):
        results.once("linear", {}, [], lambda: computed(groups=np.array(["a", None], object)), version=1)
    result = results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1)
    pickled = io.BytesIO()
    np.savez(pickled, x=np.array([None], object))
    for damage in (pickled.getvalue(), b"", b"no archive", b"PK\x03\x04"):
        replace_arrays(tmp_path, result, damage)
        with pytest.raises(ValueError, match="expected arrays without pickle"):
            results.arrays(result.rows[0])


def replace_arrays(folder: Path, result: Result, data: bytes) -> None:
    """As a stranger would: with the hash that the result promises."""
    path_of(folder, result, "npz").write_bytes(data)
    document = json.loads(path_of(folder, result, "json").read_bytes())
    document["arrays"] = xxhash.xxh3_128_hexdigest(data)
    path_of(folder, result, "json").write_text(json.dumps(document))


def test_arrays_that_are_not_those_of_their_result_are_refused(tmp_path: Path) -> None:
    results = Results(tmp_path)
    result = results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1)
    np.savez(path_of(tmp_path, result, "npz"), x=np.zeros(2))
    with pytest.raises(ValueError, match="expected arrays with the hash of their result"):
        results.arrays(result.rows[0])


def test_a_result_without_arrays_says_so(tmp_path: Path) -> None:
    results = Results(tmp_path)
    result = results.once("linear", {}, [], computed, version=1)
    with pytest.raises(ValueError, match="expected the predictions of linear, found no file"):
        results.arrays(result.rows[0])


def test_the_table_is_tidy(tmp_path: Path) -> None:
    results = Results(tmp_path)
    first = results.once("linear", {"C": 1}, ["ab"], computed, version=1)
    results.once("linear", {"C": 2}, ["ab"], lambda: computed(0.7, x=np.ones(1)), version=1)
    results.write_table()
    with (tmp_path / "results" / "results.csv").open(newline="") as file:
        table = {line["result"]: line for line in csv.DictReader(file)}
    assert sorted(float(line["value"]) for line in table.values()) == [0.5, 0.7]
    line = table[first.name]
    assert line["fingerprints"] == "ab cd"
    assert json.loads(line["details"]) == {"rows": 3}
    assert not list((tmp_path / "results").rglob("*.tmp"))


# B7: what cannot be filed is handed out all the same


def refuse(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Every write into a store's folder fails as a disk that is full or read-only makes it."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("featurebank.store.filing.os.fsync", fail)


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_b7_an_answer_that_cannot_be_kept_is_given_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    refuse(monkeypatch, code)
    results = Results(tmp_path)
    result = results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1)
    assert (result.known, result.kept, result.rows[0].value) == (False, False, 0.5)
    assert result.notes == ("3 rows left out", f"not kept: {tmp_path / 'results'}: {os.strerror(code)}")
    np.testing.assert_array_equal(results.arrays(result)["x"], np.ones(2))
    results.write_table()
    assert f"results.csv not written: {tmp_path / 'results'}: {os.strerror(code)}" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("featurebank.pipelines.asking.kept_arrays.LARGEST", "predictions of 16 bytes are more than 15"),
        ("featurebank.pipelines.asking.results.LARGEST_DOCUMENT", "are more than 15"),
    ],
)
def test_b7_what_is_too_large_to_be_read_again_is_not_kept_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, reason: str
) -> None:
    monkeypatch.setattr(limit, 15)
    result = Results(tmp_path).once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1)
    assert (result.kept, result.rows[0].value) == (False, 0.5)
    assert result.notes[-1].startswith("not kept: ")
    assert reason in result.notes[-1]


def test_b7_files_have_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        results = Results(tmp_path)
        results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1)
        results.write_table()
    finally:
        os.umask(before)
    modes = {path.name.rpartition(".")[2]: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.*")}
    assert modes == {"json": 0o644, "npz": 0o644, "csv": 0o644}


# C11: the folder may be a stranger's


def test_a6_force_computes_again_and_replaces(tmp_path: Path) -> None:
    results = Results(tmp_path)
    first = results.once("linear", {}, [], computed, version=1)
    again = Results(tmp_path, force=True).once("linear", {}, [], lambda: computed(0.9), version=1)
    assert (again.name, again.known) == (first.name, False)
    assert results.once("linear", {}, [], computed, version=1).rows[0].value == 0.9


def test_a6_another_version_is_another_result(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.once("linear", {}, [], computed, version=1)
    assert results.once("linear", {}, [], lambda: computed(0.9), version=2).rows[0].value == 0.9
    assert [(row.version, row.value) for row in results.rows()] == [(2, 0.9)]
    assert results.once("linear", {}, [], lambda: pytest.fail("computed again"), version=1).rows[0].value == 0.5


@pytest.mark.parametrize("place", ["results", "results/linear"])
def test_c11_a_linked_folder_is_neither_read_nor_written(tmp_path: Path, place: str) -> None:
    store, outside = tmp_path / "store", tmp_path / "outside"
    Results(outside).once("linear", {}, [], computed, version=1)
    (store / place).parent.mkdir(parents=True)
    (store / place).symlink_to(outside / place)
    before = sorted(outside.rglob("*"))
    result = Results(store).once("linear", {}, [], lambda: computed(0.9), version=1)
    assert (result.rows[0].value, result.kept) == (0.9, False)
    assert result.notes[-1] == f"not kept: {store / place} must lie within the store; found a link; remove it"
    assert sorted(outside.rglob("*")) == before
    assert Results(store).rows() == []


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_c11_a_linked_file_is_not_replaced(tmp_path: Path, ending: str) -> None:
    results, outside = Results(tmp_path / "store"), tmp_path / "outside"
    path = path_of(
        tmp_path / "store", results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1), ending
    )
    path.rename(outside)
    path.symlink_to(outside)
    before = outside.read_bytes()
    again = results.once("linear", {}, [], lambda: computed(0.9, x=np.ones(2)), version=1)
    assert (again.rows[0].value, again.kept) == (0.9, False)
    assert (outside.read_bytes(), path.is_symlink()) == (before, True)


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_c11_a_pipe_does_not_hang(tmp_path: Path, ending: str) -> None:
    results = Results(tmp_path)
    result = results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1)
    path = path_of(tmp_path, result, ending)
    path.unlink()
    os.mkfifo(path)
    assert results.rows() == []
    with pytest.raises(ValueError, match="found no file" if ending == "json" else "must be a regular file; found prw"):
        results.arrays(result.rows[0])
    assert not results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1).known
    assert path.is_file()


@pytest.mark.parametrize(
    "change",
    [
        {"value": "0.9"},
        {"value": True},
        {"value": 1e999},
        {"low": "<b>"},
        {"backbone": 7},
        {"metric": ["accuracy"]},
        {"fingerprints": 5},
        {"fingerprints": [1]},
        {"details": []},
        {"n": 1.5},
        {"primary": 1},
        {"question": "../../linear"},
        {"result": "../../../x"},
        {"version": 2},
        {"backbone": "x" * 100_000},
        {"unknown": 1},
    ],
)
def test_c11_a_row_that_does_not_fit_is_no_result(tmp_path: Path, change: dict[str, Any]) -> None:
    results = Results(tmp_path)
    path = path_of(tmp_path, results.once("linear", {}, [], computed, version=1), "json")
    document = json.loads(path.read_bytes())
    document["rows"][0] |= change
    path.write_text(json.dumps(document))
    assert results.rows() == []
    assert not results.once("linear", {}, [], computed, version=1).known


@pytest.mark.parametrize(
    "change",
    [{"key": {"question": "linear"}}, {"key": None}, {"rows": []}, {"notes": [1]}, {"arrays": 3}, {"chosen": []}],
)
def test_c11_a_document_that_does_not_fit_is_no_result(tmp_path: Path, change: dict[str, Any]) -> None:
    results = Results(tmp_path)
    path = path_of(tmp_path, results.once("linear", {}, [], computed, version=1), "json")
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    assert results.rows() == []


def test_c11_a_renamed_result_and_one_nested_without_end_are_none(tmp_path: Path) -> None:
    results = Results(tmp_path)
    path = path_of(tmp_path, results.once("linear", {"C": 1}, [], computed, version=1), "json")
    path.rename(path.with_name("0" * 16 + ".json"))
    path.write_text("[" * 200_000)
    assert results.rows() == []


def test_c11_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    results = Results(tmp_path)
    result = results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1)
    for ending, size in (("npz", LARGEST + 1), ("json", LARGEST_DOCUMENT + 1)):
        with path_of(tmp_path, result, ending).open("r+b") as file:
            file.truncate(size)
        with pytest.raises(ValueError, match=r"at most|found no file"):
            results.arrays(result.rows[0])
    assert results.rows() == []


@pytest.mark.parametrize("place", [{"question": "../elsewhere"}, {"result": "../../elsewhere"}, {"question": "/etc"}])
def test_c11_arrays_lie_where_their_row_says(tmp_path: Path, place: dict[str, Any]) -> None:
    results = Results(tmp_path / "store")
    result = results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1)
    np.savez(tmp_path / "elsewhere.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match="found no file"):
        results.arrays(replace(result.rows[0], **place))


def npy_file(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(16)


def test_c11_an_archive_cannot_ask_for_more_than_it_holds(tmp_path: Path) -> None:
    results = Results(tmp_path)
    result = results.once("linear", {}, [], lambda: computed(x=np.ones(2)), version=1)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 20))
    declared = bomb.getvalue().replace((1 << 20).to_bytes(4, "little"), (0xFFFFFFF0).to_bytes(4, "little"))
    archives = [declared]
    for member in (npy_file((1 << 40,)), npy_file((2,), "|O"), npy_file((-2, -1)), npy_file((1 << 70,), "|V0")):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x.npy", member)
        archives.append(file.getvalue())
    for data in archives:
        replace_arrays(tmp_path, result, data)
        with pytest.raises(ValueError, match="expected arrays without pickle"):
            results.arrays(result.rows[0])


def test_c14_the_table_holds_no_formula(tmp_path: Path) -> None:
    results = Results(tmp_path)
    hostile = replace(row(-0.25), backbone="=HYPERLINK(A1)", set="@pets/test", metric="-accuracy", low=-0.5)
    results.once("linear", {}, [], lambda: Computed(rows=[hostile]), version=1)
    results.write_table()
    with (tmp_path / "results" / "results.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["backbone"], line["set"], line["metric"]) == ("'=HYPERLINK(A1)", "'@pets/test", "'-accuracy")
    assert (line["value"], line["low"], line["high"]) == ("-0.25", "-0.5", "0.6")


def test_b7_nothing_that_stays_is_made_for_its_owner_alone() -> None:
    """What `tempfile` makes has mode 0600 or 0700, and keeps it where it is renamed into place."""
    private = re.compile(r"^(?!\s*>>>).*\b(mkstemp|mkdtemp|NamedTemporaryFile)\(", re.MULTILINE)
    for folder in ("store", "extract", "retrieval", "probes", "pipelines"):
        for path in (Path(__file__).parents[2] / folder).rglob("*.py"):
            assert not private.search(path.read_text(encoding="utf-8")), path
