"""The reader: zero-copy views, fresh arrays, batches, datasets, pickling, forks."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import FAILED_ROW, KEY, N_ROWS, first_numbers, make_records, make_sealed, make_values
from hypothesis import given, settings
from hypothesis import strategies as st

from featurebank.store import FeatureSet, InvalidInputError, NotFoundError, NotSealedError
from featurebank.store.fingerprint import fingerprint

VALUES = make_values()
OK_ROWS = [row for row in range(N_ROWS) if row != FAILED_ROW]


def test_outputs_are_views_of_the_mapping(sealed: Path) -> None:
    with FeatureSet(sealed) as fs:
        view = fs["tokens"]
        assert np.shares_memory(view, fs["tokens"])
        assert not view.flags.owndata
        assert not view.flags.writeable
        assert view.flags.c_contiguous
        assert view.flags.aligned
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
        np.testing.assert_array_equal(view, VALUES["tokens"], strict=True)
        assert np.shares_memory(fs.labels, fs.labels)
        assert not fs.labels.flags.writeable
        assert not fs.ids.flags.writeable
        assert not fs.ok.flags.writeable


def test_views_share_the_page_cache_with_the_file(sealed: Path) -> None:
    with FeatureSet(sealed) as fs:
        view = fs["pooled"]
        data = bytearray(sealed.read_bytes())
        address = data.index(VALUES["pooled"][1].tobytes())
        with sealed.open("r+b") as file:
            file.seek(address)
            file.write(np.float16(-3).tobytes())
        assert view[1, 0] == -3


def test_views_outlive_the_feature_set(sealed: Path) -> None:
    fs = FeatureSet(sealed)
    view, ids = fs["pooled"], fs.ids
    fs.close()
    fs.close()
    np.testing.assert_array_equal(view, VALUES["pooled"])
    assert ids[0] == "images/ä000.png"
    for touch in (lambda: fs["pooled"], lambda: fs.labels, lambda: fs.load("pooled")):
        with pytest.raises(InvalidInputError, match="is closed; open it again"):
            touch()


def test_what_it_says_of_itself(sealed: Path) -> None:
    with FeatureSet(str(sealed)) as fs:
        assert (fs.dataset, fs.split, fs.backbone) == ("demo", "test", "tiny/net")
        assert (len(fs), fs.n_rows, fs.nbytes) == (N_ROWS, N_ROWS, sealed.stat().st_size)
        assert (fs.key, fs.provenance, fs.fingerprint) == (KEY, {}, fingerprint(KEY))
        assert [fs.chunk_rows(name) for name in fs.outputs] == [32, 16, 70]
        assert fs.status.tolist() == [2 if row == FAILED_ROW else 1 for row in range(N_ROWS)]
        assert repr(fs).startswith("FeatureSet(demo/test, tiny/net, 70 rows: pooled (64,), tokens (2, 32),")


def test_keys_of_any_shape_open(tmp_path: Path) -> None:
    provenance = {"class_names": ["a", "b"]}
    key = {"dataset": "mnist", "backbone": {"name": 3}}
    with make_sealed(tmp_path / "a.h5", key=key, provenance=provenance) as fs:
        assert (fs.dataset, fs.split, fs.backbone, fs.class_names) == ("", "", "", ["a", "b"])
    with make_sealed(tmp_path / "b.h5", key={"class_names": [1, 2]}) as fs:
        assert fs.class_names == []


def test_d13_a_set_is_a_container_of_its_outputs_and_as_long_as_its_rows(sealed: Path) -> None:
    with FeatureSet(sealed) as fs:
        assert (list(fs), len(fs)) == (list(fs.outputs), fs.n_rows)
        assert [name for name in ("pooled", "poold", 0) if name in fs] == ["pooled"]


def test_unknown_output_names_the_nearest(sealed: Path) -> None:
    with FeatureSet(sealed) as fs:
        with pytest.raises(NotFoundError, match="unknown output 'poold'; did you mean 'pooled'"):
            fs["poold"]
        with pytest.raises(KeyError):
            fs.batches(3, outputs=["nothing"])
        with pytest.raises(KeyError):
            fs.to_torch("nothing")


@pytest.mark.parametrize(
    "rows", [None, slice(3, 40, 2), [5, 5, -1], np.arange(70) % 3 == 0, np.array([69, 0], np.uint8), np.array([], int)]
)
def test_load_gives_fresh_arrays(sealed: Path, rows: Any) -> None:
    with FeatureSet(sealed) as fs:
        for name, values in VALUES.items():
            loaded = fs.load(name, rows)
            np.testing.assert_array_equal(loaded, values if rows is None else values[rows], strict=True)
            assert loaded.flags.writeable
            assert not np.shares_memory(loaded, fs[name])


@given(
    batch_size=st.integers(1, 80), shuffle=st.booleans(), seed=st.integers(0, 2**32), drop_failed=st.booleans(),
    outputs=st.sampled_from([None, ["pooled"], ["tokens", "pooled"], []]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_batches_have_every_row_once(  # noqa: PLR0917
    batch_size: int, shuffle: bool, seed: int, drop_failed: bool, outputs: list[str] | None, golden: Path
) -> None:
    labels = make_records().labels
    with FeatureSet(golden) as fs:
        batches = list(fs.batches(batch_size, outputs, shuffle=shuffle, seed=seed, drop_failed=drop_failed))
        again = list(fs.batches(batch_size, outputs, shuffle=shuffle, seed=seed, drop_failed=drop_failed))
    names = list(VALUES) if outputs is None else outputs
    rows = np.concatenate([batch["rows"] for batch in batches])
    expected = OK_ROWS if drop_failed else [*range(N_ROWS)]
    assert sorted(rows.tolist()) == expected
    assert shuffle or rows.tolist() == expected
    assert {len(batch["rows"]) for batch in batches[:-1]} <= {batch_size}
    for batch, other in zip(batches, again, strict=True):
        assert [*batch] == [*names, "labels", "rows"]
        np.testing.assert_array_equal(batch["rows"], other["rows"])
        np.testing.assert_array_equal(batch["labels"], labels[batch["rows"]])
        for name in names:
            np.testing.assert_array_equal(batch[name], VALUES[name][batch["rows"]], strict=True)
            assert batch[name].flags.writeable


def test_shuffles_differ_by_seed(sealed: Path) -> None:
    with FeatureSet(sealed) as fs:
        orders = {tuple(next(fs.batches(70, shuffle=True, seed=seed))["rows"].tolist()) for seed in range(5)}
        assert len(orders) == 5
        assert tuple(OK_ROWS) not in orders


def test_batches_refuse_at_once(sealed: Path) -> None:
    with FeatureSet(sealed) as fs, pytest.raises(InvalidInputError, match="at least 1; found 0"):
        fs.batches(0)


def test_dataset_items(sealed: Path) -> None:
    with FeatureSet(sealed) as fs:
        dataset = fs.to_torch("tokens", "pooled")
        assert len(dataset) == len(OK_ROWS)
        items = dataset.__getitems__([0, FAILED_ROW, 68])
        assert [item[-1] for item in items] == [0, 0, 1]
        for item, single, row in zip(items, (dataset[0], dataset[FAILED_ROW], dataset[-1]), (0, 18, 69), strict=True):
            for position, name in enumerate(("tokens", "pooled")):
                np.testing.assert_array_equal(item[position], VALUES[name][row], strict=True)
                np.testing.assert_array_equal(single[position], VALUES[name][row], strict=True)
                assert single[position].flags.writeable
            assert single[-1] == item[-1]
        assert len(fs.to_torch()[0]) == 4
        with pytest.raises(IndexError):
            dataset[69]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_it(sealed: Path, method: str) -> None:
    with FeatureSet(sealed) as fs, multiprocessing.get_context(method).Pool(2) as pool:
        expected = first_numbers(fs)
        assert pool.map_async(first_numbers, [fs] * 4).get(timeout=60) == [expected] * 4
        pool.close()
        pool.join()


def test_pickles_reopen_by_path(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sealed.parent)
    with FeatureSet(sealed.name) as fs:
        pickled = pickle.dumps((fs, fs.to_torch("pooled")))
    monkeypatch.chdir("/")
    assert len(pickled) < 4000
    fs, dataset = pickle.loads(pickled)  # noqa: S301
    np.testing.assert_array_equal(fs["pooled"], VALUES["pooled"])
    np.testing.assert_array_equal(dataset[5][0], VALUES["pooled"][5])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("verify", ["header", "first_touch"])
@pytest.mark.parametrize(("workers", "method"), [(0, None), (4, "fork"), (4, "spawn")])
def test_data_loader_takes_the_dataset(sealed: Path, workers: int, method: str | None, verify: Any) -> None:
    data = pytest.importorskip("torch.utils.data")
    if method == "spawn" and verify == "header":
        pytest.skip("starting four processes twice proves nothing more")
    with FeatureSet(sealed, verify) as fs:
        dataset = fs.to_torch("pooled", "blocks.9.cls")
        loader = data.DataLoader(dataset, batch_size=16, num_workers=workers, multiprocessing_context=method)
        batches = list(loader)
        np.testing.assert_array_equal(np.concatenate([b[0].numpy() for b in batches]), VALUES["pooled"][OK_ROWS])
        np.testing.assert_array_equal(np.concatenate([b[1].numpy() for b in batches]), VALUES["blocks.9.cls"][OK_ROWS])
        assert np.concatenate([b[2].numpy() for b in batches]).tolist() == [row % 2 for row in OK_ROWS]


def test_its_own_collating_gives_what_torch_gives(sealed: Path) -> None:
    data = pytest.importorskip("torch.utils.data")
    with FeatureSet(sealed) as fs:
        dataset = fs.to_torch("pooled", "blocks.9.cls")
        for rows in (dataset, data.Subset(dataset, range(1, 40, 3)), [dataset[row] for row in range(9)]):
            plain, own = (list(data.DataLoader(rows, 16, **how)) for how in ({}, {"collate_fn": dataset.collate}))
            assert len(plain) == len(own)
            for batch, other in zip(plain, own, strict=True):
                assert [(a.dtype, a.tolist()) for a in batch] == [(b.dtype, b.tolist()) for b in other]


def test_dask_reads_what_it_computes(sealed: Path) -> None:
    pytest.importorskip("dask.array")
    with FeatureSet(sealed) as fs:
        for name, values in VALUES.items():
            lazy = fs.to_dask(name)
            assert (lazy.shape, lazy.dtype, lazy.chunksize[0]) == (values.shape, values.dtype, fs.chunk_rows(name))
            np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), values, strict=True)
        tokens = fs.to_dask("tokens")
        part = tokens[5:40:7, 1].sum(axis=0).compute(scheduler="synchronous")
        np.testing.assert_allclose(part, VALUES["tokens"][5:40:7, 1].sum(axis=0))
        assert tokens.name == fs.to_dask("tokens").name
        copy = pickle.loads(pickle.dumps(tokens))  # noqa: S301
        np.testing.assert_array_equal(copy.compute(scheduler="synchronous"), VALUES["tokens"])
        with pytest.raises(NotFoundError, match="did you mean 'tokens'"):
            fs.to_dask("token")


def test_partial_is_pointed_out(sealed: Path) -> None:
    sealed.rename(sealed.with_name("demo.h5.partial"))
    with pytest.raises(NotSealedError, match="resume and seal it first"):
        FeatureSet(sealed)


def test_file_descriptors_are_given_back(sealed: Path) -> None:
    def count() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    FeatureSet(sealed).close()
    before = count()
    for _ in range(20):
        FeatureSet(sealed)
        FeatureSet(sealed).close()
        with pytest.raises(NotFoundError):
            FeatureSet(sealed / "absent")
    assert count() == before


READING = """
import sys
from featurebank.store import FeatureSet, FeatureStore
fs = FeatureSet(sys.argv[1])
fs["pooled"].max(), fs.ids, fs.columns, next(fs.batches(3, shuffle=True)), fs.to_torch()[0]
FeatureStore(".").ls()
print([name for name in ("torch", "h5py", "sklearn", "PIL", "pandas") if name in sys.modules])
"""


def test_reading_needs_neither_torch_nor_h5py(sealed: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READING, str(sealed)], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_masks_must_fit(sealed: Path) -> None:
    with FeatureSet(sealed) as fs, pytest.raises(InvalidInputError, match=r"must have shape \(70,\); found \(69,\)"):
        fs.load("pooled", np.ones(69, bool))


def test_d13_a_data_frame_has_every_row_by_its_id(sealed: Path) -> None:
    pytest.importorskip("pandas")
    with FeatureSet(sealed) as fs:
        assert len(fs) == N_ROWS
        frame = fs.to_pandas("pooled", "tokens", "blocks.9.cls")
        assert frame.index.tolist() == fs.ids.tolist()
        assert [*frame.columns[:6]] == ["label", "label_name", "ok", "column.area", "column.crowd", "column.place"]
        assert frame["label_name"].tolist() == [("cat", "dog")[label] for label in fs.labels]
        np.testing.assert_array_equal(frame["ok"], fs.ok)
        np.testing.assert_array_equal(frame["column.area"], fs.columns["area"])
        np.testing.assert_array_equal(frame["pooled.63"], fs["pooled"][:, 63].astype(np.float32))
        np.testing.assert_array_equal(frame["tokens.1.31"], fs["tokens"][:, 1, 31])
        np.testing.assert_array_equal(frame["blocks.9.cls"], fs["blocks.9.cls"].astype(np.float32))
        assert frame.shape == (N_ROWS, 6 + 64 + 64 + 1)
        assert fs.to_pandas().shape == (N_ROWS, 6)
        with pytest.raises(NotFoundError, match="did you mean 'pooled'"):
            fs.to_pandas("poold")


def test_d13_a_data_frame_without_pandas_is_one_line(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    text = "a data frame needs pandas: pip install pandas"
    with FeatureSet(sealed) as fs, pytest.raises(InvalidInputError, match=text):
        fs.to_pandas()
