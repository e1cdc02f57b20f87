"""Exports, read back by the libraries whose formats they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import featurebank_
from feature_sets import FAILED_ROW, KEY, N_ROWS, make_records, make_sealed, make_values, make_writer

from featurebank.pipelines.keeping import export_formats
from featurebank.pipelines.keeping.export import write_export
from featurebank.store import (
    CorruptError,
    ExistsError,
    FeatureSet,
    FeatureStore,
    InvalidInputError,
    NotFoundError,
    Output,
    _records,
)
from featurebank.store.fingerprint import fingerprint

VALUES, RECORDS = make_values(), make_records()
OK = [row != FAILED_ROW for row in range(N_ROWS)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_formats, "_BLOCK", 10_000)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    make_sealed(store.path_for("demo", "test", "tiny/net", fingerprint(KEY))).close()
    return store


@pytest.fixture
def feature_set(store: FeatureStore) -> Any:
    with store.open("demo/test", "tiny/net", verify="first_touch") as feature_set:
        yield feature_set


def test_npy(feature_set: FeatureSet, tmp_path: Path) -> None:
    write_export(feature_set, tmp_path / "out", "npy")
    read = {path.stem: np.load(path, allow_pickle=False) for path in (tmp_path / "out").glob("*.npy")}
    for name, values in VALUES.items():
        np.testing.assert_array_equal(read[name], values, strict=True)
    assert read["id"].tolist() == list(RECORDS.ids)
    assert read["ok"].tolist() == OK
    np.testing.assert_array_equal(read["label"], RECORDS.labels, strict=True)
    np.testing.assert_array_equal(read["content_hash"], RECORDS.content_hash, strict=True)
    np.testing.assert_array_equal(read["column.place"], RECORDS.columns["place"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["fingerprint"], manifest["key"]) == (fingerprint(KEY), KEY)


def test_safetensors(feature_set: FeatureSet, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    path = tmp_path / "out.safetensors"
    assert write_export(feature_set, path, "safetensors") == path.stat().st_size
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["manifest"])["key"] == KEY
        read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    for name, values in VALUES.items():
        np.testing.assert_array_equal(read[name], values, strict=True)
    assert [row.tobytes().rstrip(b"\0").decode() for row in read["id"]] == list(RECORDS.ids)
    assert read["ok"].tolist() == OK
    np.testing.assert_array_equal(read["label"], RECORDS.labels, strict=True)
    np.testing.assert_array_equal(read["column.area"], RECORDS.columns["area"], strict=True)


def test_parquet(feature_set: FeatureSet, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    write_export(feature_set, path, "parquet")
    table = parquet.read_table(path, use_threads=False)
    assert parquet.ParquetFile(path).num_row_groups > 1
    for name, values in VALUES.items():
        rows = np.array(table[name].to_pylist(), np.float32).reshape(values.shape)
        np.testing.assert_array_equal(rows, values.astype(np.float32), strict=True)
    assert table["id"].to_pylist() == list(RECORDS.ids)
    assert table["ok"].to_pylist() == OK
    assert table["column.place"].to_pylist() == RECORDS.columns["place"].tolist()
    assert table["content_hash"].to_pylist()[5] == RECORDS.content_hash[5].tobytes()
    assert json.loads(table.schema.metadata[b"featurebank"])["key"] == KEY
    assert json.loads(table.schema.metadata[b"featurebank.shapes"])["tokens"] == [2, 32]


def test_duckdb_and_polars_read_the_parquet(feature_set: FeatureSet, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    write_export(feature_set, path, "parquet", ["pooled"])
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(config={"threads": 1}) as connection:
        (mean, count), *_ = connection.execute(
            f"select avg(pooled[2]), count(*) from '{path}' where ok and label = 1"  # noqa: S608
        ).fetchall()
    chosen = np.flatnonzero(np.array(OK) & (RECORDS.labels == 1))
    assert count == len(chosen)
    assert mean == pytest.approx(VALUES["pooled"][chosen, 1].astype(np.float64).mean(), rel=1e-6)
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(path).filter(polars.col("ok"))
    np.testing.assert_array_equal(frame["pooled"].to_numpy(), VALUES["pooled"][OK].astype(np.float32))


def test_hugging_face_datasets_loads_the_folder(
    feature_set: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    write_export(feature_set, tmp_path / "out", "hf", ["pooled", "blocks.9.cls"])
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="test", cache_dir=str(tmp_path / "cache"))
    loaded = loaded.with_format("numpy")
    np.testing.assert_array_equal(loaded[:]["pooled"], VALUES["pooled"].astype(np.float32))
    np.testing.assert_array_equal(loaded[:]["blocks.9.cls"], VALUES["blocks.9.cls"].astype(np.float32))
    assert list(loaded[:]["id"]) == list(RECORDS.ids)


def test_multi_label_sets(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import dataclasses

    labels = np.arange(2 * N_ROWS).reshape(N_ROWS, 2) % 2
    with make_sealed(tmp_path / "multi.h5", records=dataclasses.replace(RECORDS, labels=labels)) as feature_set:
        write_export(feature_set, tmp_path / "out.parquet", "parquet", ["pooled"])
    assert parquet.read_table(tmp_path / "out.parquet")["label"].to_pylist() == labels.tolist()


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors", "hf"])
def test_damaged_rows_are_not_exported(store: FeatureStore, tmp_path: Path, form: str) -> None:
    (entry,) = store.ls()
    data = bytearray(entry.path.read_bytes())
    data[data.index(VALUES["tokens"][20].tobytes())] ^= 1
    entry.path.write_bytes(data)
    before = sorted(tmp_path.iterdir())
    with (
        store.open("demo/test", "tiny/net", verify="first_touch") as feature_set,
        pytest.raises(CorruptError, match="chunk 1, rows 16 to 31"),
    ):
        write_export(feature_set, tmp_path / "out", form)
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_there_is_kept_and_names_are_checked(feature_set: FeatureSet, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ExistsError, match="already exists"):
        write_export(feature_set, tmp_path / "out", "npy")
    with pytest.raises(NotFoundError, match="did you mean 'pooled'"):
        write_export(feature_set, tmp_path / "new", "npy", ["poold"])
    with pytest.raises(InvalidInputError, match="one of npy, parquet, safetensors, hf; found 'csv'"):
        write_export(feature_set, tmp_path / "new", "csv")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_command(store: FeatureStore, tmp_path: Path) -> None:
    place = ("demo/test", "tiny/net", tmp_path / "out", "--store", store.root, "--output", "pooled")
    done = featurebank_("export", *place, "--json")
    assert done.code == 0, done.err
    assert (done.json["rows"], done.json["format"]) == (N_ROWS, "npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "pooled.npy"), VALUES["pooled"])
    assert not (tmp_path / "out" / "tokens.npy").exists()
    again = featurebank_("export", *place)
    assert (again.code, "already exists" in again.err) == (1, True)


# Names that records and columns have too, in either spelling, and those that the first way out would take.
TAKEN = ("label", "id", "ok", "content_hash", "reason", "column.place", "Label", "output.label", "POOLED", "pooled")


@pytest.fixture
def taken(tmp_path: Path) -> Any:
    outputs = [Output(name=name, shape=(k + 1,)) for k, name in enumerate(TAKEN)]
    with make_writer(tmp_path / "taken.h5", outputs=outputs) as writer:
        for k, output in enumerate(outputs):
            rows = writer.chunk_rows(output.name)
            for index in range(writer.n_chunks(output.name)):
                size = min(rows, N_ROWS - index * rows)
                writer.write_chunk(output.name, index, np.full((size, k + 1), k, np.float16))
        writer.mark_ok(0, N_ROWS)
        feature_set = writer.seal()
    with feature_set:
        yield feature_set


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors", "hf"])
def test_b6_outputs_and_records_never_share_a_name(taken: FeatureSet, tmp_path: Path, form: str) -> None:
    names = export_formats.written_names(taken, TAKEN)
    assert names["label"] == "output.label"
    assert (names["reason"], names["column.place"]) == ("reason", "output.column.place")
    assert (names["POOLED"], names["pooled"]) == ("POOLED", "output.pooled")
    assert len({name.casefold() for name in names.values()}) == len(TAKEN)
    write_export(taken, tmp_path / "out", form)
    read = _read(tmp_path / "out", form)
    for k, name in enumerate(TAKEN):
        np.testing.assert_array_equal(np.reshape(read.pop(names[name]), (N_ROWS, -1)), np.full((N_ROWS, k + 1), k))
    np.testing.assert_array_equal(read.pop("label"), RECORDS.labels)
    np.testing.assert_array_equal(read.pop("ok"), np.ones(N_ROWS, np.bool_))
    named = {"label_name"} if form in {"parquet", "hf"} else set()
    assert set(read) == {"id", "content_hash", "column.place", "column.area", "column.crowd"} | named


def _read(path: Path, form: str) -> dict[str, Any]:
    if form == "npy":
        return {file.stem: np.load(file, allow_pickle=False) for file in path.glob("*.npy")}
    if form == "safetensors":
        with pytest.importorskip("safetensors").safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    parquet = pytest.importorskip("pyarrow.parquet")
    (path,) = [path] if path.is_file() else path.rglob("*.parquet")
    return {name: column.to_pylist() for name, column in zip(*_columns(parquet.read_table(path)), strict=True)}


def _columns(table: Any) -> tuple[list[str], list[Any]]:
    return table.column_names, table.columns


def test_b6_the_command_says_what_was_renamed(taken: FeatureSet, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    place = store.path_for("demo", "test", "tiny/net", fingerprint(KEY))
    place.parent.mkdir(parents=True)
    place.write_bytes(Path(str(taken.path)).read_bytes())
    done = featurebank_(
        "export", "demo/test", "tiny/net", tmp_path / "out", "--output", "ok", "--output", "ok", "--store", store.root
    )
    assert (done.code, "output ok is written as output.ok" in done.out) == (0, True)
    assert len(list((tmp_path / "out").glob("output.*"))) == 1


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors", "hf"])
@pytest.mark.parametrize("kind", ["file", "empty folder", "folder", "link to nothing"])
def test_b6_what_appears_meanwhile_is_never_replaced(
    feature_set: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, kind: str
) -> None:
    target, own = tmp_path / "exports" / "out", export_formats.FORMATS[form]

    def appears(*given: Any) -> None:
        own(*given)
        if kind == "file":
            target.write_text("theirs")
        elif kind == "link to nothing":
            target.symlink_to("nowhere")
        else:
            target.mkdir()
            if kind == "folder":
                (target / "theirs").write_text("theirs")

    monkeypatch.setitem(export_formats.FORMATS, form, appears)
    with pytest.raises(ExistsError, match="already exists"):
        write_export(feature_set, target, form, ["pooled"])
    assert list(target.parent.iterdir()) == [target]
    if kind == "file":
        assert target.read_text() == "theirs"
    elif kind == "link to nothing":
        assert target.readlink() == Path("nowhere")
    else:
        assert [path.name for path in target.iterdir()] == ["theirs"] * (kind == "folder")


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors", "hf"])
def test_b6_many_ids_are_exported_like_few(
    feature_set: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    write_export(feature_set, tmp_path / "few", form, ["pooled"])
    monkeypatch.setattr(_records, "_LARGEST_STR", 10)
    with FeatureSet(feature_set.path, verify="first_touch") as many:
        assert many.ids.dtype.kind == "T"
        write_export(many, tmp_path / "many", form, ["pooled"])
    few, of_many = _read(tmp_path / "few", form), _read(tmp_path / "many", form)
    assert few.keys() == of_many.keys()
    for name, values in few.items():
        np.testing.assert_array_equal(values, of_many[name])


@pytest.mark.parametrize(
    ("name", "form", "written"),
    [
        ("out.parquet", None, "parquet"),
        ("out.PARQUET", None, "parquet"),
        ("out.safetensors", None, "safetensors"),
        ("out", None, "npy"),
        ("out.parquet", "parquet", "parquet"),
        ("out", "parquet", "parquet"),
        ("v1.2", "hf", "hf"),
    ],
)
def test_d5_the_suffix_says_the_format(
    store: FeatureStore, tmp_path: Path, name: str, form: str | None, written: str
) -> None:
    target = tmp_path / name
    asked = () if form is None else ("--format", form)
    done = featurebank_("export", "demo/test", "tiny/net", target, *asked, "--store", store.root, "--json")
    assert (done.code, done.json["format"]) == (0, written), done.err
    assert target.is_file() == (written in {"parquet", "safetensors"})
    assert (written == "npy") == (target / "pooled.npy").is_file()


@pytest.mark.parametrize(
    ("name", "form", "text"),
    [
        ("out.safetensors", "npy", "must be in the format of its suffix, safetensors; found npy"),
        ("out.parquet", "hf", "must be in the format of its suffix, parquet; found hf"),
        (
            "out.csv",
            None,
            "must be .parquet or .safetensors, or none for a folder of npy files; found '.csv'",
        ),
        ("out.npz", None, "found '.npz'; say with --format"),
    ],
)
def test_d5_a_suffix_of_another_format_writes_nothing(
    store: FeatureStore, tmp_path: Path, name: str, form: str | None, text: str
) -> None:
    asked = () if form is None else ("--format", form)
    done = featurebank_("export", "demo/test", "tiny/net", tmp_path / name, *asked, "--store", store.root)
    assert (done.code, text in " ".join(done.err.split())) == (2, True), done.err
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("form", ["parquet", "hf"])
def test_d5_parquet_has_the_names_of_the_labels(tmp_path: Path, form: str) -> None:
    pytest.importorskip("pyarrow")
    store, rows = FeatureStore(tmp_path), np.eye(4)
    given: dict[str, Any] = {"class_names": ["cat", "dog", "äf"]}
    one = store.add("pets/one", "net", rows, labels=[2, 0, -1, 1], **given)
    several = store.add("pets/several", "net", rows, labels=[[1, 0, 1], [0, 0, 0], [0, 1, -1], [1, 1, 1]], **given)
    unnamed = store.add("pets/unnamed", "net", rows, labels=[2, 0, -1, 1])
    read = []
    for name, feature_set in (("one", one), ("several", several), ("unnamed", unnamed)):
        write_export(feature_set, tmp_path / name, form)
        read.append(_read(tmp_path / name, form).get("label_name"))
    assert read == [["äf", "cat", None, "dog"], [["cat", "äf"], [], ["dog"], ["cat", "dog", "äf"]], None]
    named = one.to_pandas()["label_name"]
    assert (named.dropna().tolist(), named.isna().tolist()) == (["äf", "cat", "dog"], [False, False, True, False])
