"""``featurebank retrieve`` on small synthetic stores: numbers, exit codes, what is kept, what is said."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import featurebank_, words
from probe_sets import clusters, write_set
from retrieval_sets import cosine_lists, list_metrics, retrieve, retrieve_json, values_of

from featurebank.pipelines.asking.results import Results
from featurebank.pipelines.questions.retrieve.ranking import Descriptors, evaluate_index, open_index
from featurebank.probes.intervals import bootstrap_interval, cluster_interval
from featurebank.retrieval import (
    LabelRelevance,
    ListRelevance,
    PCAWhitening,
    augment_database,
    evaluate,
    expand_queries,
    l2_normalise,
    power_normalise,
    two_level_split,
)
from featurebank.retrieval.metrics import average_precision_at_k
from featurebank.retrieval.protocols import find_protocol
from featurebank.retrieval.ranks import exact_ranks
from featurebank.store import FeatureStore

ROWS = {"query": 24, "gallery": 45, "test": 45}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Two backbones on three splits of a dataset, the second noisier."""
    made = FeatureStore(tmp_path / "features")
    for backbone, noise in (("good", 0.3), ("poor", 0.9)):
        for seed, (split, n_rows) in enumerate(ROWS.items()):
            values, labels = clusters(n_rows, noise=noise, seed=seed)
            columns = {"place": np.array(["Köln", "Rom", ""])[np.arange(n_rows) % 7 % 3], "even": labels % 2 == 0}
            write_set(made, f"pets/{split}", backbone, values, labels, columns=columns, class_names=["a", "b", "c"])
    return made


def rows_of(store: FeatureStore, split: str, backbone: str = "poor") -> tuple[Any, Any]:
    opened = store.open(f"pets/{split}", backbone)
    return opened["pooled"], opened.labels


def assert_metrics(found: dict[str, float], expected: dict[str, float]) -> None:
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)


# what it computes


def test_each_row_is_a_query_among_the_others(store: FeatureStore) -> None:
    found = retrieve_json(store, "pets/test")
    assert [(r["backbone"], r["queries"], r["gallery"]) for r in found["answers"]] == [
        ("good", "pets/test", "pets/test"),
        ("poor", "pets/test", "pets/test"),
    ]
    values, labels = rows_of(store, "test")
    metrics = values_of(found, 1)
    assert_metrics(metrics, list_metrics(cosine_lists(values), labels, labels))
    assert next(iter(metrics)) == "map"
    assert {"hit_rate@10", "map@r", "ndcg"} <= set(metrics)
    assert values_of(found, 0)["map"] > metrics["map"]
    first = found["answers"][1]["rows"][0]
    per_query = evaluate(values, None, labels).per_query["map"]
    assert first["interval"] == list(bootstrap_interval(per_query))
    assert first["interval"][0] < first["value"] < first["interval"][1]
    assert found["answers"][1]["chosen"] == {"queries": 45, "without": 0, "gallery": 45}
    assert len(first["fingerprints"]) == 1


def test_queries_and_gallery_may_be_two_sets(store: FeatureStore) -> None:
    found = retrieve_json(store, "pets/query:gallery@poor")
    (one,) = found["answers"]
    (queries, labels), (gallery, others) = rows_of(store, "query"), rows_of(store, "gallery")
    assert_metrics(values_of(found), list_metrics(cosine_lists(queries, gallery), labels, others))
    assert (one["queries"], one["gallery"]) == ("pets/query", "pets/gallery")
    assert {(row["train"], row["test"], row["set"]) for row in one["rows"]} == {
        ("pets/query", "pets/gallery", "pets/gallery")
    }
    assert len(one["rows"][0]["fingerprints"]) == 2
    assert one["sets"] == {"queries": ["pets/query"], "gallery": ["pets/gallery"]}


def test_the_same_set_twice_is_one_set(store: FeatureStore) -> None:
    once, twice = (retrieve_json(store, key) for key in ("pets/test@good", "pets/test:test@good"))
    assert twice["answers"][0]["known"]
    assert twice["answers"][0]["rows"] == once["answers"][0]["rows"]


