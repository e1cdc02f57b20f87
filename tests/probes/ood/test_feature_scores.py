"""Scores of distances, subspaces, shaped activations and alignment against formulas in float64 and pytorch-ood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_ood import detector  # type: ignore[import-untyped]
from scipy import special, stats  # type: ignore[import-untyped]
from sklearn.mixture import GaussianMixture  # type: ignore[import-untyped]

from featurebank.probes.ood import distances
from featurebank.probes.ood.alignment import FDBD, MCM, NCI, SHE, GradNorm
from featurebank.probes.ood.distances import GMM, MDS, RMDS, MDSPlusPlus, RMDSPlusPlus
from featurebank.probes.ood.head import Head
from featurebank.probes.ood.shaping import ASHB, ASHP, ASHS, DICE, LTS, SCALE, VRA, ReAct
from featurebank.probes.ood.statistics import TrainingSet
from featurebank.probes.ood.subspace import PNML, CoP, CoRP, Residual, ViM

F64 = NDArray[np.float64]


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def tensor(values: Any) -> Any:
    return torch.from_numpy(np.asarray(values, np.float32))


def linear(p: Any) -> torch.nn.Linear:
    layer = torch.nn.Linear(p.weight.shape[1], len(p.weight))
    with torch.no_grad():
        layer.weight.copy_(tensor(p.weight))
        layer.bias.copy_(tensor(p.bias))
    return layer.requires_grad_(False)


# Formulas.


def mahalanobis(x: F64, y: Any, rows: F64) -> tuple[F64, F64]:
    """The least squared distance to a class mean, and that to the mean of all."""
    means = np.array([x[y == k].mean(0) for k in np.unique(y)])
    centred = x - means[np.searchsorted(np.unique(y), y)]
    inverse = np.linalg.pinv(centred.T @ centred / len(x), hermitian=True, rcond=1e-12)
    background = np.linalg.pinv(np.cov(x.T, bias=True), hermitian=True, rcond=1e-12)
    offsets = rows[:, None] - means
    nearest = np.einsum("mkd,de,mke->mk", offsets, inverse, offsets).min(1)
    centred = rows - x.mean(0)
    return nearest, np.einsum("md,de,me->m", centred, background, centred)


def residual(p: Any, dim: int) -> tuple[F64, F64]:
    origin = -np.linalg.pinv(p.weight) @ p.bias
    _, _, directions = np.linalg.svd(p.x - origin)
    outside = directions[dim:].T
    return np.linalg.norm((p.x - origin) @ outside, axis=1), np.linalg.norm((p.test - origin) @ outside, axis=1)


def vim(p: Any, dim: int) -> F64:
    train, test = residual(p, dim)
    alpha = p.logits(p.x).max(1).mean() / train.mean()
    return np.asarray(special.logsumexp(p.logits(p.test), axis=1) - alpha * test)


def reconstruction(train: F64, test: F64, share: float) -> F64:
    mean = train.mean(0)
    _, singular, directions = np.linalg.svd(train - mean, full_matrices=False)
    explained = np.cumsum(singular**2) / (singular**2).sum()
    q = int(np.flatnonzero(explained >= share)[0]) + 1
    basis = directions[:q].T
    return np.asarray(-np.linalg.norm((test - mean) - (test - mean) @ basis @ basis.T, axis=1))


def corp(p: Any, gamma: float, share: float, samples: int, seed: int) -> F64:
    generator = np.random.default_rng(seed)
    w = generator.standard_normal((samples, p.x.shape[1]), np.float32).astype(np.float64) * np.sqrt(2 * gamma)
    t = generator.random(samples, np.float32).astype(np.float64) * 2 * np.pi

    def mapped(rows: F64) -> F64:
        return np.asarray(np.sqrt(2 / samples) * np.cos(unit(rows) @ w.T + t))

    return reconstruction(mapped(p.x), mapped(p.test), share)


def pnml(p: Any) -> F64:
    train, test = unit(p.x), unit(p.test)
    x = np.einsum("md,de,me->m", test, np.linalg.pinv(train.T @ train, hermitian=True, rcond=1e-12), test)
    probability = special.softmax(p.logits(test), axis=1)
    power = probability ** (x / (1 + x))[:, None]
    return np.asarray(-np.log((probability / (probability + power * (1 - probability))).sum(1)))


def pruned(rows: F64, percentile: float) -> F64:
    width = rows.shape[1]
    kept = np.zeros_like(rows)
    at = np.argsort(-rows, axis=1, kind="stable")[:, : width - round(width * percentile)]
    np.put_along_axis(kept, at, np.take_along_axis(rows, at, 1), 1)
    return kept


def shaped(p: Any, rows: F64, factor: Any = None) -> F64:
    rows = rows if factor is None else rows * factor[:, None]
    return np.asarray(special.logsumexp(p.logits(rows), axis=1))


def factor(rows: F64, percentile: float) -> F64:
    return np.asarray(np.exp(rows.sum(1) / pruned(rows, percentile).sum(1)))


def ash_b(p: Any, percentile: float) -> F64:
    kept = pruned(p.test + 1e9, percentile) > 0
    return shaped(p, kept * (p.test.sum(1) / kept.sum(1))[:, None])


def vra(p: Any, lower: float, upper: float) -> F64:
    low, high = np.quantile(p.x, [lower, upper], axis=0)
    return shaped(p, np.where(p.test < low, 0, np.minimum(p.test, high)))


def lts(p: Any, share: float) -> F64:
    width = p.test.shape[1]
    positive = np.maximum(p.test, 0)
    largest = -np.sort(-positive, axis=1)[:, : max(1, width - round(width * (1 - share)))]
    scale = (positive.sum(1) / largest.sum(1)) ** 2
    return np.asarray(special.logsumexp(p.logits(p.test) * scale[:, None], axis=1))


def dice(p: Any, sparsity: float) -> F64:
    contribution = p.x.mean(0) * p.weight
    weight = np.where(contribution > np.quantile(contribution, sparsity), p.weight, 0)
    return np.asarray(special.logsumexp(p.test @ weight.T + p.bias, axis=1))


def she(p: Any) -> F64:
    predicted = p.logits(p.x).argmax(1)
    patterns = np.array([p.x[(p.y == k) & (predicted == k)].mean(0) for k in range(len(p.weight))])
    return np.asarray((p.test * patterns[p.logits(p.test).argmax(1)]).sum(1))


def gradnorm(p: Any) -> F64:
    """By differentiation, in float64."""
    found = []
    for row in torch.from_numpy(p.test):
        weight = torch.from_numpy(p.weight.copy()).requires_grad_()
        (-(weight @ row + torch.from_numpy(p.bias)).log_softmax(0).sum()).backward()
        assert weight.grad is not None
        found.append(float(weight.grad.abs().sum()))
    return np.array(found)


def fdbd(p: Any) -> F64:
    found = []
    for row, logits in zip(p.test, p.logits(p.test), strict=True):
        c = logits.argmax()
        others = [k for k in range(len(logits)) if k != c]
        gaps = [(logits[c] - logits[k]) / np.linalg.norm(p.weight[c] - p.weight[k]) for k in others]
        found.append(np.mean(gaps) / np.linalg.norm(row - p.x.mean(0)))
    return np.array(found)


def nci(p: Any, alpha: float) -> F64:
    centred = p.test - p.x.mean(0)
    weight = p.weight[p.logits(p.test).argmax(1)]
    return np.asarray((weight * centred).sum(1) / np.linalg.norm(centred, axis=1) + alpha * np.abs(p.test).sum(1))


def mcm(p: Any, temperature: float) -> F64:
    return np.asarray(special.log_softmax(unit(p.test) @ unit(p.text).T / temperature, axis=1).max(1))


def gmm(p: Any, reg: float) -> F64:
    terms = []
    for k in range(len(p.weight)):
        own = p.x[p.y == k]
        covariance = np.cov(own.T, bias=True) + reg * np.eye(own.shape[1])
        terms.append(np.log(len(own) / len(p.x)) + stats.multivariate_normal(own.mean(0), covariance).logpdf(p.test))
    return np.asarray(special.logsumexp(terms, axis=0))


FORMULAS: dict[str, Any] = {
    "mds": (MDS(), lambda p: -mahalanobis(p.x, p.y, p.test)[0]),
    "rmds": (RMDS(), lambda p: np.subtract(*mahalanobis(p.x, p.y, p.test)[::-1])),
    "mds++": (MDSPlusPlus(), lambda p: -mahalanobis(unit(p.x), p.y, unit(p.test))[0]),
    "rmds++": (RMDSPlusPlus(), lambda p: np.subtract(*mahalanobis(unit(p.x), p.y, unit(p.test))[::-1])),
    "gmm": (GMM(), lambda p: gmm(p, 1e-6)),
    "residual": (Residual(), lambda p: -residual(p, 12)[1]),
    "residual 3": (Residual(3), lambda p: -residual(p, 3)[1]),
    "vim": (ViM(20), lambda p: vim(p, 20)),
    "vim 5": (ViM(5), lambda p: vim(p, 5)),
    "cop": (CoP(), lambda p: reconstruction(unit(p.x), unit(p.test), 0.99)),
    "cop .3": (CoP(0.3), lambda p: reconstruction(unit(p.x), unit(p.test), 0.3)),
    "corp": (CoRP(), lambda p: corp(p, 3, 0.5, 48, 0)),
    "corp 2": (CoRP(2.0, 0.95, 30, 5), lambda p: corp(p, 2, 0.95, 30, 5)),
    "pnml": (PNML(), pnml),
    "react": (ReAct(), lambda p: shaped(p, np.minimum(p.test, np.quantile(p.x, 0.9)))),
    "vra": (VRA(), lambda p: vra(p, 0.6, 0.95)),
    "dice": (DICE(), lambda p: dice(p, 0.9)),
    "ash-p": (ASHP(), lambda p: shaped(p, pruned(p.test, 0.6))),
    "ash-b": (ASHB(), lambda p: ash_b(p, 0.65)),
    "ash-s": (ASHS(), lambda p: shaped(p, pruned(p.test, 0.9), factor(p.test, 0.9))),
    "scale": (SCALE(), lambda p: shaped(p, p.test, factor(p.test, 0.85))),
    "lts": (LTS(), lambda p: lts(p, 0.05)),
    "lts .3": (LTS(0.3), lambda p: lts(p, 0.3)),
    "she": (SHE(), she),
    "gradnorm": (GradNorm(), gradnorm),
    "fdbd": (FDBD(), fdbd),
    "nci": (NCI(), lambda p: nci(p, 1e-4)),
    "nci .5": (NCI(0.5), lambda p: nci(p, 0.5)),
    "mcm": (MCM(), lambda p: mcm(p, 1)),
    "mcm .01": (MCM(0.01), lambda p: mcm(p, 0.01)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_the_formula(name: str, problem: Any) -> None:
    score, formula = FORMULAS[name]
    expected = formula(problem)
    found = score.fit(problem.train).score_samples(problem.queries)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).mean())


@pytest.mark.parametrize("name", FORMULAS)
def test_given_logits_and_half_precision_change_nothing(name: str, relu_problem: Any) -> None:
    p = relu_problem
    rows, queries = p.x.astype(np.float16), p.test.astype(np.float16)
    score = FORMULAS[name][0]
    expected = score.fit(TrainingSet(rows, p.y, head=p.head, text=p.text)).score_samples(queries)
    with_logits = TrainingSet(rows, p.y, logits=p.logits(rows.astype(np.float64)), head=p.head, text=p.text)
    found = score.fit(with_logits).score_samples(queries, p.logits(queries.astype(np.float64)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).mean())


# pytorch-ood, where it defines the score the same way.


def energy_of(layer: Any) -> Any:
    return lambda maps: layer(maps.flatten(1))


THEIRS: dict[str, Any] = {
    "dice": lambda _, head: detector.DICE(None, head.weight, head.bias, 0.9),
    "vim": lambda _, head: detector.ViM(None, 20, head.weight, head.bias),
    "she": lambda _, head: detector.SHE(None, head),
    "fdbd": lambda _, head: detector.fDBD(None, head),
    "nci .5": lambda _, head: detector.NCI(None, head, alpha=0.5),
    "lts": lambda _, head: detector.LTS(None, head),
    "gmm": lambda *_: detector.GMM(None),
    "pnml": lambda _, head: detector.PNML(None, head),
    "mcm": lambda p, _: detector.MCM(None, tensor(p.text)),
}


@pytest.mark.parametrize("name", THEIRS)
def test_it_is_pytorch_oods(name: str, problem: Any) -> None:
    reference = THEIRS[name](problem, linear(problem))
    if reference.requires_fit:
        reference.fit_features(tensor(problem.x), torch.from_numpy(problem.y))
    expected = -reference.predict_features(tensor(problem.test)).double().numpy()
    if name == "pnml":
        expected *= np.log(len(problem.weight))
    if name == "mcm":
        expected = np.log(expected)
    found = FORMULAS[name][0].fit(problem.train).score_samples(problem.queries)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean())


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("ash-p", lambda head: detector.ASH(None, head, "ash-p", 0.6)),
        ("ash-b", lambda head: detector.ASH(None, head, "ash-b", 0.65)),
        ("ash-s", lambda head: detector.ASH(None, head, "ash-s", 0.9)),
        ("scale", lambda head: detector.SCALE(None, head, 0.85)),
        ("react", lambda head: detector.ReAct(None, head)),
    ],
)
def test_shaping_is_pytorch_oods(name: str, theirs: Any, relu_problem: Any) -> None:
    reference = theirs(energy_of(linear(relu_problem)))
    if name == "react":
        reference.fit_feature_maps(tensor(relu_problem.x)[:, :, None, None], torch.from_numpy(relu_problem.y))
    expected = -reference.predict_feature_maps(tensor(relu_problem.test)[:, :, None, None]).double().numpy()
    found = FORMULAS[name][0].fit(relu_problem.train).score_samples(relu_problem.queries)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_gradnorm_is_pytorch_oods_gradient(relu_problem: Any) -> None:
    reference = detector.GradNorm(linear(relu_problem).requires_grad_(True), lambda name: name == "weight")
    reference.to("cpu")
    expected = -reference.predict(tensor(relu_problem.test)).numpy() * len(relu_problem.weight)
    np.testing.assert_allclose(
        GradNorm().fit(relu_problem.train).score_samples(relu_problem.queries), expected, rtol=1e-4
    )


def test_mahalanobis_ranks_as_pytorch_oods_where_the_covariance_is_regular(problem: Any) -> None:
    for ours, theirs in ((MDS(), detector.Mahalanobis(None)), (RMDS(), detector.RMD(None))):
        theirs.fit_features(tensor(problem.x), torch.from_numpy(problem.y))
        expected = -theirs.predict_features(tensor(problem.test)).numpy()
        found = ours.fit(problem.train).score_samples(problem.queries)
        assert stats.spearmanr(found, expected).statistic > 0.99999


def test_vra_differs_from_pytorch_ood_which_lifts_low_activations(problem: Any) -> None:
    reference = detector.VRA(None, energy_of(linear(problem)), 0.6, 0.95)
    reference.fit_feature_maps(tensor(problem.x)[:, :, None, None], torch.from_numpy(problem.y))
    theirs = -reference.predict_feature_maps(tensor(problem.test)[:, :, None, None]).numpy()
    clipped = problem.test.clip(*np.quantile(problem.x, [0.6, 0.95], axis=0))
    np.testing.assert_allclose(theirs, shaped(problem, clipped), rtol=1e-4)
    assert np.abs(VRA().fit(problem.train).score_samples(problem.queries) - theirs).max() > 0.1


# Rows that are hard to score.


def wide(problem: Any) -> TrainingSet:
    """Fewer rows than features."""
    return TrainingSet(problem.x[:20].astype(np.float32), problem.y[:20], head=problem.head)


@pytest.mark.parametrize("name", ["mds", "rmds", "mds++", "rmds++", "gmm", "pnml", "cop", "residual 3", "vim 5"])
def test_fewer_rows_than_features(name: str, problem: Any) -> None:
    problem.x, problem.y = problem.x[:20], problem.y[:20]
    score, formula = FORMULAS[name]
    found = score.fit(wide(problem)).score_samples(problem.queries)
    rtol = 1e-3 if name == "gmm" else 1e-4  # SciPy's density inverts 1e-6 I + a matrix of rank 3
    np.testing.assert_allclose(found, formula(problem), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("name", ["mds", "rmds", "mds++", "rmds++", "pnml"])
def test_dead_and_double_units_change_nothing(name: str, relu_problem: Any) -> None:
    p = relu_problem
    score = FORMULAS[name][0]
    x, queries = p.x.astype(np.float32), p.queries
    expected = score.fit(TrainingSet(x, p.y, head=p.head)).score_samples(queries)
    dead = np.zeros((len(p.weight), 3), np.float32)

    def more(rows: Any) -> Any:
        return np.concatenate([rows, np.zeros((len(rows), 3), np.float32)], 1)

    head = Head(np.concatenate([p.head.weight, dead], 1), p.head.bias)
    found = score.fit(TrainingSet(more(x), p.y, head=head)).score_samples(more(queries))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if name in {"mds", "rmds"}:
        found = score.fit(TrainingSet(np.concatenate([x, x], 1), p.y)).score_samples(
            np.concatenate([queries, queries], 1)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["residual", "vim"])
def test_a_head_whose_rows_sum_to_zero(name: str, problem: Any) -> None:
    problem.weight -= problem.weight.mean(0)
    problem.bias -= problem.bias.mean()
    rounded = Head(problem.weight.astype(np.float32), problem.bias.astype(np.float32))
    assert np.linalg.svd(rounded.weight.astype(np.float64))[1][-1] > 0
    singular = np.linalg.svd(problem.weight)[1]
    problem.weight = problem.weight.astype(np.float32).astype(np.float64)
    reference = Head(problem.weight, problem.bias)
    score = FORMULAS[name][0]
    found = score.fit(TrainingSet(problem.x, problem.y, head=rounded)).score_samples(problem.test)
    origin = -np.linalg.pinv(reference.weight, rcond=singular[-2] / singular[0] / 2) @ problem.bias
    np.testing.assert_allclose(score.origin_.numpy(), origin, rtol=1e-4, atol=1e-6)
    assert np.isfinite(found).all()


def test_the_gaussians_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 5)) @ generator.normal(size=(5, 5))
    reference = GaussianMixture(1, reg_covar=1e-6).fit(x)
    found = GMM().fit(TrainingSet(x, np.zeros(300, int))).score_samples(x[:50])
    np.testing.assert_allclose(found, reference.score_samples(x[:50]), rtol=1e-4)


def test_gaussians_in_small_groups_are_the_same(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = wide(problem)
    expected = GMM().fit(train).score_samples(problem.queries)
    monkeypatch.setattr(distances, "GROUP_VALUES", 24 * 5)
    np.testing.assert_allclose(GMM().fit(train).score_samples(problem.queries), expected, rtol=1e-9)


def test_equal_activations_at_the_edge_go_to_the_lower_features() -> None:
    head = Head(np.array([[8.0, 4.0, 2.0, 1.0], [0, 0, 0, 0]], np.float32), np.zeros(2, np.float32))
    train = TrainingSet(np.eye(4, dtype=np.float32), [0, 0, 1, 1], head=head)
    rows = np.array([[1, 1, 1, 1], [0, 2, 1, 1], [0, 0, 0, 3]], np.float32)
    found = ASHP(0.5).fit(train).score_samples(rows)
    np.testing.assert_allclose(found, np.logaddexp([12, 10, 3], 0), rtol=1e-6)


@pytest.mark.parametrize("name", ["ash-p", "ash-b", "ash-s", "scale", "lts", "react", "vra", "dice"])
def test_a_row_of_zeros_has_the_energy_of_the_bias(name: str, problem: Any) -> None:
    found = FORMULAS[name][0].fit(problem.train).score_samples(np.zeros((1, problem.x.shape[1])))
    np.testing.assert_allclose(found, special.logsumexp(problem.bias), rtol=1e-5)


def test_vim_of_rows_within_the_principal_subspace_is_refused(problem: Any) -> None:
    with pytest.raises(ValueError, match="found 20 rows within 20 dimensions: take a smaller dim"):
        ViM(20).fit(wide(problem))


def test_fdbd_leaves_out_classes_of_equal_weights(problem: Any) -> None:
    problem.weight[1] = problem.weight[0]
    problem.bias[1] = problem.bias[0] - 1
    found = FDBD().fit(problem.train).score_samples(problem.queries)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (ReAct(1.0), "percentile must be at least 0 and below 1; found 1.0"),
        (VRA(0.9, 0.5), "lower must not be above upper; found 0.9 and 0.5"),
        (DICE(-0.1), "sparsity must be at least 0"),
        (ASHS(2.0), "percentile must be"),
        (LTS(1.5), "share must be"),
        (Residual(24), "dim must be at least 1 and below D = 24; found 24"),
        (CoP(1.0), "explained must be"),
        (CoRP(0.0), "gamma must be above 0"),
        (NCI(-1.0), "alpha must be at least 0 and finite; found -1"),
        (MCM(0.0), "temperature must be above 0"),
        (GMM(0.0), "reg must be above 0"),
    ],
)
def test_bad_parameters_are_one_clear_error(score: Any, message: str, problem: Any) -> None:
    with pytest.raises(ValueError, match=message):
        score.fit(problem.train)


@pytest.mark.parametrize("name", ["mds", "rmds", "mds++", "gmm", "cop", "pnml"])
def test_constant_features(name: str) -> None:
    train = TrainingSet(np.ones((50, 4)), np.arange(50) % 3, head=Head(np.eye(3, 4), np.zeros(3)))
    if name in {"gmm", "pnml"}:
        assert np.isfinite(FORMULAS[name][0].fit(train).score_samples(np.eye(4))).all()
        return
    with pytest.raises(ValueError, match="the training features must vary"):
        FORMULAS[name][0].fit(train)


def test_one_class() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    train = TrainingSet(rows, np.zeros(60, int))
    found = MDS().fit(train).score_samples(rows)
    np.testing.assert_allclose(found, -mahalanobis(rows, np.zeros(60), rows)[0], rtol=1e-4)
    with pytest.raises(ValueError, match="'rmds' needs at least two classes; found one, 0"):
        RMDS().fit(train)
