"""The probe of a few labels against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]
from sklearn.utils.estimator_checks import parametrize_with_checks  # type: ignore[import-untyped]

from featurebank.probes.few_labels import FewLabelsProbe
from featurebank.probes.fewshot import k_shot_rows
from featurebank.probes.logistic import LogisticProbe

X, Y = load_digits(return_X_y=True)


def drawn(k: int, draw: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rows = k_shot_rows(Y, k, draw)
    return X[rows], Y[rows]


@pytest.mark.parametrize("k", [1, 4, 6, 15])  # on both sides of N = D = 64
def test_it_is_the_logistic_probe_at_its_c(k: int) -> None:
    x, y = drawn(k)
    probe = FewLabelsProbe().fit(x, y)
    whole = LogisticProbe(probe.C_, tol=1e-8).fit(x, y)
    np.testing.assert_allclose(probe.decision_function(X), whole.decision_function(X), atol=0.02)
    assert (probe.predict(X) == whole.predict(X)).mean() > 0.99


def test_c_is_the_best_of_stratified_folds() -> None:
    x, y = drawn(6)
    Cs = (1e-4, 1e-2, 1.0)
    probe = FewLabelsProbe(Cs, folds=3).fit(x, y)
    scale = x.std(0)
    z = (x - x.mean(0)) / np.where(scale > 0, scale, 1)
    assert len(x) <= x.shape[1]
    right = np.zeros(len(Cs))
    for fitting, held in StratifiedKFold(3, shuffle=True, random_state=0).split(z, y):
        for index, C in enumerate(Cs):
            model = LogisticRegression(C=C, max_iter=5000, tol=1e-8).fit(z[fitting], y[fitting])
            right[index] += (model.predict(z[held]) == y[held]).sum()
    assert right[Cs.index(probe.C_)] >= right.max() - 1


def test_one_row_a_class_has_nothing_to_choose_on() -> None:
    probe = FewLabelsProbe(one_row_C=0.5).fit(*drawn(1))
    assert probe.C_ == 0.5
    assert (probe.predict(X) == Y).mean() > 0.3


def test_d3_a_class_of_one_row_is_fitted_in_every_fold() -> None:
    x, y = drawn(6)
    rows = np.concatenate([np.flatnonzero(y != 4), np.flatnonzero(y == 4)[:1]])
    probe = FewLabelsProbe().fit(x[rows], y[rows])
    ((choice,),) = (probe.choices_,)
    assert max(choice.scores.values()) <= 54  # the one row is never among those that are held out
    assert choice.value == probe.C_
    assert probe.classes_.tolist() == [*range(10)]
    assert (probe.predict(X) == Y)[Y != 4].mean() > 0.7


def test_two_classes_have_one_vector_of_coefficients() -> None:
    x, y = X[Y < 2][:40], Y[Y < 2][:40]
    probe = FewLabelsProbe().fit(x, y)
    assert probe.coef_.shape == (1, 64)
    assert probe.decision_function(X[:5]).shape == (5,)
    assert (probe.predict(X[Y < 2]) == Y[Y < 2]).mean() > 0.98


def test_it_reproduces_to_the_last_digit_and_takes_float16_maps() -> None:
    x, y = drawn(5)
    x = x.astype(np.float16)
    x.flags.writeable = False
    first, second = (FewLabelsProbe(random_state=3).fit(x, y) for _ in range(2))
    np.testing.assert_array_equal(first.coef_, second.coef_)


def test_rows_that_are_all_alike_do_no_harm() -> None:
    probe = FewLabelsProbe().fit(np.ones((6, 3)), np.array([0, 0, 0, 0, 1, 1]))
    assert probe.predict(np.ones((2, 3))).tolist() == [0, 0]


def test_one_class_and_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two classes"):
        FewLabelsProbe().fit(np.ones((3, 2)), np.zeros(3, int))
    with pytest.raises(ValueError, match="finite"):
        FewLabelsProbe().fit(np.array([[np.nan], [1.0]]), np.array([0, 1]))


@parametrize_with_checks([FewLabelsProbe()])  # type: ignore[untyped-decorator]
def test_scikit_learn_conventions(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]
