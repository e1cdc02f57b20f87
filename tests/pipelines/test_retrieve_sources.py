"""``featurebank retrieve`` on rows from elsewhere: another dataset, joined outputs, a part of each class, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import words
from probe_sets import clusters, write_set
from retrieval_sets import cosine_lists, list_metrics, retrieve, retrieve_json, values_of

from featurebank.retrieval import PCAWhitening, concatenate, evaluate, l2_normalise, two_level_split
from featurebank.store import FeatureStore


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


# a gallery of another dataset


@pytest.fixture
def two(store: FeatureStore) -> FeatureStore:
    """Pets of three classes, and a shelter that has these in another order and one more."""
    values, labels = clusters(30, noise=0.9)
    write_set(store, "pets/test", "net", values, labels, class_names=["ant", "bee", "cat"])
    values, labels = clusters(40, noise=0.9, seed=1)
    write_set(
        store, "shelter/all", "net", values, np.array([3, 2, 1])[labels], class_names=["dog", "cat", "bee", "ant"]
    )
    return store


def test_classes_of_two_datasets_are_compared_by_name(two: FeatureStore) -> None:
    found = retrieve_json(two, "pets/test", "--gallery", "shelter/all")
    queries, gallery = two.open("pets/test", "net"), two.open("shelter/all", "net")
    names = [np.array(opened.class_names)[opened.labels] for opened in (queries, gallery)]
    expected = list_metrics(cosine_lists(queries["pooled"], gallery["pooled"]), *names)
    assert {name: values_of(found)[name] for name in expected} == pytest.approx(expected)
    (one,) = found["answers"]
    assert (one["queries"], one["gallery"]) == ("pets/test", "shelter/all")
    assert one["notes"] == ["pets/test numbers its classes otherwise than shelter/all: they are matched by name"]
    assert {(row["train"], row["set"]) for row in one["rows"]} == {("pets/test", "shelter/all")}
    assert one["rows"][0]["fingerprints"] == [queries.fingerprint, gallery.fingerprint]
    assert retrieve_json(two, "pets/test", "--gallery", "shelter/all")["answers"][0]["known"]
    text = words(retrieve(two, "pets/test", "--gallery", "shelter/all", "--recipes").out)
    assert "retrieve (labels): pets/test in shelter/all: map" in text
    assert "PCA learned on shelter/all, the gallery" in text


def test_the_same_set_as_gallery_is_a_single_set(two: FeatureStore) -> None:
    once = retrieve_json(two, "pets/test")
    twice = retrieve_json(two, "pets/test", "--gallery", "pets/test")
    assert twice["answers"][0]["known"]
    assert twice["answers"][0]["rows"] == once["answers"][0]["rows"]


def test_classes_without_names(two: FeatureStore) -> None:
    write_set(two, "wild/all", "net", *clusters(40))
    done = retrieve(two, "pets/test", "--gallery", "wild/all")
    assert done.code == 1
    assert "found no class names in wild/all; name a column that says what is relevant: --by COLUMN" in words(done.out)
    write_set(two, "farm/all", "net", *clusters(20, seed=3))
    (one,) = retrieve_json(two, "farm/all", "--gallery", "wild/all")["answers"]
    assert one["notes"] == ["farm/all and wild/all name no classes: their numbers are taken to mean the same"]


def test_a_backbone_without_the_gallery_is_passed_over(two: FeatureStore) -> None:
    write_set(two, "pets/test", "other", *clusters(30), class_names=["ant", "bee", "cat"])
    write_set(two, "pets/test", "third", *clusters(30), class_names=["ant", "bee", "cat"], precision="float32")
    write_set(two, "shelter/all", "third", *clusters(30), class_names=["ant", "bee", "cat"], precision="float16")
    found = retrieve_json(two, "pets/test", "--gallery", "shelter/all", code=1)
    assert [one["backbone"] for one in found["answers"]] == ["net"]
    assert found["passed_over"] == [f"other has no shelter/all in {two.root}"]
    (failed,) = found["failed"]
    assert (failed["backbone"], failed["set"]) == ("third", "shelter/all")
    assert "must be made the same way" in failed["error"]
    for key in ("pets/test@other", "pets/test"):
        done = retrieve(two, key, "--gallery", "shelter/all", "--backbone", "other")
        assert done.code == 2
        assert "other has no shelter/all in" in words(done.err)
        assert "; extract it: featurebank features CONFIG" in words(done.err)


def test_a_fingerprint_chooses_among_galleries(two: FeatureStore) -> None:
    write_set(two, "shelter/all", "net", *clusters(12), class_names=["ant", "bee", "cat"])
    done = retrieve(two, "pets/test", "--gallery", "shelter/all")
    assert done.code == 1
    assert "several sets match" in words(done.out)
    chosen = next(entry for entry in two.ls(dataset="shelter") if entry.n_rows == 12)
    found = retrieve_json(two, "pets/test", "--gallery", "shelter/all", "--fingerprint", chosen.fingerprint[:8])
    assert found["answers"][0]["chosen"]["gallery"] == 12


# outputs joined


@pytest.mark.parametrize("failed", [[], [4]])
def test_joined_outputs_are_concatenated(store: FeatureStore, failed: list[int]) -> None:
    labels = clusters(40)[1]
    outputs = {"pooled": clusters(40, noise=0.9)[0], "cls": clusters(40, noise=0.9, seed=5, width=6)[0]}
    other = {name: 2 * values[::-1] for name, values in outputs.items()}
    write_set(store, "pets/test", "net", outputs, labels, failed=failed)
    write_set(store, "pets/train", "net", other, labels[::-1])
    kept = np.setdiff1d(np.arange(40), failed)
    joined = concatenate(outputs["pooled"][kept], outputs["cls"][kept])
    found = retrieve_json(store, "pets/test", "--output", "pooled+cls")
    assert found["tables"][0]["title"] == "retrieve (labels, pooled+cls): pets/test"
    assert values_of(found) == evaluate(joined, None, labels[kept]).values
    found = retrieve_json(store, "pets/test", "--output", "pooled+cls", "--whiten", "pets/train", "--components", 9)
    whitening = PCAWhitening(9).fit(l2_normalise(concatenate(other["pooled"], other["cls"])))
    assert values_of(found) == evaluate(whitening.transform(l2_normalise(joined)), None, labels[kept]).values
    pair = retrieve_json(store, "pets/train:test", "--output", "cls+pooled")
    train = concatenate(other["cls"], other["pooled"])
    swapped = concatenate(outputs["cls"][kept], outputs["pooled"][kept])
    assert values_of(pair) == evaluate(train, swapped, (labels[::-1], labels[kept])).values
    assert "retrieve (labels, pooled+cls): pets/test" in retrieve(store, "pets/test", "--output", "pooled+cls").out


def test_joined_outputs_must_be_there_and_vectors(store: FeatureStore) -> None:
    values, labels = clusters(12)
    write_set(store, "pets/test", "net", {"pooled": values, "tokens": np.ones((12, 2, 4), np.float16)}, labels)
    for names, message in (("pooled+cls", "unknown output 'cls'"), ("pooled+", "unknown output ''")):
        done = retrieve(store, "pets/test", "--output", names)
        assert (done.code, done.out) == (2, "")
        assert message in words(done.err)
    done = retrieve(store, "pets/test", "--output", "pooled+tokens")
    assert done.code == 1
    assert "expected one vector a row, found (2, 4) a row" in words(done.out)


# a part of each class


def test_bob_may_keep_the_first_rows_of_a_class(store: FeatureStore) -> None:
    values, labels = clusters(90, noise=0.9)
    write_set(store, "pets/test", "net", values, labels)
    found = retrieve_json(store, "pets/test", "--protocol", "bob", "--per-class", 10)
    ids = store.open("pets/test", "net").ids
    first, others = two_level_split(labels, ids, per_class=10)
    assert (len(first), len(others)) == (6, 24)
    expected = evaluate(values[first], values[others], (labels[first], labels[others]), protocol="bob").values
    assert values_of(found) == expected
    write_set(store, "pets/train", "net", values, labels)
    for arguments, message in (
        (("pets/test", "--per-class", 5), "per_class is for protocols that split a set, bob, bob-compat; found labels"),
        (("pets/train:test", "--protocol", "bob", "--per-class", 5), "--per-class is for a single set"),
        (("pets/test", "--protocol", "bob", "--per-class", 0), "per_class must be at least 1; found 0"),
    ):
        done = retrieve(store, *arguments)
        assert (done.code, done.out) == (2, "")
        assert message in words(done.err)


# queries of a file


@pytest.fixture
def images(store: FeatureStore) -> FeatureStore:
    values, labels = clusters(45, noise=0.5)
    names, kinds = ["ant", "bee", "cat"], np.array(["insect", "insect", "mammal"])
    write_set(
        store, "pets/test", "clip", values, labels, class_names=names, columns={"kind": kinds[labels]}, failed=[2]
    )
    return store


KEPT = np.setdiff1d(np.arange(45), [2])


def test_a_text_for_each_class(images: FeatureStore, tmp_path: Path) -> None:
    file = tmp_path / "prompts.npy"
    texts = np.eye(3, 8, dtype=np.float32)
    np.save(file, texts)
    found = retrieve_json(images, "pets/test", "--queries", file)
    gallery = images.open("pets/test", "clip")
    expected = evaluate(texts, gallery["pooled"][KEPT], (np.arange(3), gallery.labels[KEPT])).values
    assert values_of(found) == expected
    (one,) = found["answers"]
    assert (one["queries"], one["gallery"]) == ("prompts.npy", "pets/test")
    assert (one["rows"][0]["train"], one["rows"][0]["set"]) == ("prompts.npy", "pets/test")
    assert one["rows"][0]["fingerprints"] == [gallery.fingerprint]
    assert one["options"]["queries"].startswith("sha256:")
    assert found["tables"][0]["title"] == "retrieve (labels, queries of prompts.npy): prompts.npy in pets/test"
    assert retrieve_json(images, "pets/test", "--queries", file)["answers"][0]["known"]
    np.save(file, 2 * texts)
    assert not retrieve_json(images, "pets/test", "--queries", file)["answers"][0]["known"]
    assert "prompts.npy in pets/test" in retrieve(images, "pets/test", "--queries", file).out


def test_texts_with_labels_names_or_a_column(images: FeatureStore, tmp_path: Path) -> None:
    gallery = images.open("pets/test", "clip")
    texts = clusters(7, noise=0.5, seed=9)[0].astype(np.float32)
    numbers = np.array([0, 2, 1, 1, 0, 2, 2])
    expected = evaluate(texts, gallery["pooled"][KEPT], (numbers, gallery.labels[KEPT])).values
    file = tmp_path / "texts.npz"
    for labels in (numbers, np.array(["ant", "bee", "cat"])[numbers]):
        np.savez(file, features=texts, labels=labels)
        assert values_of(retrieve_json(images, "pets/test", "--queries", file)) == expected
    kinds = np.array(["mammal", "insect"])[np.arange(7) % 2]
    np.savez(file, features=texts, kind=kinds)
    found = retrieve_json(images, "pets/test", "--queries", file, "--by", "kind")
    columns = gallery.columns["kind"][KEPT]
    assert values_of(found) == evaluate(texts, gallery["pooled"][KEPT], (kinds, columns)).values


def test_a_caption_looks_for_its_own_image(images: FeatureStore, tmp_path: Path) -> None:
    gallery = images.open("pets/test", "clip")
    rows = np.array([3, 3, 40, 7])
    values = gallery["pooled"][KEPT].astype(np.float64)
    texts = (gallery["pooled"][rows] + 0.3 * np.random.default_rng(0).standard_normal((4, 8))).astype(np.float32)
    file = tmp_path / "captions.npz"
    np.savez(file, features=texts, ids=gallery.ids[rows])
    found = retrieve_json(images, "pets/test", "--queries", file, "--protocol", "cross-modal")
    cosines = (texts / np.linalg.norm(texts, axis=1, keepdims=True)) @ (
        values / np.linalg.norm(values, axis=1, keepdims=True)
    ).T
    own = np.searchsorted(KEPT, rows)
    ranks = (cosines > cosines[np.arange(4), own][:, None]).sum(1)
    expected = {f"hit_rate@{k}": float((ranks < k).mean()) for k in (1, 5, 10)}
    assert values_of(found) == pytest.approx(expected)
    assert found["answers"][0]["notes"] == ["pets/test: 1 of 45 rows left out: 1 failed"]
    more = ("--whiten", "pets/test", "--components", 6, "--expand", 3, "--rerank", "diffusion")
    assert retrieve_json(images, "pets/test", "--queries", file, *more)["ok"]
    assert retrieve(images, "pets/test", "--queries", file, "--recipes").code == 0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.ones((2, 8)), "labels": ["ant", "dog"]}, "class names of pets/test, found 'dog'"),
        ({"features": np.ones((2, 8)), "labels": [0, 1, 1]}, "expected labels (2,), one for each query, found (3,)"),
        (
            {"features": np.ones((2, 8)), "labels": [0, 1], "ids": ["a", "b"]},
            "labels and ids both say what is relevant",
        ),
        ({"features": np.ones((2, 8)), "ids": ["pets/test/00002"] * 2}, "expected ids of pets/test that have features"),
        ({"features": np.ones((2, 8)), "kind": ["insect"] * 2}, "expected labelled rows, found none among 2"),
        ({"features": np.ones((2, 5)), "labels": [0, 1]}, "queries and gallery must have the same D"),
        ({"features": np.full((2, 8), np.nan), "labels": [0, 1]}, "queries must be finite"),
        ({"texts": np.ones((2, 8))}, "expected features (M, D) of floats, found shape (0,)"),
        ({"features": np.ones((2, 8), int)}, "expected features (M, D) of floats, found shape (2, 8), dtype int64"),
        (np.ones((2, 8)), "expected a row for each of the 3 classes of pets/test, in their order; found 2; or write"),
        (b"no archive", "expected a .npz file of arrays without pickle"),
        (
            {"features": np.ones((2, 8)), "labels": np.array(["a", None])},
            "expected a .npz file of arrays without pickle",
        ),
    ],
)
def test_files_that_cannot_be_queries(images: FeatureStore, tmp_path: Path, arrays: Any, message: str) -> None:
    file = tmp_path / ("texts.npy" if isinstance(arrays, np.ndarray) else "texts.npz")
    if isinstance(arrays, bytes):
        file.write_bytes(arrays)
    elif isinstance(arrays, np.ndarray):
        np.save(file, arrays)
    else:
        np.savez(file, **arrays)
    done = retrieve(images, "pets/test", "--queries", file)
    assert done.code == 1
    assert message in words(done.out)


def test_queries_are_one_side_only(images: FeatureStore, tmp_path: Path) -> None:
    file = tmp_path / "texts.npy"
    np.save(file, np.eye(3, 8))
    write_set(images, "pets/train", "clip", *clusters(9))
    truth = tmp_path / "truth.json"
    truth.write_text("{}")
    for arguments, message in (
        (
            ("pets/train:test",),
            "--queries is the other side of a single set, DATASET/SPLIT; found pets/train in pets/test",
        ),
        (("pets/test", "--gallery", "pets/train"), "--queries and --gallery are two ways to name the other side"),
        (
            ("pets/test", "--html", tmp_path / "page.html"),
            "--html shows the images of queries; those of --queries have none",
        ),
        (
            ("pets/test", "--protocol", "roxford-hard", "--ground-truth", truth),
            "queries of a file say themselves what is relevant",
        ),
    ):
        done = retrieve(images, *arguments, "--queries", file)
        assert (done.code, done.out) == (2, "")
        assert message in words(done.err)
    done = retrieve(images, "pets/train:test", "--gallery", "pets/test")
    assert (done.code, done.out) == (2, "")
    assert "--gallery is the other side of a single set, DATASET/SPLIT; found pets/train:test" in words(done.err)


def test_text_features_of_open_clip(store: FeatureStore, tmp_path: Path) -> None:
    torch, open_clip = pytest.importorskip("torch"), pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
    with torch.inference_mode():
        pictures = model.encode_image(torch.rand(12, 3, 32, 32)).numpy()
        captions = [f"a photo of {name}" for name in ("an ant", "a bee", "a cat", "the cat")]
        texts = model.encode_text(open_clip.tokenize(captions, context_length=16)).numpy()
    write_set(store, "pets/test", "clip", pictures, np.arange(12) % 3, class_names=["ant", "bee", "cat"])
    file = tmp_path / "texts.npz"
    np.savez(file, features=texts, labels=["ant", "bee", "cat", "cat"])
    found = retrieve_json(store, "pets/test", "--queries", file)
    expected = list_metrics(cosine_lists(texts, pictures), np.array([0, 1, 2, 2]), np.arange(12) % 3)
    assert {name: values_of(found)[name] for name in expected} == pytest.approx(expected)
