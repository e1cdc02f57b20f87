"""Ridge regression against scikit-learn's Ridge and RidgeCV, leave-one-out against refitting without each row."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV  # type: ignore[import-untyped]
from sklearn.metrics import (  # type: ignore[import-untyped]
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
from sklearn.utils.estimator_checks import estimator_checks_generator  # type: ignore[import-untyped]

from featurebank.probes import _design, _rows
from featurebank.probes.ridge import RidgePath, RidgeProbe, regression_scores

ALPHAS = (1e-3, 1.0, 100.0)


def regression(rows: int, width: int, targets: int | None = 3) -> tuple[Any, Any]:
    """Correlated features with an offset, and noisy targets."""
    generator = np.random.default_rng(rows)
    x = generator.standard_normal((rows, width)) @ generator.standard_normal((width, width)) + 5
    shape = (width,) if targets is None else (width, targets)
    y = x @ generator.standard_normal(shape) + 3 + generator.standard_normal((rows, *shape[1:]))
    return x, y


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_design, _rows):
        monkeypatch.setattr(module, "BLOCK_VALUES", 400)


@pytest.mark.parametrize("targets", [None, 1, 3])
@pytest.mark.parametrize(("rows", "width"), [(200, 20), (21, 20), (20, 20), (15, 40), (2, 3)])
def test_every_alpha_is_scikit_learns(rows: int, width: int, targets: int | None) -> None:
    x, y = regression(rows, width, targets)
    path = RidgePath(ALPHAS, standardize=False).fit(x, y)
    other = regression(37, width)[0]
    for at, alpha in enumerate(ALPHAS):
        reference = Ridge(alpha, solver="svd").fit(x, y)
        scale = np.abs(reference.coef_).max()
        np.testing.assert_allclose(path.coef_[at].reshape(reference.coef_.shape), reference.coef_, atol=1e-8 * scale)
        np.testing.assert_allclose(path.intercept_[at], reference.intercept_, rtol=1e-8)
        np.testing.assert_allclose(
            path.predict(other)[at].reshape(reference.predict(other).shape), reference.predict(other), rtol=1e-8
        )
    assert path.coef_.shape == (3, *y.shape[1:], width)
    assert path.predict(other).shape == (3, 37, *y.shape[1:])


@pytest.mark.parametrize(("rows", "width"), [(60, 20), (21, 20), (15, 40), (3, 3)])
def test_leave_one_out_is_refitting_without_each_row(rows: int, width: int) -> None:
    x, y = regression(rows, width)
    errors = np.zeros((rows, len(ALPHAS), 3))
    for row in range(rows):
        rest = np.arange(rows) != row
        for at, alpha in enumerate(ALPHAS):
            errors[row, at] = y[row] - Ridge(alpha, solver="svd").fit(x[rest], y[rest]).predict(x[row, None])[0]
    np.testing.assert_allclose(
        RidgePath(ALPHAS, standardize=False).fit(x, y).loo_, np.square(errors).mean((0, 2)), rtol=1e-8
    )


@pytest.mark.parametrize(("rows", "width"), [(200, 20), (15, 40)])
@pytest.mark.parametrize("targets", [None, 3])
def test_the_choice_is_ridge_cvs(rows: int, width: int, targets: int | None) -> None:
    x, y = regression(rows, width, targets)
    alphas = np.logspace(-3, 4, 15).tolist()
    ours, reference = RidgeProbe(alphas, standardize=False).fit(x, y), RidgeCV(alphas).fit(x, y)
    assert ours.alpha_ == reference.alpha_
    assert ours.validation_[ours.alpha_] == pytest.approx(-reference.best_score_, rel=1e-8)
    np.testing.assert_allclose(ours.coef_, reference.coef_, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(ours.intercept_, reference.intercept_, rtol=1e-8)
    assert ours.score(x, y) == pytest.approx(reference.score(x, y), rel=1e-8)


@pytest.mark.parametrize("targets", [None, 3])
def test_validation_rows_take_the_place_of_leave_one_out(targets: int | None) -> None:
    x, y = regression(200, 20, targets)
    probe = RidgeProbe(ALPHAS, standardize=False).fit(x[:100], y[:100], validation=(x[100:], y[100:]))
    errors = {
        alpha: np.square(Ridge(alpha).fit(x[:100], y[:100]).predict(x[100:]) - y[100:]).mean() for alpha in ALPHAS
    }
    assert probe.validation_ == pytest.approx(errors, rel=1e-8)
    assert probe.alpha_ == min(errors, key=lambda alpha: errors[alpha])


def test_duplicated_rows_and_constant_columns_do_no_harm() -> None:
    x, y = regression(8, 30)
    x = np.concatenate([np.tile(x, (2, 1)), np.full((16, 1), 3.0)], 1)
    y = np.tile(y, (2, 1))
    path, reference = RidgePath([0.1], standardize=False).fit(x, y), Ridge(0.1, solver="svd").fit(x, y)
    np.testing.assert_allclose(path.coef_[0], reference.coef_, atol=1e-9)
    assert np.isfinite(path.loo_).all()


def test_a_read_only_float16_map_is_read_exactly(tmp_path: Path) -> None:
    x, y = regression(100, 12)
    x.astype(np.float16).tofile(tmp_path / "raw")
    mapped = np.memmap(tmp_path / "raw", np.float16, "r", shape=x.shape)
    ours = RidgePath([1.0], standardize=False).fit(mapped, y.astype(np.float32))
    reference = Ridge(1.0).fit(np.asarray(mapped, np.float64), y.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(ours.coef_[0], reference.coef_, rtol=1e-8)


@pytest.mark.parametrize("shape", [(50,), (50, 4)])
def test_the_scores_are_scikit_learns(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    y = generator.standard_normal(shape)
    found = y + 0.3 * generator.standard_normal(shape)
    scores = regression_scores(y, found)
    assert scores.r2 == pytest.approx(r2_score(y, found), rel=1e-12)
    assert scores.mae == pytest.approx(mean_absolute_error(y, found), rel=1e-12)
    assert scores.rmse == pytest.approx(root_mean_squared_error(y, found), rel=1e-12)
    assert regression_scores(np.ones(shape), np.ones(shape)).r2 == 1.0
    assert regression_scores(np.ones(shape), np.zeros(shape)).r2 == 0.0


def test_it_is_a_scikit_learn_estimator() -> None:
    for instance, check in estimator_checks_generator(RidgeProbe((0.1, 1.0))):
        with suppress(SkipTest):
            check(instance)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: RidgePath([0.0]).fit(x, y), "finite number above 0; found .0.0"),
        (lambda x, y: RidgeProbe([]).fit(x, y), "alphas must be at least one"),
        (lambda x, y: RidgePath().fit(x[:1], y[:1]), "minimum of 2 is required"),
        (lambda x, y: RidgePath().fit(x, y[:5]), "inconsistent numbers of samples"),
        (lambda x, y: RidgePath().fit(np.where(x == x[3, 2], np.nan, x), y), "row 3, column 2"),
        (lambda x, y: RidgePath().fit(x, np.where(y == y[0], np.inf, y)), "infinity"),
        (lambda x, y: RidgePath().fit(x, y).predict(x[:, :4]), "expecting 20 features"),
        (lambda x, y: RidgeProbe().fit(x, y, validation=(x, y[:3])), "validation targets"),
        (lambda x, y: RidgeProbe().fit(x, y, validation=(x, y[:, :2])), "validation targets"),
        (lambda x, y: RidgeProbe().fit(x, y, validation=(x[:, :2], y)), "must have 20 columns"),
        (lambda _, y: regression_scores(y, y[:3]), "must both be"),
        (lambda _, y: regression_scores(y, y * np.nan), "must be finite"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*regression(100, 20))


@pytest.mark.parametrize(("rows", "width"), [(120, 20), (15, 40)])
def test_a7_standardised_features_are_scikit_learns_and_no_scale_matters(rows: int, width: int) -> None:
    x, y = regression(rows, width)
    x[:, 3] = 7.1  # does not vary
    reference = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(x, y)
    probe = RidgeProbe(ALPHAS).fit(x, y)
    assert probe.alpha_ == reference[-1].alpha_
    np.testing.assert_allclose(probe.predict(x), reference.predict(x), rtol=1e-8)
    factors = np.logspace(-3, 3, width)
    scaled = RidgeProbe(ALPHAS).fit(x * factors + 11, y)
    np.testing.assert_allclose(scaled.predict(x * factors + 11), probe.predict(x), rtol=1e-6)