def test_a_column_may_say_what_is_relevant(store: FeatureStore) -> None:
    found = retrieve_json(store, "pets/query:gallery@poor", "--by", "place")
    (queries, _), (gallery, _) = rows_of(store, "query"), rows_of(store, "gallery")
    places = [store.open(f"pets/{split}", "poor").columns["place"] for split in ("query", "gallery")]
    known = [place != "" for place in places]
    lists = cosine_lists(queries[known[0]], gallery[known[1]])
    assert_metrics(values_of(found), list_metrics(lists, places[0][known[0]], places[1][known[1]]))
    lost = [int((~mask).sum()) for mask in known]
    assert found["answers"][0]["notes"] == [
        f"pets/query: {lost[0]} of 24 rows left out: {lost[0]} unlabelled",
        f"pets/gallery: {lost[1]} of 45 rows left out: {lost[1]} unlabelled",
    ]
    assert retrieve_json(store, "pets/test@poor", "--by", "even")["answers"][0]["rows"]


def test_better_descriptors_are_the_library_s_in_their_order(store: FeatureStore) -> None:
    options = ("--power", 0.5, "--whiten", "pets/query", "--components", 5, "--augment", 3, "--expand", "4:2")
    found = retrieve_json(store, "pets/test@poor", *options)
    recipe = "power 0.5, whitened on pets/query, gallery + 3, queries + 4 (alpha 2)"
    assert found["tables"][0]["title"] == f"retrieve (labels, {recipe}): pets/test"
    values, labels = rows_of(store, "test")
    whitening = PCAWhitening(5).fit(power_normalise(rows_of(store, "query")[0]))
    described = whitening.transform(power_normalise(values))
    gallery = augment_database(described, 3)
    own = np.arange(45)
    queries = expand_queries(described, gallery, 4, alpha=2, own=own)
    expected = evaluate(queries, gallery, LabelRelevance(labels, labels, own=own)).values
    assert values_of(found) == expected
    (one,) = found["answers"]
    assert len(one["rows"][0]["fingerprints"]) == 2
    assert (one["options"]["whiten"], one["options"]["expand"]) == ("pets/query", "4:2")


def test_whitening_alone_takes_unit_rows(store: FeatureStore) -> None:
    found = retrieve_json(store, "pets/query:gallery@poor", "--whiten", "pets/test")
    whitening = PCAWhitening().fit(l2_normalise(rows_of(store, "test")[0]))
    sets = [rows_of(store, split) for split in ("query", "gallery")]
    queries, gallery = (whitening.transform(l2_normalise(values)) for values, _ in sets)
    assert values_of(found) == evaluate(queries, gallery, (sets[0][1], sets[1][1])).values


@pytest.mark.parametrize("protocol", ["cub", "gldv2", "copydays", "cross-modal", "disc21"])
def test_protocols_by_name(store: FeatureStore, protocol: str) -> None:
    found = retrieve_json(store, "pets/query:gallery@poor", "--protocol", protocol)
    sets = [rows_of(store, split) for split in ("query", "gallery")]
    expected = evaluate(sets[0][0], sets[1][0], (sets[0][1], sets[1][1]), protocol=protocol).values
    assert values_of(found) == expected
    assert found["answers"][0]["options"]["protocol"] == protocol


def test_bob_splits_a_single_set(store: FeatureStore) -> None:
    found = retrieve_json(store, "pets/test@poor", "--protocol", "bob")
    values, labels = rows_of(store, "test")
    first, others = two_level_split(labels, store.open("pets/test", "poor").ids)
    expected = evaluate(values[first], values[others], (labels[first], labels[others]), protocol="bob").values
    assert values_of(found) == expected
    chosen = found["answers"][0]["chosen"]
    assert (chosen["queries"], chosen["gallery"]) == (9, 36)


