"""Checks, subsets and the digest, on splits built by hand."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurebank.extract.datasets import DatasetSpec, Subset, dataset_digest, open_split
from featurebank.extract.datasets._records import ArraySplit, subset_rows
from featurebank.extract.errors import DatasetError
from featurebank.store.fingerprint import content_hash

SPEC = DatasetSpec(name="pets", split="train")


def split(spec: DatasetSpec = SPEC, **change: Any) -> ArraySplit:
    n = len(change.get("ids", "abcd"))
    pixels = np.random.default_rng(0).integers(0, 256, (max(n, 4), 2, 3), dtype=np.uint8)[:n]
    facts: dict[str, Any] = {"ids": list("abcd"), "labels": np.array([0, 1, 0, 1]), "pixels": pixels} | change
    return ArraySplit(spec, facts.pop("ids"), facts.pop("labels"), **facts, reopen=open_split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [], "labels": np.zeros(0)}, r"pets 'train': expected at least one record, found none"),
        ({"ids": ["a", "b", "b", "b"]}, r"ids must be distinct, found 1 more than once: 'b'"),
        ({"ids": ["a", "", "b", "c"]}, r"non-empty UTF-8 without NUL, found ''"),
        ({"ids": ["a", "x\0y", "b", "c"]}, r"without NUL, found 'x\\x00y'"),
        ({"ids": ["a", "x\udc80", "b", "c"]}, r"UTF-8 .*'x\\udc80'"),
        ({"labels": np.array([0, 1])}, r"expected labels of shape \(4,\) or \(4, L\), found \(2,\)"),
        ({"labels": np.zeros((4, 1, 1), np.int64)}, r"found \(4, 1, 1\)"),
        ({"labels": np.array([0, 1, 2, 1]), "class_names": ["cat", "dog"]}, r"0 to 1 \(2 class names\), found 0 to 2"),
        ({"labels": np.array([0, 1, -2, 1])}, r"labels must be -1 \(none\) or 0 upwards, found -2 to 1"),
        ({"labels": np.full((4, 2), 2)}, r"must be 0, 1 or -1 .* values 2 to 2"),
        ({"labels": np.ones((4, 3), np.int64), "class_names": ["cat", "dog"]}, r"each of the 2 classes"),
        ({"columns": {"weight": np.zeros(3)}}, r"column 'weight' must have shape \(4,\), found \(3,\)"),
        ({"pixels": np.zeros((3, 2, 2), np.uint8)}, r"expected 4 images of uint8, found 3 of uint8"),
        ({"pixels": np.zeros((4, 2, 2), np.float32)}, r"found 4 of float32"),
    ],
)
def test_what_a_split_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        split(**change)


def test_unlabelled_and_several_labels_are_allowed() -> None:
    assert split(labels=np.full(4, -1), class_names=["cat"]).labels.dtype == np.int64
    assert split(labels=np.eye(4, 2, dtype=np.int64), class_names=["cat", "dog"]).labels.shape == (4, 2)


@settings(max_examples=100, deadline=None)
@given(labels=st.lists(st.integers(-1, 4), min_size=1, max_size=60), data=st.data(), seed=st.integers(0, 5))
def test_stratified_shares_are_as_equal_as_whole_numbers_allow(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, len(labels)))
    rows = subset_rows(np.array(labels), Subset(size=size, seed=seed))
    assert len(set(rows.tolist())) == size
    assert (np.diff(rows) > 0).all()
    counts, kept = Counter(labels), Counter(labels[row] for row in rows)
    for label, count in counts.items():
        exact = size * count / len(labels)
        assert abs(kept[label] - exact) < 1
    np.testing.assert_array_equal(rows, subset_rows(np.array(labels), Subset(size=size, seed=seed)))


def test_largest_remainders_get_one_more_and_lower_labels_win_ties() -> None:
    labels = np.repeat([0, 1, 2, 3], [3, 3, 3, 1])
    kept = Counter(labels[subset_rows(labels, Subset(size=5))].tolist())
    assert kept == {0: 2, 1: 2, 2: 1}  # shares 1.5, 1.5, 1.5, 0.5: whole parts 1 1 1 0, remainders all equal


def test_a_subset_is_the_same_on_every_machine() -> None:
    labels = np.arange(20) % 4
    assert subset_rows(labels, Subset(size=6, seed=3)).tolist() == [1, 2, 8, 13, 16, 19]
    assert subset_rows(labels, Subset(size=6, seed=3, stratified=False)).tolist() == [3, 8, 12, 13, 16, 18]


def test_the_global_generator_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    subset_rows(np.arange(20) % 4, Subset(size=6))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("labels", [np.full(9, -1), np.eye(9, dtype=np.int64)])
def test_without_single_labels_the_draw_is_plain(labels: Any) -> None:
    plain = subset_rows(labels, Subset(size=5, seed=1, stratified=False))
    np.testing.assert_array_equal(subset_rows(labels, Subset(size=5, seed=1)), plain)


@pytest.mark.parametrize("size", [0, -1, 5])
def test_a_subset_must_fit(size: int) -> None:
    with pytest.raises(DatasetError, match=rf"pets 'train': a subset must have 1 to 4 records, got size {size}"):
        split(replace(SPEC, subset=Subset(size=size))).subset()


def test_a_subset_takes_everything_along() -> None:
    whole = split(columns={"age": np.arange(4)}, class_names=["cat", "dog"])
    part = split(
        replace(SPEC, subset=Subset(size=2)), columns={"age": np.arange(4)}, class_names=["cat", "dog"]
    ).subset()
    rows = [whole.ids.index(name) for name in part.ids]
    assert sorted(part.labels.tolist()) == [0, 1]
    assert part.columns["age"].tolist() == rows
    assert part.class_names == ["cat", "dog"]
    np.testing.assert_array_equal(part.content_hashes(), whole.content_hashes()[rows])
    again = whole.take(np.array([3, 1])).take(np.array([1]))
    np.testing.assert_array_equal(again.read(0), whole.read(1))
    assert again.ids == ["b"]


def test_the_digest_is_what_its_docstring_says() -> None:
    one = split(ids=["a", "é", "ccc", "d"], labels=np.array([[0, 1], [1, 1], [0, 0], [1, 0]]))
    body = b"featurebank dataset 1\n" + struct.pack("<Q4I", 4, 1, 2, 3, 1) + "aécccd".encode()
    body += struct.pack("<3Q8q", 2, 4, 2, 0, 1, 1, 1, 0, 0, 1, 0)
    body += b"".join(content_hash(one.read(row)) for row in range(4))
    assert dataset_digest(one) == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"ids": list("abce")},
        {"ids": list("bacd")},
        {"ids": ["ab", "c", "d", "e"]},
        {"labels": np.array([0, 1, 1, 1])},
        {"labels": np.array([[0], [1], [0], [1]])},
        {"pixels": np.zeros((4, 2, 3), np.uint8)},
        {"pixels": np.random.default_rng(0).integers(0, 256, (4, 2, 3), dtype=np.uint8).reshape(4, 3, 2)},
    ],
    ids=["id", "order", "lengths", "label", "shape", "pixels", "image-shape"],
)
def test_what_changes_the_digest(change: dict[str, Any]) -> None:
    assert dataset_digest(split(**change)) != dataset_digest(split())


def test_what_does_not_change_the_digest() -> None:
    other = split(replace(SPEC, name="cats", split="test"), class_names=["a", "b"], columns={"age": np.arange(4)})
    assert dataset_digest(other) == dataset_digest(split())
