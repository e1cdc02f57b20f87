"""Scores of similarities to the training rows, and WeiPer, against formulas in float64 and pytorch-ood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_ood import detector  # type: ignore[import-untyped]
from scipy import special  # type: ignore[import-untyped]

from featurebank.probes.ood import neighbours, statistics, weiper
from featurebank.probes.ood.neighbours import KNN, NNGuide, Relation
from featurebank.probes.ood.statistics import TrainingSet
from featurebank.probes.ood.weiper import WeiPerKLD

F64 = NDArray[np.float64]


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def knn(p: Any, k: int) -> F64:
    return -np.sort(np.linalg.norm(unit(p.test)[:, None] - unit(p.x), axis=2), axis=1)[:, k - 1]


def nnguide(p: Any, k: int) -> F64:
    energy = special.logsumexp(p.logits(p.x), axis=1)
    guided = np.sort(unit(p.test) @ unit(p.x).T * energy, axis=1)[:, -k:].mean(1)
    return np.asarray(guided * special.logsumexp(p.logits(p.test), axis=1))


def relation(p: Any, power: float, threshold: float) -> F64:
    alike = special.softmax(p.logits(p.test), axis=1) @ special.softmax(p.logits(p.x), axis=1).T
    relations = np.maximum(unit(p.test) @ unit(p.x).T, 0) * alike
    return np.asarray((np.where(relations > threshold, relations, 0) ** power).sum(1))


FORMULAS: dict[str, Any] = {
    "knn": (KNN(), lambda p: knn(p, 50)),
    "knn 1": (KNN(1), lambda p: knn(p, 1)),
    "knn all": (KNN(500), lambda p: knn(p, 500)),
    "nnguide": (NNGuide(), lambda p: nnguide(p, 10)),
    "nnguide 100": (NNGuide(100), lambda p: nnguide(p, 100)),
    "relation": (Relation(), lambda p: relation(p, 1, 0.03)),
    "relation ** 4": (Relation(4, 0.1), lambda p: relation(p, 4, 0.1)),
}


@pytest.fixture(params=[2048, 37], ids=["one block", "blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "GALLERY_ROWS", request.param)
    monkeypatch.setattr(statistics, "BLOCK_VALUES", 24 * request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_the_formula(name: str, problem: Any) -> None:
    score, formula = FORMULAS[name]
    found = score.fit(problem.train).score_samples(problem.queries)
    np.testing.assert_allclose(found, formula(problem), rtol=1e-4)


@pytest.mark.parametrize("name", FORMULAS)
def test_given_logits_change_nothing(name: str, problem: Any) -> None:
    score = FORMULAS[name][0]
    train = TrainingSet(problem.x, logits=problem.logits(problem.x))
    found = score.fit(train).score_samples(problem.test, problem.logits(problem.test))
    np.testing.assert_allclose(found, score.fit(problem.train).score_samples(problem.queries), rtol=1e-4)


def test_neighbours_and_guidance_are_pytorch_oods(problem: Any) -> None:
    x, y, test = (torch.from_numpy(values) for values in (problem.x.astype(np.float32), problem.y, problem.queries))
    theirs = detector.KNN(None, k=50).fit_features(x, y)
    found = KNN().fit(problem.train).score_samples(problem.queries)
    np.testing.assert_allclose(found, -theirs.predict_features(test).numpy(), rtol=1e-4)
    layer = torch.nn.Linear(24, 6).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(problem.head.weight))
    layer.bias.copy_(torch.from_numpy(problem.head.bias))
    theirs = detector.NNGuide(None, layer, k=10).fit_features(x, y)
    found = NNGuide().fit(problem.train).score_samples(problem.queries)
    np.testing.assert_allclose(found, -theirs.predict_features(test).numpy(), rtol=1e-4)


def test_small_distances_are_kept() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(80, 16)).astype(np.float32)
    near = rows * (1 + 1e-4 * generator.normal(size=rows.shape).astype(np.float32))
    score = KNN(1).fit(TrainingSet(rows))
    assert (score.score_samples(rows) == 0).all()
    expected = -np.linalg.norm(unit(near.astype(np.float64)) - unit(rows.astype(np.float64)), axis=1)
    np.testing.assert_allclose(score.score_samples(near), expected, rtol=2e-3)
    by_cosine = np.sqrt(np.maximum(2 - 2 * (unit(near) * unit(rows)).sum(1), 0))
    assert np.abs(by_cosine + expected).max() > 0.5 * -expected.mean()


@pytest.mark.parametrize("score", [KNN(501), NNGuide(501), KNN(0)])
def test_more_neighbours_than_rows_are_refused(score: Any, problem: Any) -> None:
    with pytest.raises(ValueError, match=r"k must be a whole number between 1 and the \d+ gallery rows"):
        score.fit(problem.train)


# WeiPer.


def smoothed(q: F64, size: int) -> F64:
    left = (size - 1) // 2
    padded = np.concatenate([q[:1].repeat(left), q, q[-1:].repeat(size - 1 - left)])
    return np.convolve(padded, np.ones(size) / size, "valid")


def divergence(p: F64, q: F64, size: int, epsilon: float) -> float:
    p, q = p + epsilon, smoothed(q, size) + epsilon
    p, q = p / p.sum(), q / q.sum()
    return float(special.rel_entr(p, q).sum() + special.rel_entr(q, p).sum())


def shares(values: F64, low: float, high: float, bins: int) -> F64:
    return np.array([np.histogram(row, bins, (low, high))[0] / len(row) for row in values])


@pytest.mark.parametrize(("width", "both"), [(1, False), (20, True), (1024, False)])
def test_weiper_is_the_formula(width: int, *, both: bool, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weiper, "WIDTH", width)
    repeats, bins = 7, 20
    score = WeiPerKLD(
        repeats=repeats, bins=bins, smoothing=4, smoothing_perturbed=5, smooth_train=both, lambda_2=2.0, random_state=3
    )
    drawn: list[Any] = []
    randn = torch.randn

    def spy(*args: Any, **kwargs: Any) -> Any:
        drawn.append(randn(*args, **kwargs))
        return drawn[-1].clone()

    monkeypatch.setattr(torch, "randn", spy)
    score.fit(problem.train)
    noise = torch.cat(drawn)[:repeats].double().numpy()
    noise *= 1.8 * np.linalg.norm(problem.weight, axis=1)[:, None] / np.linalg.norm(noise, axis=2, keepdims=True)

    def perturbed(rows: F64) -> F64:
        return np.stack([rows @ (problem.weight + some).T + problem.bias for some in noise], 1)

    train, test = perturbed(problem.x).reshape(len(problem.x), -1), perturbed(problem.test)
    confidence = special.softmax(test, axis=2).max(2).mean(1)
    expected = []
    for rows, queries, size, epsilon, limits in (
        (problem.x, problem.test, 4, 0.01, score.range_),
        (train, test.reshape(len(test), -1), 5, 0.025, score.range_perturbed_),
    ):
        np.testing.assert_allclose(limits, (rows.min(), rows.max()), rtol=1e-5)
        mean = shares(rows, rows.min(), rows.max(), bins).mean(0)
        mean = smoothed(mean, size) if both else mean
        expected.append([divergence(mean, q, size, epsilon) for q in shares(queries, rows.min(), rows.max(), bins)])
    total = -(np.array(expected[0]) + 2.5 * np.array(expected[1]) - 2.0 * confidence)
    found = score.score_samples(problem.queries)
    close = np.isclose(found, total, rtol=1e-4)  # a value at a bin's edge may fall on either side in float32
    assert close.mean() > 0.95
    np.testing.assert_allclose(found, total, rtol=0.05)


def test_smoothing_one_side_of_a_peak_makes_a_higher_peak_nearer_than_an_equal_one() -> None:
    def peaked(first: float) -> torch.Tensor:
        """Shares of 100 bins, most of them in the first."""
        rest = torch.exp(-torch.arange(99, dtype=torch.float64) / 5)
        return torch.cat([torch.tensor([first], dtype=torch.float64), (1 - first) * rest / rest.sum()])

    train, rows = peaked(0.67), torch.stack([peaked(0.67), peaked(0.75)])
    equal, higher = weiper.divergence(train, rows, 4, 0.01).tolist()
    assert equal > higher > 0.15
    equal, higher = weiper.divergence(weiper.smoothed(train[None], 4)[0], rows, 4, 0.01).tolist()
    assert higher > equal == pytest.approx(0)


def test_weiper_reads_evenly_spaced_rows_and_does_not_depend_on_the_batch(problem: Any) -> None:
    score = WeiPerKLD(repeats=3, fit_rows=100)
    half = TrainingSet(problem.x[::5].astype(np.float32), problem.y[::5], head=problem.head)
    expected = WeiPerKLD(repeats=3).fit(half).score_samples(problem.queries)
    found = score.fit(problem.train)
    np.testing.assert_array_equal(found.score_samples(problem.queries), expected)
    np.testing.assert_allclose(found.score_samples(problem.queries[7:8]), expected[7:8], rtol=1e-6)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (WeiPerKLD(bins=0), "bins must be at least 1; found 0"),
        (WeiPerKLD(distance=0), "distance must be above 0"),
    ],
)
def test_bad_parameters_are_one_clear_error(score: Any, message: str, problem: Any) -> None:
    with pytest.raises(ValueError, match=message):
        score.fit(problem.train)