def test_rows_without_a_label_distract_where_the_protocol_wants_them(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    values, labels = clusters(60, noise=0.9)
    labels[40:] = -1
    write_set(store, "copies/test", "net", values, labels, failed=[3])
    kept = np.delete(np.arange(60), 3)
    codes = np.where(labels < 0, 100 + np.arange(60), labels)[kept]
    found = retrieve_json(store, "copies/test", "--protocol", "copydays")
    assert values_of(found) == evaluate(values[kept], None, codes, protocol="copydays").values
    assert found["answers"][0]["notes"] == [
        "copies/test: 1 of 60 rows left out: 1 failed",
        "copies/test: 20 of 60 rows have no label and are there to distract",
        "copies/test: 20 of 59 queries have nothing relevant to find",
    ]


def test_a_ground_truth_lists_ids_by_level(tmp_path: Path) -> None:
    store, generator = FeatureStore(tmp_path / "features"), np.random.default_rng(0)
    queries, gallery = (generator.standard_normal((n, 8)).astype(np.float16) for n in (6, 50))
    write_set(store, "oxford/query", "net", queries, np.full(6, -1))
    write_set(store, "oxford/gallery", "net", gallery, np.full(50, -1), failed=[7])
    rows = [np.split(generator.permutation(50)[:20], [8, 14]) for _ in range(6)]
    truth: list[dict[str, Any]] = [dict(zip(("easy", "hard", "junk"), parts, strict=True)) for parts in rows]
    named = {
        f"oxford/query/{query:05}": {level: [f"oxford/gallery/{row:05}" for row in at] for level, at in entry.items()}
        for query, entry in enumerate(truth)
    }
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(named))
    command = ("oxford/query:gallery", "--protocol", "roxford-hard", "--ground-truth", file)
    found = retrieve_json(store, *command)
    kept = np.delete(np.arange(50), 7)
    place = {int(row): at for at, row in enumerate(kept)}
    moved = [{level: [place[r] for r in at.tolist() if r != 7] for level, at in entry.items()} for entry in truth]
    expected = evaluate(queries, gallery[kept], moved, protocol="roxford-hard").values
    assert values_of(found) == expected
    listed = sum(7 in at for entry in truth for at in entry.values())
    assert f"truth.json: {listed} of 120 listed rows have no features" in found["answers"][0]["notes"]
    assert found["answers"][0]["options"]["ground_truth"].startswith("sha256:")
    third = "oxford/query/00002"
    for text, message in (
        ("[1]", "found something else"),
        ("{", "found no JSON"),
        (json.dumps({**named, third: {"easy": []}}), "of query 'oxford/query/00002', found no hard, junk"),
        (json.dumps({**named, third: {"easy": ["x"], "hard": [], "junk": []}}), "found 1 others: 'x'"),
    ):
        file.write_text(text)
        done = retrieve(store, *command)
        assert done.code == 1
        assert message in words(done.out)


# re-ranking and indexes


@pytest.mark.parametrize("rerank", ["k-reciprocal", "diffusion"])
@pytest.mark.parametrize("depth", [None, 12])
@pytest.mark.parametrize("key", ["pets/test", "pets/query:gallery"])
def test_re_ranked_rows_come_first_and_the_others_follow_by_cosine(
    store: FeatureStore, key: str, depth: int | None, rerank: str
) -> None:
    from featurebank.retrieval import diffuse, rerank_k_reciprocal

    more = () if depth is None else ("--depth", depth)
    found = retrieve_json(store, f"{key}@poor", "--rerank", rerank, *more)
    itself = key == "pets/test"
    queries, labels = rows_of(store, "test" if itself else "query")
    gallery, others = (None, labels) if itself else rows_of(store, "gallery")
    by = diffuse if rerank == "diffusion" else rerank_k_reciprocal
    _, ranked = by(queries, gallery, depth or (44 if itself else 45))
    lists = [
        np.concatenate([first, [row for row in by_cosine if row not in first]]).astype(int)
        for first, by_cosine in zip(ranked, cosine_lists(queries, gallery), strict=True)
    ]
    assert_metrics(values_of(found), list_metrics(lists, labels, others))
    pairs = values_of(retrieve_json(store, f"{key}@poor", "--rerank", rerank, "--protocol", "disc21", *more))
    assert 0 < pairs["micro_ap"] < 1


