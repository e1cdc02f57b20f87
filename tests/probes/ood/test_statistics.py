"""Training statistics against NumPy in float64, and what a training set refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special  # type: ignore[import-untyped]

from featurebank.probes import _rows
from featurebank.probes.ood import quantiles, statistics
from featurebank.probes.ood.distances import MDS
from featurebank.probes.ood.head import Head
from featurebank.probes.ood.logits import MSP, Energy
from featurebank.probes.ood.names import scores
from featurebank.probes.ood.quantiles import exact_quantiles, feature_quantiles
from featurebank.probes.ood.registry import get
from featurebank.probes.ood.statistics import TrainingSet


@pytest.fixture(params=[2**24, 24 * 37], ids=["one block", "blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_rows, statistics):
        monkeypatch.setattr(module, "BLOCK_VALUES", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("offset", [0, 1000])
def test_moments_are_numpys(offset: int, problem: Any) -> None:
    problem.x += offset
    x = problem.x.astype(np.float32).astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for rows, found in ((x, problem.train.moments), (unit, problem.train.unit_moments)):
        scale = 1e-12 if rows is x else 1e-6
        np.testing.assert_allclose(found.mean, rows.mean(0), rtol=scale)
        np.testing.assert_allclose(found.covariance, np.cov(rows.T, bias=True), atol=scale * np.abs(rows).max())
        means = np.array([rows[problem.y == k].mean(0) for k in range(6)])
        np.testing.assert_allclose(found.class_means, means, rtol=scale, atol=scale)
        assert found.counts is not None
        assert found.counts.tolist() == np.bincount(problem.y).tolist()


def test_whitening_inverts_the_covariance(problem: Any) -> None:
    moments = problem.train.moments
    centred = problem.x - np.array([problem.x[problem.y == k].mean(0) for k in range(6)])[problem.y]
    whitening = moments.within.whitened(torch.eye(24, dtype=torch.float64)).numpy()
    expected = np.linalg.inv(centred.T @ centred / len(centred))
    np.testing.assert_allclose(whitening @ whitening.T, expected, atol=1e-6 * np.abs(expected).max())
    assert moments.spectrum.ascending.shape == (24, 24)


@pytest.mark.usefixtures("blocks")
def test_what_is_read_from_logits_is_numpys(problem: Any) -> None:
    logits, train = problem.logits(problem.x), problem.train
    np.testing.assert_allclose(train.energies, special.logsumexp(logits, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(train.pattern_rows, logits.argmax(1) == problem.y)
    p = special.softmax(logits, axis=1)
    expected = [p[logits.argmax(1) == k].mean(0) for k in range(6)]
    np.testing.assert_allclose(train.posteriors, expected, rtol=1e-5, atol=1e-12)


LEVELS = [0.0, 0.1, 0.5, 0.6, 0.9, 0.999, 1.0]


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["normal", "relu", "constant", "integers"])
def test_quantiles_are_numpys(kind: str, dtype: Any) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(301, 24)) * np.exp(3 * generator.normal(size=24))
    if kind == "relu":
        values = np.maximum(values, 0)
    elif kind == "constant":
        values = np.full_like(values, -2.5)
    elif kind == "integers":
        values = values.round()
    x = values.astype(dtype)
    x[0, :2] = 0.0, -0.0
    known = x.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(exact_quantiles(x, LEVELS), np.quantile(known, LEVELS), rtol=1e-12)
    np.testing.assert_allclose(feature_quantiles(x, LEVELS), np.quantile(known, LEVELS, axis=0), rtol=1e-6, atol=1e-9)


def test_feature_quantiles_come_from_groups_of_features_then_from_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(100, 24)).astype(np.float32)
    monkeypatch.setattr(quantiles, "GROUP_VALUES", 500)
    np.testing.assert_allclose(feature_quantiles(x, LEVELS), np.quantile(x, LEVELS, axis=0), rtol=1e-5)
    monkeypatch.setattr(quantiles, "GROUPS", 2)
    np.testing.assert_allclose(feature_quantiles(x, LEVELS), np.quantile(x[::3], LEVELS, axis=0), rtol=1e-5)


def test_features_may_be_read_only_maps_and_are_not_changed(tmp_path: Path, relu_problem: Any) -> None:
    p = relu_problem
    maps = {}
    for name, values in (("x", p.x), ("test", p.test), ("logits", p.logits(p.x)), ("queries", p.logits(p.test))):
        np.save(tmp_path / name, values.astype(np.float32))
        maps[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    train = TrainingSet(maps["x"], p.y, logits=maps["logits"], head=p.head, text=p.text)
    before = {name: array.copy() for name, array in maps.items()}
    for name in scores():
        if name != "weiper+kld":
            assert np.isfinite(get(name)().fit(train).score_samples(maps["test"], maps["queries"])).all(), name
    for name, array in maps.items():
        np.testing.assert_array_equal(array, before[name])


# Bad input.


def test_what_is_missing_is_named_with_what_to_do() -> None:
    rows = np.eye(4)
    for name, train, message in (
        (
            "react",
            TrainingSet(rows),
            "the score 'react' needs head; the training set has none: pass the backbone's own",
        ),
        ("mds", TrainingSet(rows), "needs labels; the training set has none: pass the classes"),
        ("knn", TrainingSet(logits=rows), "needs features"),
        ("msp", TrainingSet(rows), r"needs logits; the training set has none: pass logits \(N, K\) or a head"),
        ("mcm", TrainingSet(rows), "needs text"),
    ):
        with pytest.raises(ValueError, match=message):
            get(name)().fit(train)
    with pytest.raises(ValueError, match="found neither"):
        TrainingSet(labels=[0, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize("name", ["mds", "knn", "react", "vra", "she", "gmm"])
def test_values_that_are_not_finite_are_refused(name: str, bad: float, relu_problem: Any) -> None:
    p = relu_problem
    queries, x = p.test.copy(), p.x.copy()
    queries[3, 5] = x[7, 2] = bad
    score = get(name)().fit(p.train)
    with pytest.raises(ValueError, match=r"features must be finite in float32; found .* in row 3, column 5"):
        score.score_samples(queries)
    with pytest.raises(ValueError, match=r"in row 7, column 2; leave out failed rows"):
        get(name)().fit(TrainingSet(x, p.y, head=p.head)).score_samples(p.test)


def test_widths_and_rows_that_do_not_match(relu_problem: Any) -> None:
    p = relu_problem
    wrong: list[tuple[Any, str]] = [
        (lambda: TrainingSet(p.x, p.y[:-1]), "labels must have one value per row, 500, got 499"),
        (lambda: TrainingSet(p.x, p.y + 1, head=p.head), r"labels must be in 0..5, got 1..6"),
        (lambda: TrainingSet(p.x[:, :5], head=p.head), "features, head and text must have the same D"),
        (lambda: TrainingSet(p.x, logits=np.zeros((3, 6))), "must have the same rows; found 500 and 3"),
        (lambda: TrainingSet(p.x, logits=np.zeros((500, 5)), head=p.head), "must have the same K; found 5 and 6"),
        (lambda: TrainingSet(logits=np.zeros((5, 1))), "logits must have at least two classes"),
        (lambda: TrainingSet(p.x[:0]), "at least one row"),
        (lambda: TrainingSet(p.x, head=p.head, validation=(np.zeros((5, 3)), [0] * 5)), r"must be \(V, 6\)"),
        (lambda: TrainingSet(p.x, head=p.head, validation=(np.zeros((5, 6)), [0])), "validation labels must have"),
        (lambda: MDS().fit(p.train).score_samples(p.test[:, :3]), r"features must be \(N, 24\) as in training"),
        (lambda: MSP().fit(p.train).score_samples(logits=np.zeros((2, 5))), r"logits must be \(N, 6\) as in training"),
        (
            lambda: get("vim")().fit(p.train).score_samples(p.test, np.zeros((2, 6))),
            "must have the same rows; found 70 and 2",
        ),
        (lambda: MDS().fit(p.train).score_samples(), "features .* must be given"),
        (lambda: Energy().fit(p.train).score_samples(), "logits .* must be given"),
        (lambda: Energy().score_samples(p.test), "'energy' must be fitted before it scores"),
        (lambda: Head(np.eye(3), np.zeros(2)), r"found \(3, 3\) and \(2,\)"),
        (lambda: Head(np.eye(1, 3), np.zeros(1)), "at least two classes"),
        (lambda: Head(np.full((2, 3), np.nan), np.zeros(2)), "a head must be finite"),
        (lambda: Head(np.eye(3), np.zeros(3), "mine"), "source must be 'own' or 'probe'"),  # type: ignore[arg-type]
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
