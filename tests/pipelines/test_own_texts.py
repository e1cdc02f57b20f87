"""Embeddings of texts from the first line to the page: added, probed, searched, scored, reported, read elsewhere."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import featurebank_
from serving import serving

from featurebank.extract import DatasetSpec, open_split
from featurebank.store import FeatureStore

sklearn = pytest.importorskip("sklearn")
CATEGORIES = ("Animals & Nature", "Food & Drink", "Smileys & Emotion", "Travel & Places")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Names of emoji by category: hashed groups of letters of each, added at once, and its words, in batches."""
    from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]

    store = FeatureStore(tmp_path_factory.mktemp("texts") / "features")
    emoji = open_split(DatasetSpec(name="emoji", split="google"))
    kept = [row for row, of in enumerate(emoji.columns["category"]) if of in CATEGORIES]
    order = np.random.default_rng(0).permutation(kept)
    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=384)
    words = HashingVectorizer(n_features=384)
    for split, rows in (("train", order[:-200]), ("test", order[-200:])):
        texts = [str(emoji.columns["name"][row]).lower() for row in rows]
        labels = np.array([CATEGORIES.index(str(emoji.columns["category"][row])) for row in rows])
        store.add(f"emoji-names/{split}", "letters", letters.transform(texts).toarray(), labels=labels,
                  class_names=CATEGORIES, columns={"text": texts}, content_hash=texts, dtype="float32")  # fmt: skip
        with store.writer(f"emoji-names/{split}", "words", class_names=CATEGORIES, dtype="float32") as writer:
            for start in range(0, len(texts), 100):
                some = texts[start : start + 100]
                given: Any = {"labels": labels[start : start + 100], "columns": {"text": some}, "content_hash": some}
                writer.write(words.transform(some).toarray(), **given)
            writer.seal().close()
    return store


def asked(store: FeatureStore, *words: Any) -> Any:
    done = featurebank_(*words, "--store", store.root, "--json")
    assert done.code == 0, done.err
    return done.json


def figures(page: Path) -> Iterator[tuple[str, ...]]:
    """Kind, text and caption of what a page shows."""
    shown = r'<figure class="(\w*)"[^>]*><blockquote>(.*?)</blockquote><figcaption title="([^"]*)"'
    for found in re.findall(shown, page.read_text(encoding="utf-8")):
        yield tuple(map(html.unescape, found))


def test_ten_lines_take_texts_in_and_probe_retrieve_score_and_report_them(store: FeatureStore, tmp_path: Path) -> None:
    pages = {name: tmp_path / f"{name}.html" for name in ("retrieve", "ood", "report")}
    probed = asked(store, "probe", "emoji-names", "--task", "knn")
    rows = {
        answer["backbone"]: row["value"]
        for answer in probed["answers"]
        for row in answer["rows"]
        if row["metric"] == "accuracy"
    }
    assert 0.5 < rows["letters"] < 1
    asked(store, "retrieve", "emoji-names/test:train", "--html", pages["retrieve"])
    asked(store, "ood", "emoji-names", "--id-classes", "Food & Drink,Smileys & Emotion", "--score", "knn",
          "--html", pages["ood"], "--resamples", 20)  # fmt: skip
    asked(store, "rank", "--resamples", 20)
    asked(store, "report", "-o", pages["report"])
    for name, page in pages.items():
        text = page.read_text(encoding="utf-8")
        assert "No images" not in text, name
        assert "data:image" not in text, name
        assert "<blockquote>" in text, name
    with store["emoji-names/test", "letters"] as test, store["emoji-names/train", "letters"] as train:
        known = {
            (f"{CATEGORIES[of]} · {one}", text)
            for fs in (test, train)
            for of, one, text in zip(fs.y.tolist(), fs.ids.tolist(), fs.columns["text"].tolist(), strict=True)
        }
    shown = list(figures(pages["retrieve"]))
    assert {kind for kind, _, _ in shown} == {"", "right", "wrong"}
    assert {(name, text) for _, text, name in shown} <= known
    assert len({text for _, text, _ in shown}) > 100


def test_another_project_reads_them_from_a_static_server(store: FeatureStore) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    from sklearn.linear_model import RidgeClassifier  # type: ignore[import-untyped]

    assert asked(store, "index")["sets"][0]["dataset"] == "emoji-names"
    with serving(store.root) as server:
        far = FeatureStore(server.url)
        with far["emoji-names/train", "letters"] as train, far["emoji-names/test", "letters"] as test:
            x, y, seen, truth = train.X, train.y, test.X, test.y
        score = RidgeClassifier(alpha=0.1).fit(x, y).score(seen, truth)
        sent, used = sum(server.sent), sum(array.nbytes for array in (x, y, seen, truth))
    with store["emoji-names/train", "letters"] as here, store["emoji-names/test", "letters"] as there:
        assert score == RidgeClassifier(alpha=0.1).fit(here.X, here.y).score(there.X, there.y) > 0.5
    assert sent <= 1.2 * used


def test_what_is_the_same_is_the_same_text_or_said_to_be_the_same_features(tmp_path: Path) -> None:
    other = FeatureStore(tmp_path)
    other.add("texts/a", "net", np.eye(3), content_hash=["one", "two", "three"])
    other.add("texts/b", "net", np.eye(3), content_hash=["three", "two", "four"])
    other.add("texts/c", "net", np.eye(3))
    (answer,) = asked(other, "duplicates", "texts/a:b", "--exact")["answers"]
    assert answer["notes"] == []
    assert [row["value"] for row in answer["rows"] if row["metric"] == "same_bytes"] == [2]
    (answer,) = asked(other, "duplicates", "texts/a:c", "--exact")["answers"]
    assert answer["notes"] == [
        "texts/c: the contents are unknown; rows of the same bytes are those of the same features"
    ]
