"""One's own features: what is added is what is read, once, and nothing else is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from command_line import featurebank_
from numpy.typing import NDArray

from featurebank.store import (
    ExistsError,
    FeatureSet,
    FeatureSetWriter,
    FeatureStore,
    InvalidInputError,
    LockedError,
    NonFiniteError,
    Records,
    _sources,
)
from featurebank.store.fingerprint import content_hash

N, D = 300, 24
X = np.random.default_rng(0).normal(size=(N, D))
Y = np.arange(N) % 3
NAMES = ["business", "sport", "world"]
MADE = {"name": "all-MiniLM-L6-v2", "version": 2}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


@pytest.fixture
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sources, "_AT_ONCE", 500)


def files(store: FeatureStore) -> dict[Path, str]:
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in store.root.rglob("*") if p.is_file()}


def test_d7_three_lines_write_a_set(store: FeatureStore) -> None:
    fs = store.add("agnews/train", "minilm", features=X, labels=Y, class_names=NAMES, key=MADE, provenance={"gpu": 1})
    np.testing.assert_array_equal(fs["pooled"], X.astype(np.float16), strict=True)
    np.testing.assert_array_equal(fs.labels, Y, strict=True)
    assert (fs.dataset, fs.split, fs.backbone, fs.class_names) == ("agnews", "train", "minilm", NAMES)
    assert fs.ids.tolist() == [str(row) for row in range(N)]
    assert fs.ok.all()
    assert (fs.key["made_with"], fs.provenance["made_with"]) == (MADE, {"gpu": 1})
    assert bytes(fs.content_hash[7]) == content_hash(X[7].astype(np.float16).tobytes())
    assert store.verify()[0].ok
    with store.open("agnews/train", "minilm") as again:
        assert again.fingerprint == fs.fingerprint
    assert [entry.is_own for entry in store] == [True]


def blocks(values: Any, sizes: list[int]) -> Iterator[Any]:
    start = 0
    for size in sizes:
        yield (
            {n: v[start : start + size] for n, v in values.items()}
            if isinstance(values, dict)
            else values[start : start + size]
        )
        start += size


@pytest.mark.usefixtures("small_stretches")
@pytest.mark.parametrize("named", [False, True])
def test_d7_blocks_and_slices_give_the_very_same_set(tmp_path: Path, *, named: bool) -> None:
    values: Any = {"pooled": X, "tokens": X.reshape(N, 2, 12) / 3} if named else X
    whole = FeatureStore(tmp_path / "whole").add("a/train", "net", values, labels=Y)
    with h5py.File(tmp_path / "given.h5", "w") as file:
        lazy: Any = {
            name: file.create_dataset(name, data=v) for name, v in ({"pooled": X} | (values if named else {})).items()
        }
        ways = {
            "generator": blocks(values, [1, 7, 0, 250, 42]),
            "list": list(blocks(values, [150, 150])),
            "HDF5": lazy if named else lazy["pooled"],
        }
        for way, given in ways.items():
            made = FeatureStore(tmp_path / way).add("a/train", "net", given, labels=Y)
            assert made.fingerprint == whole.fingerprint, way
            for name in whole.outputs:
                np.testing.assert_array_equal(made[name], whole[name], strict=True)
            assert not [*(tmp_path / way).rglob("*.layout")]


@pytest.mark.usefixtures("small_stretches")
def test_d7_a_stream_is_never_held_whole(store: FeatureStore) -> None:
    alive: list[int] = []

    class Block(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            alive.pop()

    def stream() -> Iterator[NDArray[Any]]:
        for number in range(50):
            block = np.full((10, 4), number + 1.0).view(Block)
            alive.append(number)
            assert len(alive) <= 3, "blocks are kept"
            yield block
            del block

    assert store.add("a/train", "net", stream(), n_rows=500)["pooled"][::10, 0].tolist() == [*range(1, 51)]


def test_d7_the_same_again_does_nothing(store: FeatureStore) -> None:
    given: dict[str, Any] = {"labels": Y, "class_names": NAMES, "columns": {"length": Y * 0.5}, "key": MADE}
    given["head"] = (np.ones((3, D), np.float32), np.zeros(3, np.float32))
    first = store.add("a/train", "net", X, **given)
    before = files(store)
    assert store.add("a/train", "net", X.astype(np.float32), **given).fingerprint == first.fingerprint
    assert store.add("a/train", "net", blocks(X, [N]), **given, provenance={"day": 2}).path == first.path
    assert files(store) == before


def test_d7_the_order_of_a_mapping_is_none(store: FeatureStore) -> None:
    first = store.add("a/train", "net", {"pooled": X, "cls": X * 2})
    swapped = store.add("a/train", "net", ({"cls": X * 2, "pooled": X} for _ in range(1)), n_rows=N)
    assert (swapped.fingerprint, len(store)) == (first.fingerprint, 1)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"features": X + 1}, "features"),
        ({"class_names": [*NAMES[:2], "science"]}, "class names"),
        ({"columns": {"length": Y}}, "columns"),
        ({"columns": {}}, "columns"),
        ({"head": (np.ones((3, D), np.float32), np.zeros(3, np.float32))}, "a head"),
    ],
)
def test_d7_something_else_is_refused_and_what_is_there_is_kept(
    store: FeatureStore, changed: dict[str, Any], found: str
) -> None:
    given: dict[str, Any] = {"features": X, "labels": Y, "class_names": NAMES, "columns": {"length": Y * 0.5}}
    given["content_hash"] = np.arange(N * 16, dtype=np.uint64).astype(np.uint8).reshape(N, 16)
    store.add("a/train", "net", **given)
    before = files(store)
    with pytest.raises(ExistsError, match=f"with other {found}, and is kept; say in `key`"):
        store.add("a/train", "net", **{**given, **changed})
    assert files(store) == before


def test_d7_other_features_are_a_newer_content_and_another_key_lies_beside(store: FeatureStore) -> None:
    first = store.add("a/train", "net", X, labels=Y)
    second = store.add("a/train", "net", X + 1, labels=Y)
    with store.open("a/train", "net") as newest:
        assert (newest.fingerprint, newest.older) == (second.fingerprint, (first.fingerprint,))
    store.add("a/train", "net", X, labels=Y, key=MADE)
    assert len(store) == 3


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"features": X * 1e6}, NonFiniteError, r"finite in float16; found .* in 300 rows: .*dtype='float32'"),
        ({"features": X * 1e300, "dtype": "float32"}, NonFiniteError, "finite in float32; found .*; scale them"),
        ({"features": np.where(X[5, 2] == X, np.nan, X)}, NonFiniteError, "found nan in 1 row: 5; leave such rows out"),
        (
            {"features": X * 1e-12},
            InvalidInputError,
            "digits in float16; found only numbers below 6.1e-05 in 300 rows.*float32",
        ),
        ({"features": X * 1e-42, "dtype": "float32"}, InvalidInputError, "digits in float32; .*; scale them"),
        ({"features": np.where(Y[:, None] == 1, X, 5e-6)}, InvalidInputError, "in 200 rows: 0, 2, 3, 5"),
        ({"features": np.ma.masked_less(X, 0)}, InvalidInputError, "a number everywhere; found masked ones"),
        ({"features": X[:, 0]}, InvalidInputError, r"\(rows, numbers, …\).*found pooled \(300,\)"),
        ({"features": {"labels": X}}, InvalidInputError, "none of labels, rows; found 'labels'"),
        ({"features": X[:0]}, InvalidInputError, "at least one record"),
        ({"features": X[:, :0]}, InvalidInputError, "positive ints"),
        ({"features": {}}, InvalidInputError, "at least one output"),
        ({"features": {"a": X, "b": X[1:]}}, InvalidInputError, "as many rows in each output"),
        ({"features": X.astype(str)}, InvalidInputError, "'pooled' must be real numbers; found <U"),
        ({"features": [[1.0], [1.0, 2.0]]}, InvalidInputError, "what NumPy makes an array of"),
        ({"features": "x.npy"}, InvalidInputError, "an array, a mapping of outputs, or blocks of them; found str"),
        ({"features": X, "labels": Y[1:]}, InvalidInputError, "300 features, 299 labels"),
        ({"features": X, "ids": ["a"] * N}, InvalidInputError, "ids must be distinct"),
        ({"features": X, "labels": Y / 2}, InvalidInputError, "whole numbers, .*found float64"),
        ({"features": X, "labels": np.array(NAMES)[Y]}, InvalidInputError, "names go into class_names.*return_inverse"),
        (
            {"features": X, "labels": Y, "class_names": NAMES[:2]},
            InvalidInputError,
            "of the 2 class_names; found 0 to 2",
        ),
        ({"features": X, "labels": Y - 2}, InvalidInputError, "found -2 to 0"),
        ({"features": X, "class_names": ["a", "a"]}, InvalidInputError, "distinct strings"),
        ({"features": X, "dtype": "float64"}, InvalidInputError, "float16 or float32; found 'float64'"),
        ({"features": X, "content_hash": np.zeros((N, 8), np.uint8)}, InvalidInputError, r"shape \(300, 16\)"),
        ({"features": iter([X])}, InvalidInputError, "must be known before; found none; give n_rows"),
        ({"features": iter([X]), "n_rows": 301}, InvalidInputError, "301 rows together; found 300"),
        ({"features": iter([X, X]), "n_rows": N}, InvalidInputError, "300 rows together; found more"),
        (
            {"features": iter([X, X[:, 1:]]), "n_rows": 2 * N},
            InvalidInputError,
            r"outputs of the first.*from row 300 on",
        ),
        ({"features": iter([X, X * 1e6]), "n_rows": 2 * N}, NonFiniteError, "in 300 rows: 300, 301"),
        ({"features": iter([]), "n_rows": 2}, InvalidInputError, "at least one output and one row"),
    ],
)
def test_d7_what_cannot_be_stored_is_one_clear_error(
    store: FeatureStore, given: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        store.add("a/train", "net", **given)
    assert not store.root.exists() or files(store) == {}
    with pytest.raises(InvalidInputError, match="'dataset/split'; found 'a'"):
        store.add("a", "net", X)


def test_d7_a_fault_while_writing_leaves_nothing(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureSetWriter, "mark_ok", fails)
    with pytest.raises(KeyboardInterrupt):
        store.add("a/train", "net", X)
    assert files(store) == {}


def test_d7_the_leavings_of_a_killed_process_are_written_anew(store: FeatureStore) -> None:
    with store.add("a/train", "net", X, labels=Y) as made:
        key, path, data = made.key, Path(str(made.path)), files(store)
        records = Records(ids=made.ids.tolist(), labels=made.labels, content_hash=made.content_hash)
    path.unlink()
    left = FeatureSetWriter.create(path, key=key, outputs=[made.info("pooled")], records=records)
    with pytest.raises(LockedError):
        store.add("a/train", "net", X, labels=Y)
    left.close()
    with store.add("a/train", "net", X, labels=Y) as again:
        np.testing.assert_array_equal(again["pooled"], X.astype(np.float16))
    assert files(store).keys() == data.keys()


def test_d7_every_verb_works_on_sets_of_ones_own(store: FeatureStore, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    centres = np.random.default_rng(1).normal(size=(3, D)) * 3
    head = (centres.astype(np.float32), np.zeros(3, np.float32))
    for split, shift in (("train", 0.0), ("test", 0.5)):
        features = X + centres[Y] + shift
        store.add(f"agnews/{split}", "minilm", features, labels=Y, class_names=NAMES, head=head)
    store.add("music/test", "minilm", X * 4, key={})
    place = ("--store", store.root, "--json")
    probed = featurebank_("probe", "agnews", "--task", "knn", *place)
    assert probed.code == 0, probed.err
    retrieved = featurebank_("retrieve", "agnews/test:train", "--backbone", "minilm", *place)
    assert retrieved.code == 0, retrieved.err
    scored = featurebank_("ood", "agnews", "--ood", "music", "--score", "knn", "--score", "msp", *place)
    assert scored.code == 0, scored.err
    assert len(featurebank_("ls", *place).json["sets"]) == 3
    assert featurebank_("verify", *place).code == 0
    exported = featurebank_("export", "agnews/test", "minilm", tmp_path / "out", *place)
    assert exported.code == 0, exported.err
    assert featurebank_("show", "agnews/test", "minilm", *place).json["manifest"]["key"]["backbone"]["name"] == "minilm"


def test_d7_zeros_and_small_numbers_beside_larger_ones_are_kept(store: FeatureStore) -> None:
    values = np.array([[0.0, -0.0], [1e-9, 1.0], [65504.0, -65504.0], [6.2e-5, 0.0]])
    masked = np.ma.masked_equal([3, 1, 2, 0], 1)
    fs = store.add("a/train", "net", values, labels=masked)
    np.testing.assert_array_equal(fs["pooled"], values.astype(np.float16))
    assert fs.labels.tolist() == [3, -1, 2, 0]


def write_in(store: FeatureStore, size: int, **given: Any) -> FeatureSet:
    with store.writer("a/train", "net", class_names=NAMES, key=MADE) as writer:
        for start in range(0, N, size):
            rows = slice(start, start + size)
            writer.write(X[rows], **{name: values[rows] for name, values in given.items()})
        return writer.seal()


def test_d7_batches_of_a_number_that_nobody_knows_give_the_very_same_set(tmp_path: Path) -> None:
    texts = [f"text {'é' * (row % 7)}{row}" for row in range(N)]
    ids = [f"row {row}" for row in range(N)]
    whole = FeatureStore(tmp_path / "whole").add(
        "a/train", "net", X, labels=Y, ids=ids, class_names=NAMES, key=MADE, content_hash=texts
    )
    streamed = write_in(FeatureStore(tmp_path / "streamed"), 7, labels=Y, ids=ids, content_hash=texts)
    assert streamed.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(streamed.X, X.astype(np.float16), strict=True)
    assert streamed.records_digest == whole.records_digest
    assert bytes(whole.content_hash[3]) == content_hash(texts[3].encode())
    assert "content" not in whole.provenance
    assert (
        write_in(FeatureStore(tmp_path / "streamed"), 300, labels=Y, ids=ids, content_hash=texts).path == streamed.path
    )


def test_d7_contents_may_be_bytes_and_unknown_ones_are_said_to_be(store: FeatureStore) -> None:
    sounds = [b"\x00" + bytes([row % 256, row // 256]) for row in range(N)]
    given = store.add("a/train", "net", X, content_hash=sounds)
    assert bytes(given.content_hash[7]) == content_hash(sounds[7])
    streamed = write_in(store, 50, content_hash=sounds)
    np.testing.assert_array_equal(streamed.content_hash, given.content_hash)
    assert store.add("b/train", "net", X).provenance["content"] == "unknown"


def test_d7_what_is_not_sealed_leaves_nothing(store: FeatureStore) -> None:
    with store.writer("a/train", "net") as writer:
        writer.write({"pooled": X[:5], "cls": X[:5]}, labels=Y[:5], columns={"length": Y[:5]})
        for features, more, text in (
            (X[5:9], {"labels": Y[5:9]}, r"outputs of the first.*from row 5 on"),
            (
                {"pooled": X[5:9], "cls": X[5:9]},
                {"labels": Y[5:9]},
                "labels, column length; found labels from row 5 on",
            ),
            (
                {"pooled": X[5:9], "cls": X[5:9]},
                {"labels": Y[:3], "columns": {"length": Y[5:9]}},
                "4 features, 3 labels",
            ),
        ):
            with pytest.raises(InvalidInputError, match=text):
                writer.write(features, **more)
        assert writer.n_rows == 5
        writer.write({"cls": X[5:9], "pooled": X[5:9] * 2}, labels=Y[5:9], columns={"length": Y[5:9]})
        assert files(store) == {}
        with writer.seal() as fs:
            np.testing.assert_array_equal(fs["pooled"][5:], (X[5:9] * 2).astype(np.float16))
            assert fs.columns["length"].tolist() == Y[:9].tolist()
    before = files(store)
    with store.writer("b/train", "net") as writer, pytest.raises(InvalidInputError, match="none written"):
        writer.seal()
    with store.writer("b/train", "net") as writer:
        writer.write(X)
    assert files(store) == before
