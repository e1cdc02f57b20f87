"""Nearest neighbours against the sorted similarity matrix, the probes against scikit-learn and DINO's formula."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid  # type: ignore[import-untyped]
from sklearn.utils.estimator_checks import estimator_checks_generator  # type: ignore[import-untyped]

from featurebank.probes import _rows, neighbours
from featurebank.probes.neighbours import KNNProbe, NearestClassMean, knn_sweep
from featurebank.retrieval import _device, _tiles
from featurebank.retrieval.search import nearest

DEVICES = ("cpu", "cpu:0")  # the latter as on an accelerator
UNKNOWN: Any = "unknown"
HALF: Any = 1.5


def digits() -> tuple[Any, Any, Any, Any]:
    x, y = load_digits(return_X_y=True)
    return x[:900].astype(np.float16), y[:900], x[900:].astype(np.float16), y[900:]


def sorted_similarities(queries: Any, gallery: Any, metric: str) -> tuple[Any, Any]:
    """The whole matrix in float64, each row sorted, ties to the lower row."""
    q, g = queries.astype(np.float64), gallery.astype(np.float64)
    if metric == "cosine":
        similarity = (q / np.linalg.norm(q, axis=1)[:, None]) @ (g / np.linalg.norm(g, axis=1)[:, None]).T
    else:
        similarity = -np.sqrt(np.square(q[:, None] - g).sum(2))
    order = np.argsort(-similarity, axis=1, kind="stable")
    return np.take_along_axis(similarity, order, 1), order


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "GALLERY_ROWS", 37)
    monkeypatch.setattr(_device, "QUERY_ROWS", 11)
    monkeypatch.setattr(_tiles, "TILE_QUERIES", 64)
    monkeypatch.setattr(_tiles, "TILE_GALLERY", 64)
    monkeypatch.setattr(neighbours, "VOTES", 64)


# Search.


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 20, 50, 300])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_it_is_the_sorted_similarity_matrix(metric: Any, k: int, dtype: Any, device: str) -> None:
    generator = np.random.default_rng(0)
    queries, gallery = (generator.standard_normal((n, 24)).astype(dtype) for n in (50, 300))
    similarity, index = nearest(queries, gallery, k, metric=metric, device=device)
    expected, order = sorted_similarities(queries, gallery, metric)
    np.testing.assert_allclose(similarity, expected[:, :k], atol=1e-6 if metric == "cosine" else 1e-12)
    assert (index == order[:, :k]).mean() > 0.999  # float32 may swap two that are equal in it
    assert [len(set(row)) for row in index] == [k] * 50


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [1, 3, 36, 37, 38, 150, 400])
@pytest.mark.parametrize("device", DEVICES)
def test_ties_go_to_the_lower_row_across_blocks(k: int, device: str) -> None:
    generator = np.random.default_rng(1)
    queries, gallery = (generator.integers(0, 2, (n, 5)).astype(np.float16) for n in (40, 400))
    similarity, index = nearest(queries, gallery, k, metric="euclidean", device=device)
    expected, order = sorted_similarities(queries, gallery, "euclidean")
    np.testing.assert_array_equal(index, order[:, :k])
    np.testing.assert_array_equal(similarity, expected[:, :k])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("device", DEVICES)
def test_equal_distances_are_equal_numbers_whatever_the_threads(threads: int, device: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        similarity, _ = nearest(
            np.zeros((1, 2)), np.tile([[1.0, 1.0], [1.0, 2.0]], (5000, 1)), 10000, metric="euclidean", device=device
        )
    finally:
        torch.set_num_threads(before)
    assert set(similarity[0].tolist()) == {-(2**0.5), -(5**0.5)}


@pytest.mark.parametrize("device", DEVICES)
def test_ties_of_cosines_go_to_the_lower_row(device: str) -> None:
    corners = np.tile(np.eye(4, dtype=np.float32), (25, 1))
    _, index = nearest(np.eye(4, dtype=np.float32), corners, 30, device=device)
    np.testing.assert_array_equal(index[:, :25], np.arange(4)[:, None] + 4 * np.arange(25))
    others = [[row for row in range(100) if row % 4 != q][:5] for q in range(4)]
    np.testing.assert_array_equal(index[:, 25:], others)


@pytest.mark.parametrize("device", DEVICES)
def test_small_distances_between_long_vectors_are_kept(device: str) -> None:
    base = np.full((1, 64), 100.0, np.float32)
    gallery = base + np.arange(6, dtype=np.float32)[:, None] / 1024
    similarity, index = nearest(base, gallery, 6, metric="euclidean", device=device)
    assert index[0].tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(-similarity[0], np.arange(6) * 8 / 1024, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_zero_vector_has_similarity_zero(device: str) -> None:
    similarity, index = nearest(np.zeros((1, 3)), np.eye(3), 2, device=device)
    assert similarity.tolist() == [[0.0, 0.0]]
    assert index.tolist() == [[0, 1]]


def test_the_gallery_may_be_a_read_only_map_and_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(2).standard_normal((500, 16)).astype(np.float16)
    values.tofile(tmp_path / "raw")
    mapped = np.memmap(tmp_path / "raw", np.float16, "r", shape=values.shape)
    for name in ("TILE_QUERIES", "TILE_GALLERY"):
        monkeypatch.setattr(_tiles, name, 64)
    sizes = []
    score = _tiles._score

    def spy(queries: Any, gallery: Any, metric: Any, out: Any) -> Any:
        sizes.append(out.shape)
        return score(queries, gallery, metric, out)

    monkeypatch.setattr(_tiles, "_score", spy)
    _, index = nearest(mapped[:100], mapped, 1)
    assert index[:, 0].tolist() == list(range(100))
    assert max(sizes) <= (64, 64)


@pytest.mark.cuda
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_cuda_finds_the_same(metric: Any) -> None:
    x, _, x_test, _ = digits()
    ours, reference = (nearest(x_test, x, 20, metric=metric, device=device) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(ours[0], reference[0], atol=1e-5)
    assert (ours[1] == reference[1]).mean() > 0.99


# The probe.


@pytest.mark.parametrize("k", [1, 5, 20])
def test_uniform_euclidean_is_scikit_learns(k: int) -> None:
    x, y, x_test, _ = digits()
    ours = KNNProbe(k, metric="euclidean", weights="uniform").fit(x, y)
    reference = KNeighborsClassifier(k, algorithm="brute").fit(x.astype(np.float64), y)
    queries = x_test.astype(np.float64)
    distances = np.sort(reference.kneighbors(queries, k + 1)[0], axis=1)
    clear = distances[:, -1] > distances[:, -2]  # at a tie for the last place scikit-learn takes any
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(ours.predict_proba(x_test)[clear], reference.predict_proba(queries)[clear])
    np.testing.assert_array_equal(ours.predict(x_test)[clear], reference.predict(queries)[clear])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_vote_is_dinos(temperature: float) -> None:
    x, y, x_test, y_test = digits()
    probe = KNNProbe(20, temperature=temperature).fit(x, y)
    similarity, order = sorted_similarities(x_test, x, "cosine")
    votes = np.zeros((len(x_test), 10))
    for row, (s, neighbour) in enumerate(zip(similarity[:, :20], order[:, :20], strict=True)):
        for value, at in zip(s, neighbour, strict=True):
            votes[row, y[at]] += np.exp(value / temperature)
    np.testing.assert_allclose(probe.predict_proba(x_test), votes / votes.sum(1)[:, None], atol=1e-4)
    ranked = np.argsort(-votes, axis=1, kind="stable")
    assert probe.score(x_test, y_test) == (ranked[:, 0] == y_test).mean()
    top5 = (ranked[:, :5] == y_test[:, None]) & (np.take_along_axis(votes, y_test[:, None], 1) > 0)
    assert probe.top_k_accuracy(x_test, y_test) == top5.any(1).mean()


def test_a_low_temperature_does_not_overflow() -> None:
    x, y, x_test, _ = digits()
    shares = KNNProbe(temperature=1e-4).fit(x, y).predict_proba(x_test)
    np.testing.assert_allclose(shares.sum(1), 1.0)


def test_classes_may_be_names_and_unknown_ones_are_wrong() -> None:
    x, y, x_test, y_test = digits()
    names = np.array([f"digit {label}" for label in y])
    probe = KNNProbe().fit(x, names)
    assert probe.predict(x_test[:3]).tolist() == [
        f"digit {label}" for label in KNNProbe().fit(x, y).predict(x_test[:3])
    ]
    assert probe.top_k_accuracy(x_test, np.full(len(y_test), "letter"), top=10) == 0.0


@pytest.mark.parametrize(
    "estimator",
    [
        KNNProbe(3),
        KNNProbe(3, metric="euclidean", weights="uniform"),
        NearestClassMean(),
        NearestClassMean("euclidean"),
    ],
    ids=repr,
)
def test_it_is_a_scikit_learn_estimator(estimator: Any) -> None:
    single = {"check_methods_subset_invariance": "float32 products round differently for other numbers of rows"}
    for instance, check in estimator_checks_generator(estimator, expected_failed_checks=single, mark="skip"):
        with suppress(SkipTest):
            check(instance)


# The sweep.


def test_every_pair_of_the_sweep_is_the_probe_of_that_pair() -> None:
    x, y, x_test, y_test = digits()
    held = (x_test[:300], y_test[:300])
    sweep = knn_sweep(x, y, x_test[300:], y_test[300:], validation=held, ks=(1, 10, 50), temperatures=(0.02, 0.07, 1.0))
    assert len(sweep.validation) == 9
    for (k, temperature), accuracy in sweep.validation.items():
        assert temperature is not None
        probe = KNNProbe(k, temperature=temperature).fit(x, y)
        assert accuracy == probe.score(*held)
        assert sweep.validation_top5[k, temperature] == probe.top_k_accuracy(*held)
    best = max(sweep.validation.values())
    assert (sweep.k, sweep.temperature) == min(pair for pair, value in sweep.validation.items() if value == best)
    assert sweep.temperature is not None
    chosen = KNNProbe(sweep.k, temperature=sweep.temperature).fit(x, y)
    np.testing.assert_array_equal(sweep.predictions, chosen.predict(x_test[300:]))
    assert sweep.accuracy == chosen.score(x_test[300:], y_test[300:])
    assert sweep.top5 == chosen.top_k_accuracy(x_test[300:], y_test[300:])
    assert sweep.low < sweep.accuracy < sweep.high


def test_the_sweep_searches_once_and_takes_few_test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []

    def spy(queries: Any, gallery: Any, k: int, **options: Any) -> Any:
        searches.append((len(queries), len(gallery), k))
        return nearest(queries, gallery, k, **options)

    monkeypatch.setattr(neighbours, "nearest", spy)
    x, y, x_test, y_test = digits()
    sweep = knn_sweep(x, y, x_test[:7], y_test[:7], ks=(5, 20), temperatures=(0.07, 0.5), random_state=3)
    assert searches == [(180, 720, 20), (7, 900, sweep.k)]
    again = knn_sweep(x, y, x_test[:50], y_test[:50], ks=(20, 5), temperatures=(0.5, 0.07), random_state=3)
    assert again.validation == sweep.validation
    assert (again.k, again.temperature) == (sweep.k, sweep.temperature)


def test_uniform_votes_have_no_temperature() -> None:
    x, y, x_test, y_test = digits()
    sweep = knn_sweep(x, y, x_test, y_test, ks=(3, 5), weights="uniform", metric="euclidean")
    assert set(sweep.validation) == {(3, None), (5, None)}
    assert sweep.temperature is None
    assert sweep.accuracy == KNNProbe(sweep.k, metric="euclidean", weights="uniform").fit(x, y).score(x_test, y_test)


# The nearest class mean.


def test_euclidean_means_are_scikit_learns_nearest_centroid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "BLOCK_VALUES", 64 * 50)
    x, y, x_test, _ = digits()
    ours = NearestClassMean("euclidean").fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pixels that are constant in a class
        reference = NearestCentroid().fit(x.astype(np.float64), y)
    np.testing.assert_allclose(ours.means_, reference.centroids_, rtol=1e-13)
    np.testing.assert_array_equal(ours.predict(x_test), reference.predict(x_test.astype(np.float64)))
    distances = np.square(x_test[:, None].astype(np.float64) - reference.centroids_).sum(2)
    np.testing.assert_allclose(-ours.similarity(x_test), distances, rtol=1e-11)


def test_cosine_means_are_means_of_unit_vectors() -> None:
    x, y, x_test, _ = digits()
    ours = NearestClassMean().fit(x, y)
    unit, unit_test = (v / np.linalg.norm(v, axis=1)[:, None] for v in (x.astype(np.float64), x_test.astype(float)))
    means = np.stack([unit[y == label].mean(0) for label in range(10)])
    means /= np.linalg.norm(means, axis=1)[:, None]
    np.testing.assert_allclose(ours.similarity(x_test), unit_test @ means.T, rtol=1e-12)
    np.testing.assert_array_equal(ours.predict(x_test), (unit_test @ means.T).argmax(1))


# What they refuse.


def with_nan(values: Any) -> Any:
    values = values.copy()
    values[3, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, _: nearest(x, x, 901), "k must be a whole number between 1 and .* = 900; found 901"),
        (lambda x, _: nearest(x, x, 0), "found 0"),
        (lambda x, _: nearest(x, x, HALF), "found 1.5"),
        (lambda x, _: nearest(x, x[:, :5], 1), "same D"),
        (lambda x, _: nearest(x[0], x, 1), "queries must be"),
        (lambda x, _: nearest(x, with_nan(x), 1), "gallery must be finite in float32; found .* row 3"),
        (lambda x, _: nearest(with_nan(x), x, 1), "queries must be finite"),
        (lambda x, _: nearest(x.astype(np.float64) * 1e300, x, 1), "finite in float32"),
        (lambda x, _: nearest(x, x, 1, metric=UNKNOWN), "one of cosine, inner_product, euclidean; found 'unknown'"),
        (lambda x, y: KNNProbe(901).fit(x, y), "found 901"),
        (lambda x, y: KNNProbe().fit(x, y * 0), "two classes; found one class, 0"),
        (lambda x, y: KNNProbe().fit(with_nan(x), y), "row 3, column 2"),
        (lambda x, y: KNNProbe(weights=UNKNOWN).fit(x, y), "one of dino, uniform"),
        (lambda x, y: KNNProbe(temperature=0).fit(x, y), "above 0"),
        (lambda x, y: KNNProbe().fit(x, y).predict(x[:, :9]), "expecting 64 features"),
        (lambda x, y: KNNProbe().fit(x, y).top_k_accuracy(x, y[:5]), "one class per row"),
        (lambda x, y: NearestClassMean(UNKNOWN).fit(x, y), "one of cosine, euclidean"),
        (lambda x, y: NearestClassMean().fit(with_nan(x), y), "row 3, column 2"),
        (lambda x, y: knn_sweep(x, y, x, y, ks=(10, 800)), "= 720; found 800"),
        (lambda x, y: knn_sweep(x, y, x, y, ks=()), "must not be empty"),
        (lambda x, y: knn_sweep(x, y, x, y, temperatures=(0.07, -1)), "above 0 and finite; found -1"),
        (lambda x, y: knn_sweep(x, y[:9], x, y), "train labels must be one class per row"),
        (lambda x, y: knn_sweep(x, y, x, y[:9]), "labels must be one class per row"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(call: Any, message: str) -> None:
    x, y, _, _ = digits()
    with pytest.raises(ValueError, match=message):
        call(x, y)
