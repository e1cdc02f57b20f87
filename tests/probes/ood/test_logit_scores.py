"""Scores of logits against formulas in float64, SciPy's fits and pytorch-ood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_ood import detector  # type: ignore[import-untyped]
from scipy import optimize, special, stats  # type: ignore[import-untyped]

from featurebank.probes.ood.logits import (
    GEN,
    MSP,
    Energy,
    Entropy,
    KLMatching,
    MaxLogit,
    OpenMax,
    ScaledMSP,
    fit_weibull,
)
from featurebank.probes.ood.statistics import TrainingSet

K = 12


def sample(rows: int = 400, scale: float = 2.0, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(K), generator.integers(0, K, rows - K)])
    logits = scale * generator.normal(size=(rows, K))
    logits[np.arange(rows), labels] += 2 * scale
    return logits.astype(np.float32).astype(np.float64), labels


def fitted(score: Any, **kwargs: Any) -> Any:
    logits, labels = sample()
    return score.fit(TrainingSet(logits=logits, labels=labels, **kwargs))


def gen(logits: Any, gamma: float, top: int) -> Any:
    p = np.sort(special.softmax(logits, axis=1), axis=1)[:, -top:]
    return -(p**gamma * (1 - p) ** gamma).sum(1)


FORMULAS = {
    "msp": (MSP(), lambda z: np.log(special.softmax(z, axis=1).max(1))),
    "maxlogit": (MaxLogit(), lambda z: z.max(1)),
    "energy": (Energy(), lambda z: special.logsumexp(z, axis=1)),
    "energy at 3": (Energy(3.0), lambda z: 3 * special.logsumexp(z / 3, axis=1)),
    "entropy": (Entropy(), lambda z: -stats.entropy(special.softmax(z, axis=1), axis=1)),
    "gen": (GEN(), lambda z: gen(z, 0.1, K)),
    "gen of 4": (GEN(0.5, 4), lambda z: gen(z, 0.5, 4)),
    "gen of 1": (GEN(0.1, 1), lambda z: gen(z, 0.1, 1)),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_it_is_the_formula(name: str, dtype: Any) -> None:
    score: Any
    formula: Any
    score, formula = FORMULAS[name]
    logits = sample(seed=1)[0].astype(dtype)
    np.testing.assert_allclose(
        fitted(score).score_samples(logits=logits), formula(logits.astype(np.float64)), rtol=2e-6
    )


@pytest.mark.parametrize("name", ["msp", "entropy", "energy", "gen"])
def test_saturated_logits_keep_their_order(name: str) -> None:
    gaps = np.linspace(1, 500, 60)
    logits = np.zeros((60, K), np.float32)
    logits[:, 3] = gaps
    found = FORMULAS[name][0].fit(TrainingSet(logits=logits)).score_samples(logits=logits)
    assert (np.diff(found) > 0).all()
    if name == "msp":
        np.testing.assert_allclose(found, -np.log1p((K - 1) * np.exp(-gaps)), rtol=2e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MSP(), detector.MaxSoftmax),
        (MaxLogit(), detector.MaxLogit),
        (Energy(), detector.EnergyBased),
        (Entropy(), detector.Entropy),
    ],
)
def test_it_ranks_as_pytorch_ood(ours: Any, theirs: Any) -> None:
    logits = sample(scale=0.7, seed=1)[0].astype(np.float32)
    found = fitted(ours).score_samples(logits=logits)
    reference = -theirs.score(torch.from_numpy(logits)).numpy().astype(np.float64)
    reference = np.log(reference) if isinstance(ours, MSP) else reference
    np.testing.assert_allclose(found, reference, rtol=1e-4)


def test_gen_is_pytorch_oods_where_it_clamps_nothing() -> None:
    logits = sample(scale=0.7, seed=1)[0].astype(np.float32)
    reference = -K * detector.GEN.score(torch.from_numpy(logits), gamma=0.1).numpy()
    np.testing.assert_allclose(fitted(GEN()).score_samples(logits=logits), reference, rtol=1e-5)


def test_gen_differs_from_pytorch_ood_on_saturated_rows() -> None:
    logits = np.zeros((2, K), np.float32)
    logits[:, 0] = 30, 40
    reference = -detector.GEN.score(torch.from_numpy(logits), gamma=0.1).numpy()
    assert reference[0] == reference[1]
    found = fitted(GEN()).score_samples(logits=logits)
    assert found[0] < found[1]


# Temperature.


def likelihood(logits: Any, labels: Any, temperature: float) -> float:
    return -float(special.log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("scale", [0.3, 2.0, 20.0])
def test_the_temperature_is_scipys_minimum(scale: float) -> None:
    logits, labels = sample()
    validation = (scale * sample(seed=2)[0], sample(seed=2)[1])
    score = ScaledMSP().fit(TrainingSet(logits=logits, labels=labels, validation=validation))
    wanted = optimize.minimize_scalar(
        lambda t: likelihood(validation[0].astype(np.float32).astype(np.float64), validation[1], t),
        bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10},
    )  # fmt: skip
    assert score.temperature_ == pytest.approx(wanted.x, rel=1e-5)
    queries = sample(seed=1)[0]
    expected = special.log_softmax(queries / score.temperature_, axis=1).max(1)
    np.testing.assert_allclose(score.score_samples(logits=queries), expected, rtol=1e-4, atol=1e-14)


def test_without_validation_rows_the_temperature_is_of_the_training_rows() -> None:
    logits, labels = sample()
    validated = TrainingSet(logits=logits, labels=labels, validation=(logits, labels))
    assert fitted(ScaledMSP()).temperature_ == ScaledMSP().fit(validated).temperature_


def test_the_temperature_of_separable_rows_ends_at_its_bound() -> None:
    logits = np.eye(K) * 3
    score = ScaledMSP().fit(TrainingSet(logits=logits, labels=np.arange(K)))
    assert score.temperature_ == pytest.approx(0.01, rel=1e-3)


# KL matching.


def test_kl_matching_is_its_formula_and_pytorch_oods() -> None:
    logits, labels = sample()
    queries = sample(seed=1)[0]
    p, q = special.softmax(logits, axis=1), special.softmax(queries, axis=1)
    typical = [p[p.argmax(1) == k].mean(0) for k in range(K)]
    expected = -np.min([special.rel_entr(q, d).sum(1) for d in typical], axis=0)
    found = fitted(KLMatching()).score_samples(logits=queries)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    theirs = detector.KLMatching(None).fit_logits(torch.from_numpy(logits), torch.from_numpy(labels))
    np.testing.assert_allclose(found, -theirs.predict_logits(torch.from_numpy(queries)).numpy(), rtol=1e-4)


def test_kl_matching_takes_validation_rows_and_leaves_out_classes_never_predicted() -> None:
    logits, labels = sample()
    logits[:, 0] = -100
    score = KLMatching().fit(TrainingSet(logits=sample(seed=3)[0], validation=(logits, labels)))
    assert score.posteriors_.shape == (K - 1, K)
    assert np.isfinite(score.score_samples(logits=1000 * sample(seed=1)[0])).all()


# OpenMax.


def test_the_weibull_distribution_is_scipys() -> None:
    generator = np.random.default_rng(0)
    values = 1 + generator.weibull([[0.7], [2.0], [30.0]], size=(3, 20)) * [[0.3], [5.0], [1.0]]
    shape, scale = fit_weibull(values)
    for row, c, s in zip(values, shape, scale, strict=True):
        wanted, _, wanted_scale = stats.weibull_min.fit(row, floc=0)
        assert (c, s) == (pytest.approx(wanted, rel=1e-3), pytest.approx(wanted_scale, rel=1e-3))
    shape, scale = fit_weibull(np.array([[1.0, 2.0, -np.inf], [1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(shape[0], stats.weibull_min.fit([1.0, 2.0], floc=0)[0], rtol=1e-3)
    assert (shape[1], scale[1]) == (pytest.approx(1e4, rel=1e-6), pytest.approx(1))


@pytest.mark.parametrize(("alpha", "tail"), [(10, 20), (3, 5), (99, 400)])
def test_openmax_is_its_formula(alpha: int, tail: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = sample()
    queries = sample(seed=1)[0]
    correct = logits.argmax(1) == labels
    centres, models = [], []
    for k in range(K):
        own = logits[correct & (labels == k)]
        centres.append(own.mean(0))
        largest = np.sort(np.linalg.norm(own - centres[-1], axis=1))[-tail:]
        shape, _, scale = stats.weibull_min.fit(largest - largest[0] + 1, floc=0)
        models.append((largest[0], shape, scale))
    revised = min(alpha, K)
    expected = []
    for row in queries:
        kept, unknown = row.copy(), 0.0
        for rank, k in enumerate(np.argsort(-row)[:revised]):
            smallest, shape, scale = models[k]
            distance = np.linalg.norm(row - centres[k])
            share = stats.weibull_min.cdf(distance - smallest + 1, shape, scale=scale) * (revised - rank) / revised
            kept[k] = row[k] * (1 - share)
            unknown += row[k] * share
        expected.append(special.logsumexp(kept) - unknown)
    found = fitted(OpenMax(alpha, tail)).score_samples(logits=queries)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)  # SciPy's fit stops at about 1e-4
    shapes_and_scales = tuple(np.array([model[1:3] for model in models]).T)
    monkeypatch.setattr("featurebank.probes.ood.logits.fit_weibull", lambda _: shapes_and_scales)
    np.testing.assert_allclose(
        fitted(OpenMax(alpha, tail)).score_samples(logits=queries), expected, rtol=1e-4, atol=1e-4
    )


def test_openmax_of_a_class_never_predicted_takes_all_its_rows() -> None:
    logits, labels = sample()
    logits[labels == 2] -= 50 * np.eye(K)[2]
    score = OpenMax().fit(TrainingSet(logits=logits, labels=labels))
    np.testing.assert_allclose(score.centres_[2].numpy(), logits[labels == 2].mean(0), rtol=1e-6)


def test_openmax_does_not_depend_on_the_batch() -> None:
    queries = sample(seed=1)[0]
    score = fitted(OpenMax())
    alone = np.concatenate([score.score_samples(logits=row[None]) for row in queries[:9]])
    np.testing.assert_allclose(alone, score.score_samples(logits=queries)[:9], rtol=1e-6)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (Energy(0), "temperature must be above 0 and finite; found 0"),
        (GEN(-1), "gamma must be above 0"),
        (GEN(top=0), "top must be at least 1; found 0"),
        (OpenMax(alpha=0), "alpha must be at least 1; found 0"),
    ],
)
def test_bad_parameters_are_one_clear_error(score: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(score)


def test_openmax_needs_rows_of_every_class() -> None:
    logits, labels = sample()
    with pytest.raises(ValueError, match="found none of 1 classes, the first 4"):
        OpenMax().fit(TrainingSet(logits=logits, labels=np.where(labels == 4, 5, labels)))
