"""Near duplicates against the whole matrix of cosines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featurebank.retrieval import _tiles
from featurebank.retrieval.duplicates import duplicate_groups, near_duplicates


def photographs(rows: int, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    scenes = np.random.default_rng(3).standard_normal((60, 12))
    return (scenes[generator.integers(0, 60, rows)] + 0.2 * generator.standard_normal((rows, 12))).astype(np.float16)


def cosines(left: Any, right: Any) -> Any:
    left, right = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] for x in (left, right))
    return left @ right.T


@pytest.fixture(params=["one tile", "many tiles"], autouse=True)
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(_tiles, "TILE_GALLERY", 64)
        monkeypatch.setattr(_tiles, "TILE_QUERIES", 64)


@pytest.mark.parametrize("threshold", [0.5, 0.95])
def test_all_pairs_within_a_set_are_found_once(threshold: float) -> None:
    features = photographs(300, 0)
    found = near_duplicates(features, threshold=threshold)
    matrix = cosines(features, features)
    expected = np.argwhere(np.triu(matrix >= threshold, 1))
    assert len(expected) > 10
    assert sorted(zip(found.first, found.second, strict=True)) == [tuple(pair) for pair in expected]
    np.testing.assert_allclose(found.similarity, matrix[found.first, found.second], atol=1e-6)
    assert (np.diff(found.similarity) <= 0).all()


def test_pairs_between_two_sets() -> None:
    train, test = photographs(200, 0), photographs(90, 1)
    test[17] = train[41]
    found = near_duplicates(test, train)
    assert (found.first[0], found.second[0], found.similarity[0]) == (17, 41, 1)
    expected = np.argwhere(cosines(test, train) >= 0.95)
    assert sorted(zip(found.first, found.second, strict=True)) == [tuple(pair) for pair in expected]


def test_identical_rows_are_found_at_a_threshold_of_one() -> None:
    features = np.concatenate([photographs(100, 0).astype(np.float32) / 3] * 2)
    features[:2] = 0
    found = near_duplicates(features, threshold=1)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert {(row, row + 100) for row in range(2, 100)} <= pairs
    assert not {0, 1} & {row for pair in pairs for row in pair}


def test_groups_are_what_the_pairs_connect() -> None:
    features = photographs(300, 0)
    groups = duplicate_groups(near_duplicates(features), 300)
    near = cosines(features, features) >= 0.95
    for _ in range(9):
        near = near @ near
    expected = {tuple(np.flatnonzero(row)) for row in near if row.sum() > 1}
    assert {tuple(group) for group in groups} == expected
    assert [len(group) for group in groups] == sorted((len(group) for group in groups), reverse=True)


def test_no_pairs_is_an_empty_result() -> None:
    assert len(near_duplicates(np.ones((1, 3))).first) == 0
    found = near_duplicates(np.eye(3))
    assert [len(part) for part in found] == [0, 0, 0]
    assert duplicate_groups(found, 3) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threshold": 0}, "above 0"), ({"threshold": 1.5}, "at most 1"), ({"max_pairs": 5}, "raise the threshold")],
)
def test_bad_input_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        near_duplicates(photographs(200, 0), **({"threshold": 0.5} | options))
    with pytest.raises(ValueError, match="same D"):
        near_duplicates(np.ones((2, 3)), np.ones((2, 4)))
