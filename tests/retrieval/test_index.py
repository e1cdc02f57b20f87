"""FAISS indexes: against the exact search, their files, and everything a stale or damaged file may do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurebank.retrieval import _features, _index_files
from featurebank.retrieval import index as index_module
from featurebank.retrieval.index import FeatureIndex, StaleIndexError, content_fingerprint
from featurebank.retrieval.search import nearest

pytest.importorskip("faiss")


def features(seed: int = 0, rows: int = 1500) -> Any:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((40, 32))
    return (centres[generator.integers(0, 40, rows)] + generator.standard_normal((rows, 32)) / 2).astype(np.float16)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_the_flat_index_is_the_exact_search(metric: Any) -> None:
    gallery, queries = features(), features(1, 60)
    index = FeatureIndex.build(gallery, "Flat", fingerprint="a", metric=metric)
    scores, rows = index.search(queries, 20)
    expected, order = nearest(queries, gallery, 20, metric=metric)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert (rows == order).mean() > 0.995
    report = index.measure(queries, gallery, 20)
    assert report.recall > 0.995
    assert min(report.queries_per_second, report.exact_queries_per_second) > 0


@pytest.mark.parametrize(
    ("factory", "least"),
    [
        ("Flat", 0.999),
        ("HNSW16", 0.95),
        ("IVF16,Flat", 0.95),
        ("SQ8", 0.95),
        ("PQ8x4", 0.4),
        ("OPQ4,IVF8,PQ8x4", 0.3),
    ],
)
def test_kinds_find_what_they_should(factory: str, least: float) -> None:
    gallery, queries = features(), features(1, 60)
    index = FeatureIndex.build(gallery, factory, fingerprint="a")
    assert index.measure(queries, gallery).recall >= least
    assert len(index) == 1500


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_rescoring_all_candidates_is_exact(metric: Any) -> None:
    gallery, queries = features(), features(1, 60)
    index = FeatureIndex.build(gallery, "IVF8,PQ4x4", fingerprint="a", metric=metric)
    scores, rows = index.search(queries, 10, nprobe=8, rescore=gallery, candidates=1500)
    expected, order = nearest(queries, gallery, 10, metric=metric)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert (rows == order).mean() > 0.99


def test_the_own_row_is_not_found_and_missing_rows_are_minus_one() -> None:
    gallery = features(rows=300)
    index = FeatureIndex.build(gallery, "IVF16,Flat", fingerprint="a")
    _, rows = index.search(gallery, 200, own=np.arange(300), nprobe=1)
    assert not (rows == np.arange(300)[:, None]).any()
    assert (rows[:, -1] == -1).all()
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in rows)


@pytest.mark.parametrize("factory", ["IVF64,Flat", "HNSW16"])
def test_more_effort_finds_more(factory: str) -> None:
    gallery, queries = features(), features(1, 60)
    index = FeatureIndex.build(gallery, factory, fingerprint="a")
    name = "nprobe" if "IVF" in factory else "ef_search"
    low, high = (index.measure(queries, gallery, 10, **{name: effort}).recall for effort in (1, 16))
    assert high > low


@pytest.mark.parametrize("factory", ["HNSW16", "IVF8,PQ8x4"])
def test_building_twice_gives_the_same_file(factory: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        FeatureIndex.build(features(), factory, fingerprint="a", train_rows=500, seed=3).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_training_takes_a_sample_and_adding_goes_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = features()
    whole = FeatureIndex.build(gallery, "IVF8,Flat", fingerprint="a", train_rows=400).search(gallery, 5)[1]
    monkeypatch.setattr(_features, "BLOCK_VALUES", 32 * 100)
    sizes: list[int] = []
    rows_of = _features.rows_of

    def spy(*args: Any) -> Any:
        block = rows_of(*args)
        sizes.append(len(block))
        return block

    monkeypatch.setattr(_features, "rows_of", spy)
    monkeypatch.setattr(index_module, "rows_of", spy)
    pieces = FeatureIndex.build(gallery, "IVF8,Flat", fingerprint="a", train_rows=400)
    assert sorted(set(sizes)) == [100, 400]
    np.testing.assert_array_equal(pieces.search(gallery, 5)[1], whole)


# Files.


def test_a_saved_index_is_read_back_and_grows(tmp_path: Path) -> None:
    first, second, queries = features(), features(2, 200), features(1, 20)
    index = FeatureIndex.build(first, "IVF8,Flat", fingerprint="a", metric="euclidean")
    index.save(tmp_path / "index")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "index.json"]
    again = FeatureIndex.load(tmp_path / "index", ["a"])
    np.testing.assert_array_equal(again.search(queries, 5)[1], index.search(queries, 5)[1])
    again.add(second, fingerprint="b")
    again.save(tmp_path / "index")
    grown = FeatureIndex.load(tmp_path / "index", ["a", "b"])
    assert [(part.fingerprint, part.rows) for part in grown.parts] == [("a", 1500), ("b", 200)]
    found = grown.search(second, 1, nprobe=8)[1][:, 0]
    assert (found == np.arange(1500, 1700)).all()
    with pytest.raises(ValueError, match="b is indexed already"):
        grown.add(second, fingerprint="b")


def test_an_index_of_other_features_is_refused(tmp_path: Path) -> None:
    FeatureIndex.build(features(), fingerprint="a").save(tmp_path / "index")
    with pytest.raises(StaleIndexError, match="must index b; it indexes a; build it again, or add"):
        FeatureIndex.load(tmp_path / "index", ["b"])


def test_a_damaged_index_never_reaches_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    FeatureIndex.build(features(), fingerprint="a").save(tmp_path / "index")
    data = bytearray((tmp_path / "index").read_bytes())
    data[40] ^= 1
    (tmp_path / "index").write_bytes(data)
    monkeypatch.setattr(faiss, "read_index", lambda _: pytest.fail("a damaged file was read"))
    with pytest.raises(ValueError, match="must have the hash"):
        FeatureIndex.load(tmp_path / "index", ["a"])
    (tmp_path / "index").unlink()
    with pytest.raises(FileNotFoundError, match="must be an index"):
        FeatureIndex.load(tmp_path / "index", ["a"])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"metric": "hamming"},
        {"parts": [{"fingerprint": "a"}]},
        {"parts": "a"},
        {"xxh3_128": None},
        {"dimensions": "32"},
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    FeatureIndex.build(features(), fingerprint="a").save(tmp_path / "index")
    record = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match="must be the record of an index in format 1"):
        FeatureIndex.load(tmp_path / "index", ["a"])


def test_a_record_that_disagrees_with_its_index_is_refused(tmp_path: Path) -> None:
    FeatureIndex.build(features(), fingerprint="a").save(tmp_path / "index")
    record = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(record | {"dimensions": 33}))
    with pytest.raises(ValueError, match="must hold 1500 rows of 33; found 1500 of 32"):
        FeatureIndex.load(tmp_path / "index", ["a"])
    for text in ("{", "[]"):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            FeatureIndex.load(tmp_path / "index", ["a"])
    (tmp_path / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json must be beside"):
        FeatureIndex.load(tmp_path / "index", ["a"])


def test_the_content_fingerprint_follows_values_shape_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = features()
    whole = content_fingerprint(rows)
    monkeypatch.setattr(_index_files, "PIECE", 640)
    assert content_fingerprint(rows) == whole
    changed = rows.copy()
    changed[-1, -1] += 1
    others = (changed, rows.reshape(-1, 16), rows.view(np.float32).reshape(-1, 16), rows[:-1])
    assert len({whole, *(content_fingerprint(other) for other in others)}) == 5


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factory": "HNWS32"}, "such as Flat, HNSW32.*found 'HNWS32'"),
        ({"factory": "PQ5"}, "fits D = 32"),
        ({"factory": "IVF4096,Flat"}, "1500 rows must suffice to train IVF4096,Flat"),
        ({"factory": "IVF8,Flat", "train_rows": 0}, "at least 1"),
        ({"metric": "dot"}, "one of cosine, inner_product, euclidean"),
        ({"device": "tpu"}, "one of cpu, cuda"),
    ],
)
def test_bad_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureIndex.build(features(), **({"factory": "Flat", "fingerprint": "a"} | options))


def test_bad_searches_are_refused() -> None:
    index = FeatureIndex.build(features(), fingerprint="a")
    for call, message in (
        (lambda: index.search(np.ones((1, 31)), 1), "index's D = 32; found 31"),
        (lambda: index.search(np.full((1, 32), np.nan), 1), "queries must be finite"),
        (lambda: index.search(np.ones((1, 32)), 1501), "between 1 and the 1500"),
        (lambda: index.search(np.ones((1, 32)), 1, own=[0, 1]), "one row for each"),
        (lambda: index.search(np.ones((1, 32)), 1, nprobe=4), "Flat must be a kind of index that has nprobe"),
        (lambda: index.search(np.ones((1, 32)), 1, rescore=np.ones((2, 32))), "the 1500 indexed rows; found 2"),
        (lambda: index.add(np.full((1, 32), np.inf), fingerprint="b"), "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert len(index) == 1500


def test_without_faiss_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"featurebank\[retrieval\]"):
        FeatureIndex.build(features(), fingerprint="a")


def test_cuda_needs_a_gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    with pytest.raises(ValueError, match=r"featurebank\[gpu\]"):
        FeatureIndex.build(features(), fingerprint="a", device="cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_cuda_finds_what_the_cpu_finds_and_saves_for_it(factory: str, tmp_path: Path) -> None:
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        pytest.skip("FAISS has no GPU build")
    index = FeatureIndex.build(features(), factory, fingerprint="a", device="cuda")
    index.save(tmp_path / "index")
    again = FeatureIndex.load(tmp_path / "index", ["a"])
    here, there = (
        some.search(features(1, 60), 10, nprobe=4 if "IVF" in factory else None)[1] for some in (again, index)
    )
    assert (here == there).mean() > 0.99