def test_re_ranking_takes_small_galleries(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write_set(store, "few/test", "net", *clusters(6))
    for rerank in ("k-reciprocal", "diffusion"):
        assert values_of(retrieve_json(store, "few/test", "--rerank", rerank))["map"] > 0


@pytest.fixture(autouse=True)
def indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indexes are kept."""
    monkeypatch.setenv("FEATUREBANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "indexes"


def test_an_index_is_searched_kept_and_measured(store: FeatureStore, indexes: Path) -> None:
    pytest.importorskip("faiss")
    exact = values_of(retrieve_json(store, "pets/test@poor"))
    found = retrieve_json(store, "pets/test@poor", "--index", "Flat")
    assert values_of(found).pop("index_recall@10") > 0.99
    assert {name: values_of(found)[name] for name in exact} == pytest.approx(exact, abs=1e-3)
    assert "queries a second, the exact search" in found["answers"][0]["notes"][0]
    (file,) = indexes.glob("*.faiss")
    before = file.stat().st_mtime_ns
    assert retrieve(store, "pets/test@poor", "--index", "Flat", "--protocol", "cub").code == 0
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"damaged")
    assert retrieve(store, "pets/test@poor", "--index", "Flat", "--protocol", "sop").code == 0
    assert file.stat().st_size > 100
    assert len(store.ls()) == 6


def test_c11_an_index_in_a_store_is_not_read(
    store: FeatureStore, indexes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss = pytest.importorskip("faiss")
    retrieve_json(store, "pets/test@poor", "--index", "Flat")
    indexes.rename(store.root / "indexes")
    monkeypatch.setattr(faiss, "read_index", lambda _: pytest.fail("a store's index was read"))
    assert retrieve(store, "pets/test@poor", "--index", "Flat", "--protocol", "cub").code == 0


def test_b7_an_index_that_cannot_be_kept_serves_all_the_same(store: FeatureStore, indexes: Path) -> None:
    pytest.importorskip("faiss")
    indexes.parent.write_text("in the way")
    done = retrieve(store, "pets/test@poor", "--index", "Flat")
    assert (done.code, "the index is not kept: " in done.err) == (0, True)


def test_a4_metrics_of_cut_lists_have_their_depth_in_their_names(store: FeatureStore) -> None:
    pytest.importorskip("faiss")
    found = retrieve_json(store, "pets/query:gallery@poor", "--index", "Flat", "--depth", 6)
    (queries, labels), (gallery, others) = rows_of(store, "query"), rows_of(store, "gallery")
    lists = np.stack(cosine_lists(queries, gallery))[:, :6]
    right = others[lists] == labels[:, None]
    precision = right.cumsum(1) / np.arange(1, 7)
    first = np.where(right.any(1), 1 / (right.argmax(1) + 1), 0)
    discount = 1 / np.log2(np.arange(6) + 2)
    expected = {
        "map@6": float(((precision * right).sum(1) / 6).mean()),  # each query has 15 relevant rows
        "mrr@6": float(first.mean()),
        "ndcg@6": float((right @ discount / discount.sum()).mean()),
        "hit_rate@5": float(right[:, :5].any(1).mean()),
        "recall@5": float(right[:, :5].sum(1).mean() / 15),
    }
    values = values_of(found)
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-3)
    assert set(values) == {*expected, "hit_rate@1", "recall@1", "index_recall@10"}
    assert next(iter(values)) == "map@6"
    note = "lists of 6 rows of 45 do not show hit_rate@10, recall@10, map@r, r_precision: raise --depth"
    assert note in found["answers"][0]["notes"]
    kept = Results(store.root).arrays(next(row for row in Results(store.root).rows() if row.metric == "map@6"))
    assert kept["score"].mean() == pytest.approx(values["map@6"], rel=1e-6)
    whole = retrieve_json(store, "pets/query:gallery@poor", "--index", "Flat", "--depth", 20)
    assert {"map@20", "map@r", "r_precision"} <= set(values_of(whole))
    exact = values_of(retrieve_json(store, "pets/query:gallery@poor"))
    for name in set(values_of(whole)) & set(exact):
        assert values_of(whole)[name] == pytest.approx(exact[name], abs=1e-6), name


@pytest.mark.parametrize("protocol", ["copydays", "gldv2", "disc21"])
def test_a4_what_cut_lists_cannot_say_is_refused(store: FeatureStore, protocol: str) -> None:
    pytest.importorskip("faiss")
    done = retrieve(store, "pets/query:gallery@poor", "--index", "Flat", "--depth", 6, "--protocol", protocol)
    assert done.code == 1
    wanted = {
        "copydays": "needs more than the first 6 rows of each query for map_trapezoidal; raise --depth",
        "gldv2": "needs more than the first 6 rows of each query for map@100; raise --depth",
        "disc21": "ranks 10 candidates of each query, found lists of 6; raise --depth",
    }
    assert wanted[protocol] in words(done.out)
    done = retrieve(store, "pets/query:gallery@poor", "--rerank", "diffusion", "--depth", 6, "--protocol", "disc21")
    assert "found lists of 6; raise --depth" in words(done.out)


def test_an_index_that_visits_all_lists_finds_the_candidates_of_pairs(store: FeatureStore) -> None:
    pytest.importorskip("faiss")
    more = ("--index", "IVF4,Flat", "--nprobe", 4, "--protocol", "disc21")
    pairs = values_of(retrieve_json(store, "pets/query:gallery@poor", *more))
    assert pairs["micro_ap"] == pytest.approx(
        values_of(retrieve_json(store, "pets/query:gallery@poor", "--protocol", "disc21"))["micro_ap"], abs=1e-3
    )


def test_without_faiss_an_index_is_a_failure_with_advice(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    done = retrieve(store, "pets/test@good", "--index", "Flat")
    assert done.code == 1
    assert "an index needs faiss: pip install 'featurebank[retrieval]'" in words(done.out)


# what is kept


def test_a_second_run_computes_nothing_and_says_so(store: FeatureStore) -> None:
    first = retrieve_json(store, "pets/test", "pets/query:gallery")
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    done = retrieve(store, "pets/test", "pets/query:gallery")
    assert "Answers: 0 computed, 4 known already" in done.out
    assert "retrieve of good: pets/query -> pets/gallery: known" in done.err
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    again = retrieve_json(store, "pets/test", "pets/query:gallery")
    assert [r["known"] for r in first["answers"] + again["answers"]] == [False] * 4 + [True] * 4
    assert [r["rows"] for r in first["answers"]] == [r["rows"] for r in again["answers"]]


def test_other_settings_are_computed_and_the_same_ones_reproduce_to_the_last_digit(store: FeatureStore) -> None:
    first = retrieve_json(store, "pets/test@poor", "--expand", "5")
    for other in (("--expand", "5:0"), ("--seed", 1, "--expand", "5"), ("--protocol", "cub", "--expand", "5")):
        assert not retrieve_json(store, "pets/test@poor", *other)["answers"][0]["known"]
    for path in (store.root / "results").rglob("*.json"):
        path.unlink()
    again = retrieve_json(store, "pets/test@poor", "--expand", "5")
    rows = [[row | {"seconds": 0} for row in found["answers"][0]["rows"]] for found in (first, again)]
    assert rows[0] == rows[1]


def test_rows_and_the_metrics_of_each_query_are_read_back(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    values, labels = clusters(40, noise=0.9)
    labels[5] = 9
    write_set(store, "pets/test", "net", values, labels)
    found = retrieve_json(store, "pets/test")
    results = Results(store.root)
    row = next(row for row in results.rows() if row.metric == "map")
    assert (row.question, row.backbone, row.set) == ("retrieve", "net", "pets/test")
    kept = results.arrays(row)
    assert kept["score"].mean() == row.value == values_of(found)["map"]
    assert kept["rows"].tolist() == [at for at in range(40) if at != 5]
    assert kept["ids"][5] == "pets/test/00006"
    assert kept["hit_rate@1"].mean() == pytest.approx(values_of(found)["hit_rate@1"])
    assert found["answers"][0]["notes"] == ["pets/test: 1 of 40 queries have nothing relevant to find"]
    with (store.root / "results" / "results.csv").open(newline="") as file:
        assert {line["question"] for line in csv.DictReader(file)} == {"retrieve"}


# bad input


def test_the_table_says_what_was_left_out_once(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    values, labels = clusters(60)
    labels[50:] = -1
    for backbone in ("a", "b"):
        write_set(store, "odd/test", backbone, values, labels, failed=[1, 2, 59])
    done = retrieve(store, "odd/test")
    assert done.code == 0
    assert words(done.out).count("odd/test: 12 of 60 rows left out: 3 failed, 9 unlabelled") == 1
    assert "retrieve (labels): odd/test" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pest/test",), "unknown dataset 'pest'; did you mean 'pets'?"),
        (("pets/tset",), "unknown split of pets 'tset'; did you mean 'test'"),
        (("pets/query:galery",), "unknown split of pets 'galery'; did you mean 'gallery'"),
        (("pets/test@goot",), "unknown backbone of pets 'goot'; did you mean 'good'"),
        (("pets/test", "--output", "poold"), "unknown output 'poold'; did you mean 'pooled'?"),
        (("pets/test", "--protocol", "oxford-hard"), "did you mean roxford-hard?"),
        (("pets/test", "--protocol", "roxford-hard"), "protocol roxford-hard needs ground_truth, the hard rows"),
        (("pets/test", "--by", "plase"), "unknown column 'plase'; did you mean 'place'?"),
        (("pets/test", "--whiten", "pets/trian"), "unknown split of pets 'trian'"),
        (("pets/test", "--whiten", "birds"), "unknown dataset 'birds'"),
        (("pets/test", "--components", 3), "components is for whiten; found it without"),
        (("pets/test", "--depth", 3), "depth is for rerank or index; found it without"),
        (("pets/test", "--nprobe", 3), "nprobe is for index; found it without"),
        (("pets/test", "--shown", 3), "--shown must come with --html FILE; found none"),
        (("pets/test", "--expand", "45"), "--expand must be at most 44, the rows of pets/test that can be found"),
        (("pets/query:gallery", "--expand", "46"), "--expand must be at most 45, the rows of pets/gallery"),
        (("pets/query:gallery", "--augment", "45"), "--augment must be at most 44, the rows of pets/gallery"),
        (("pets/test", "--rerank", "diffusion", "--depth", 45), "--depth must be at most 44"),
        (("pets/test", "--expand", "ten"), "--expand must be N or N:ALPHA, such as 10 or 10:3; found 'ten'"),
        (("pets/test", "--expand", "0"), "expand must be at least 1; found 0"),
        (("pets/test", "--augment", "-1"), "augment must be at least 1; found -1"),
        (("pets/test", "--power", 1.5), "power must be above 0 and at most 1; found 1.5"),
        (("pets/test", "--rerank", "magic"), "rerank must be one of k-reciprocal, diffusion"),
        (("pets/test", "--rerank", "diffusion", "--index", "Flat"), "two ways to rank; give one of them"),
        (("pets/test", "--rerank", "diffusion", "--expand", 3), "or name two sets: DATASET/QUERY:GALLERY"),
        ((), "retrieve needs KEY, a dataset of the store: featurebank ls"),
    ],
)
def test_wrong_use_is_one_message_and_exit_2(store: FeatureStore, arguments: tuple[Any, ...], message: str) -> None:
    done = retrieve(store, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in words(done.err)
    assert not (store.root / "results").exists()


def test_a_store_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    done = featurebank_("retrieve", "pets/test", "--store", tmp_path / "nowhere")
    assert (done.code, done.out) == (2, "")
    assert "expected a store's folder, found nothing" in done.err


def test_a_ground_truth_wants_levels_and_two_sets(store: FeatureStore, tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    file.write_text("{}")
    for arguments, message in (
        (("pets/query:gallery", "--protocol", "cub"), "ground_truth is for protocols with levels"),
        (("pets/test", "--protocol", "rparis-easy"), "ground_truth needs two sets; found one"),
        (("pets/query:gallery", "--protocol", "bob", "--by", "place"), "give one of them"),
    ):
        done = retrieve(store, *arguments, "--ground-truth", file)
        assert (done.code, done.out) == (2, "")
        assert message in words(done.err)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(12, -1), "odd/test: expected labelled rows, found none among 12"),
        (np.arange(12), "at least one query must have something relevant in the gallery; found none among 12"),
        (np.zeros((12, 3), np.int64), "expected one class a row, found labels (3,) a row; name a column"),
    ],
)
def test_rows_that_cannot_be_retrieved_are_a_failure_with_its_reason(tmp_path: Path, labels: Any, message: str) -> None:
    store = FeatureStore(tmp_path)
    write_set(store, "odd/test", "net", clusters(12)[0], labels)
    done = retrieve(store, "odd/test")
    assert done.code == 1
    assert "failed" in done.out
    assert message in words(done.out)
    assert not (tmp_path / "results").exists()
    assert message in retrieve_json(store, "odd/test", code=1)["answers"][0]["error"]


def test_one_failure_does_not_stop_the_others(store: FeatureStore) -> None:
    write_set(store, "pets/test", "broken", clusters(9)[0], np.arange(9))
    write_set(store, "pets/gallery", "broken", *clusters(9), precision="float32")
    write_set(store, "pets/query", "broken", *clusters(9), precision="float16")
    done = retrieve(store, "pets/test", "pets/query:gallery")
    assert done.code == 1
    assert "retrieve of broken: at least one query must have something relevant" in words(done.out)
    assert "broken on pets/gallery: " in words(done.out)
    assert "Answers: 4 computed, 0 known already, 2 failed" in done.out


def test_columns_of_other_kinds_and_tokens_are_failures(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for split, column in (("query", np.array(["1", "2"] * 6)), ("gallery", np.arange(12) / 2)):
        tokens = np.ones((12, 2, 4), np.float16)
        outputs = {"pooled": clusters(12)[0], "tokens": tokens}
        write_set(store, f"odd/{split}", "net", outputs, np.arange(12) % 2, columns={"of": column})
    done = retrieve(store, "odd/query:gallery", "--by", "of")
    assert done.code == 1
    assert "must have the same kind of values in that column" in words(done.out)
    done = retrieve(store, "odd/query:gallery", "--output", "tokens")
    assert "expected one vector a row, found (2, 4) a row" in words(done.out)
    write_set(store, "odd/more", "net", *clusters(12))
    done = retrieve(store, "odd/query:gallery", "--whiten", "odd")
    assert (done.code, done.out) == (2, "")
    assert "--whiten must be one set, DATASET/SPLIT; found odd, which is odd/gallery, odd/more" in words(done.err)


# the same question asked in other ways


@pytest.mark.parametrize("key", ["pets/test", "pets/query:gallery"])
@pytest.mark.parametrize("protocol", ["labels", "cub", "instre", "copydays", "gldv2", "cross-modal", "disc21", "bob"])
def test_a4_the_exact_search_and_a_flat_index_in_full_depth_print_the_same(
    store: FeatureStore, key: str, protocol: str
) -> None:
    pytest.importorskip("faiss")
    asked = (f"{key}@poor", "--protocol", protocol)
    exact = values_of(retrieve_json(store, *asked))
    found = values_of(retrieve_json(store, *asked, "--index", "Flat"))
    assert found.pop("index_recall@10") > 0.99
    assert found == pytest.approx(exact, abs=1e-6)
    if protocol in ("labels", "cub", "instre"):
        cut = values_of(retrieve_json(store, *asked, "--index", "Flat", "--depth", 25))
        shared = set(cut) & set(exact)
        assert {name: cut[name] for name in shared} == pytest.approx({name: exact[name] for name in shared}, abs=1e-6)
        assert {"hit_rate@1", "map@r"} <= shared
        assert not {"map", "mrr", "ndcg"} & shared


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--power", 0.5),
        ("--whiten", "pets/query", "--components", 5),
        ("--augment", 3, "--expand", "4:2"),
        ("--rerank", "k-reciprocal", "--depth", 12),
        ("--rerank", "diffusion", "--depth", 12),
        ("--index", "Flat"),
    ],
)
def test_a4_rows_of_unit_length_and_scaled_rows_print_the_same(tmp_path: Path, options: tuple[Any, ...]) -> None:
    if "--index" in options:
        pytest.importorskip("faiss")
    store, generator = FeatureStore(tmp_path), np.random.default_rng(0)
    for seed, split in enumerate(("query", "test")):
        values, labels = clusters(30, noise=0.7, seed=seed)
        raw = values.astype(np.float32)
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        scaled = unit * generator.choice([0.25, 1, 8], (30, 1)).astype(np.float32)
        for backbone, rows in (("raw", raw), ("scaled", scaled), ("unit", unit)):
            write_set(store, f"pets/{split}", backbone, rows, labels)
    found = retrieve_json(store, "pets/test", *options)
    raw_values, *others = (values_of(found, index) for index in range(3))
    for printed in others:
        assert printed == pytest.approx(raw_values, abs=1e-6)


def test_a4_junk_does_not_shorten_the_lists() -> None:
    pytest.importorskip("faiss")
    generator = np.random.default_rng(0)
    queries, gallery = (generator.standard_normal((n, 8)).astype(np.float32) for n in (6, 50))
    rows = [np.split(generator.permutation(50)[:30], [6, 12]) for _ in range(6)]
    relevance = ListRelevance([row[0] for row in rows], 50, junk=[row[2] for row in rows])
    descriptors = Descriptors(queries=queries, gallery=gallery, own=np.full(6, -1))
    index = open_index(gallery, "Flat", None)
    protocol = find_protocol("labels")
    found, _, _ = evaluate_index(index, descriptors, relevance, protocol, depth=20)
    exact = evaluate(queries, gallery, relevance).values
    assert {name: found.values[name] for name in ("recall@10", "map@r")} == pytest.approx(
        {name: exact[name] for name in ("recall@10", "map@r")}, abs=1e-6
    )
    (_, ranks), *_ = exact_ranks(queries, gallery, relevance)
    assert found.values["map@20"] == pytest.approx(average_precision_at_k(ranks, 20).mean(), abs=1e-6)


# what intervals are over


def test_a9_intervals_say_what_is_drawn(store: FeatureStore) -> None:
    (one,) = retrieve_json(store, "pets/test@poor")["answers"]
    kinds = {row["metric"]: row["interval_kind"] for row in one["rows"]}
    assert kinds["map"] == "queries, bootstrap"
    assert kinds["hit_rate@1"] == kinds["hit_rate@5"] == "queries, Wilson"
    done = retrieve(store, "pets/test@poor", "--protocol", "instre")
    assert "95 % intervals: queries, bootstrap (map, map@r, r precision); queries, Wilson (hit rate@1" in words(
        done.out
    )
    with (store.root / "results" / "results.csv").open(newline="") as file:
        assert {line["interval"] for line in csv.DictReader(file)} == {"queries, bootstrap", "queries, Wilson"}


def test_a9_classes_may_be_drawn_instead_of_queries(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    values, labels = clusters(240, classes=24, noise=0.4, width=32)
    values[labels < 12] = clusters(240, classes=24, noise=0.05, width=32)[0][labels < 12]  # half of the classes is easy
    columns = {"camera": np.array(["a", "b", "c", "d"])[np.arange(240) // 60]}
    write_set(store, "birds/test", "net", values, labels, columns=columns)
    rows, by_class = (
        {row["metric"]: row for row in retrieve_json(store, "birds/test", *more)["answers"][0]["rows"]}
        for more in ((), ("--cluster", "class"))
    )
    kept = Results(store.root).arrays(next(row for row in Results(store.root).rows() if row.metric == "map"))
    expected = cluster_interval(kept["map"], labels)
    assert by_class["map"]["interval"] == pytest.approx(list(expected), abs=1e-6)
    assert {row["interval_kind"] for row in by_class.values()} == {"classes, bootstrap"}
    assert by_class["map"]["value"] == rows["map"]["value"]
    low, high = (np.diff(found["map"]["interval"])[0] for found in (rows, by_class))
    assert high > 1.5 * low
    (one,) = retrieve_json(store, "birds/test", "--cluster", "camera")["answers"]
    assert one["rows"][0]["interval_kind"] == "values of camera, bootstrap"
    assert one["notes"] == ["--cluster camera: intervals over 4 clusters only are narrower than they should be"]
    done = retrieve(store, "birds/test", "--cluster", "camara")
    assert "unknown column of birds/test 'camara'; did you mean 'camera'?" in words(done.out)
    (one,) = retrieve_json(store, "birds/test", "--by", "camera", "--cluster", "class")["answers"]
    assert "intervals over 4 clusters only" in one["notes"][0]
