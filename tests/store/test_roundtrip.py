"""Whatever can be stored comes back: any rows, shapes, dtypes, chunk sizes, ids and labels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from featurebank.store import FeatureSet, FeatureSetWriter, Output, Records

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
COLUMN_DTYPES = st.sampled_from(["?", "<i1", "<u2", "<i4", "<u8", "<f2", "<f4", "<f8"])


@st.composite
def feature_sets(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    n = draw(st.sampled_from([1, 2, 3, 17, 64, 129, 2048, 2049, 5000]))
    outputs, values = [], {}
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    for k in range(draw(st.integers(1, 3))):
        output = Output(
            name=f"o{k}",
            shape=draw(st.sampled_from([(), (1,), (3,), (8,), (2, 5), (33,), (4, 1, 4)])),
            dtype=draw(st.sampled_from(["float16", "float32"])),
        )
        outputs.append(output)
        values[output.name] = generator.standard_normal((n, *output.shape)).astype(output.dtype)
    label_shape = draw(st.sampled_from([(n,), (n, 1), (n, 3)]))
    unique = draw(st.lists(TEXT, min_size=1, max_size=5, unique=True))
    columns = {
        f"c{k}": draw(hnp.arrays(dtype, n, elements=None, fill=st.nothing()) if n < 4 else st.just(np.ones(n, dtype)))
        for k, dtype in enumerate(draw(st.lists(COLUMN_DTYPES, max_size=3)))
    }
    columns["text"] = np.array([unique[row % len(unique)] for row in range(n)])
    records = Records(
        ids=[f"{unique[row % len(unique)]}{row}" if row >= len(unique) else f"{row} {unique[row]}" for row in range(n)],
        labels=generator.integers(-(2**62), 2**62, label_shape),
        content_hash=generator.integers(0, 256, (n, 16), np.uint8),
        columns=columns,
    )
    settings = {
        "key": draw(st.dictionaries(TEXT, JSON, max_size=4)),
        "provenance": draw(st.dictionaries(TEXT, JSON, max_size=4)),
        "outputs": outputs,
        "records": records,
        "chunk_bytes": draw(st.sampled_from([1, 4096, 10_000, 2 << 20])),
    }
    return settings, values


@given(feature_sets(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_round_trip(made: tuple[dict[str, Any], dict[str, NDArray[Any]]], order: Any) -> None:
    arguments, values = made
    records: Records = arguments["records"]
    n = len(records.ids)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        with FeatureSetWriter.create(path, **arguments) as writer:
            chunks = [(name, index) for name in values for index in range(writer.n_chunks(name))]
            order.shuffle(chunks)
            for name, index in chunks:
                rows = writer.chunk_rows(name)
                writer.write_chunk(name, index, values[name][index * rows : (index + 1) * rows])
            writer.mark_ok(0, n)
            writer.seal().close()
        with FeatureSet(path) as fs:
            for name, expected in values.items():
                np.testing.assert_array_equal(fs[name], expected, strict=True)
                np.testing.assert_array_equal(fs.load(name), expected, strict=True)
                assert fs.chunk_rows(name) == n or fs.chunk_rows(name) & (fs.chunk_rows(name) - 1) == 0
            assert fs.ids.tolist() == list(records.ids)
            np.testing.assert_array_equal(fs.labels, records.labels, strict=True)
            np.testing.assert_array_equal(fs.content_hash, records.content_hash, strict=True)
            for name, column in records.columns.items():
                np.testing.assert_array_equal(fs.columns[name], column)
                assert fs.columns[name].dtype.kind == column.dtype.kind
            assert fs.manifest == {"key": arguments["key"], "provenance": arguments["provenance"]}
            assert fs.verify().ok
        with h5py.File(path, "r") as file:
            for name, expected in values.items():
                np.testing.assert_array_equal(file["outputs"][name][()], expected, strict=True)
