"""The paired tests against SciPy, hand formulas and published numbers, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from featurebank.probes.comparison import compare_all, holm, mcnemar, paired_bootstrap
from featurebank.probes.intervals import paired_interval


def paired(b: int, c: int, both: int = 50) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows of which b only the first has right and c only the second."""
    first = np.repeat([True, False, True], [b, c, both])
    second = np.repeat([False, True, True], [b, c, both])
    return first, second


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 5), (5, 5), (8, 1), (6, 18), (12, 12), (24, 0)])
def test_few_discordant_rows_are_tested_exactly(b: int, c: int) -> None:
    found = mcnemar(*paired(b, c))
    assert (found.only_first, found.only_second, found.statistic) == (b, c, None)
    assert found.p_value == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1.0, rel=1e-12)


@pytest.mark.parametrize(("b", "c"), [(13, 12), (25, 0), (13, 13), (60, 40), (400, 520)])
def test_many_discordant_rows_are_tested_by_chi_square(b: int, c: int) -> None:
    found = mcnemar(*paired(b, c))
    statistic = (abs(b - c) - 1) ** 2 / (b + c) if b != c else 0.0
    assert found.statistic == pytest.approx(statistic, rel=1e-15)
    assert found.p_value == pytest.approx(stats.chi2.sf(statistic, df=1), rel=1e-12)
    assert found.p_value == mcnemar(*paired(c, b)).p_value


def test_the_exact_test_may_be_asked_for_any_number_of_rows() -> None:
    found = mcnemar(*paired(60, 40), exact_below=101)
    assert found.statistic is None
    assert found.p_value == pytest.approx(stats.binomtest(60, 100).pvalue, rel=1e-12)


@pytest.mark.parametrize("kind", ["right or wrong", "scores"])
def test_the_interval_is_scipys(kind: str) -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 300)) + generator.normal(size=300) + [[0.15], [0.0]]
    if kind == "right or wrong":
        first, second = first > 0, second > 0
    found = paired_bootstrap(first, second, draws=20000)
    differences = first.astype(np.float64) - second.astype(np.float64)
    expected = stats.bootstrap(
        (differences,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.difference == pytest.approx(differences.mean(), rel=1e-12)
    np.testing.assert_allclose((found.low, found.high), expected, atol=0.05 * (expected.high - expected.low))
    drawn = differences[np.random.default_rng(2).integers(0, 300, (20000, 300))].mean(1)
    far = np.abs(drawn - differences.mean()) > abs(differences.mean()) - 1e-12
    assert found.p_value == pytest.approx(far.mean(), abs=0.02)


def test_swapping_the_two_turns_the_difference_round() -> None:
    first, second = paired(40, 20)
    found, other = paired_bootstrap(first, second), paired_bootstrap(second, first)
    assert found.difference == -other.difference
    np.testing.assert_allclose((found.low, found.high), (-other.high, -other.low), atol=0.01)
    assert found.p_value == pytest.approx(other.p_value, abs=0.01)


def test_no_difference_and_a_constant_one() -> None:
    same = paired_bootstrap([0.1, 0.5, 0.2], [0.1, 0.5, 0.2])
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    constant = paired_bootstrap([1.5, 2.5, 3.5], [1, 2, 3], draws=999)
    assert (constant.difference, constant.low, constant.high, constant.p_value) == (0.5, 0.5, 0.5, 0.001)


def test_p_values_of_equal_classifiers_are_uniform() -> None:
    generator = np.random.default_rng(0)
    p = [paired_bootstrap(*generator.normal(size=(2, 80)), draws=500, random_state=s).p_value for s in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_it_reproduces_to_the_last_digit() -> None:
    pair = np.random.default_rng(0).normal(size=(2, 200))
    assert paired_bootstrap(*pair, random_state=3) == paired_bootstrap(*pair, random_state=3)
    assert paired_bootstrap(*pair, random_state=3) != paired_bootstrap(*pair, random_state=4)


def test_holm_is_rs() -> None:
    # p.adjust(c(0.01, 0.02, 0.022, 0.09, 0.4, 0.022), "holm")
    np.testing.assert_allclose(holm([0.01, 0.02, 0.022, 0.09, 0.4, 0.022]), [0.06, 0.1, 0.1, 0.18, 0.4, 0.1])
    assert holm([0.5, 0.9, 0.8]).tolist() == [1, 1, 1]
    assert holm([0.03]).tolist() == [0.03]


def test_every_pair_is_the_test_of_that_pair() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(500)
    correct = {name: hard < share for name, share in (("a", 0.5), ("b", 0.55), ("c", 0.7))}
    correct["d"] = generator.random(500) < 0.6
    found = compare_all(correct)
    assert found.names == ("a", "b", "c", "d")
    assert found.accuracy.tolist() == [values.mean() for values in correct.values()]
    for i, first in enumerate(correct.values()):
        for j, second in enumerate(correct.values()):
            assert found.difference[i, j] == pytest.approx(first.mean() - second.mean(), abs=1e-15)
            assert found.p_value[i, j] == mcnemar(first, second).p_value
            assert found.low[i, j] <= found.difference[i, j] <= found.high[i, j]
            if i < j:
                low, high = paired_interval(int((first & ~second).sum()), int((second & ~first).sum()), 500)
                assert (found.low[i, j], found.high[i, j]) == (low, high)
                assert (found.low[j, i], found.high[j, i]) == (-high, -low)
                pair = paired_bootstrap(first, second, draws=2000)
                np.testing.assert_allclose((low, high), (pair.low, pair.high), atol=0.006)
    upper = np.triu_indices(4, 1)
    assert found.p_holm[upper].tolist() == holm(found.p_value[upper]).tolist()
    assert found.p_holm.tolist() == found.p_holm.T.tolist()
    assert np.diag(found.p_holm).tolist() == [1] * 4


RIGHT = np.array([True, False])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcnemar(RIGHT, [True]), "first and second must be of the same rows"),
        (lambda: mcnemar([1, 0], RIGHT), r"first must be bool of shape \(M,\).*got int64"),
        (lambda: mcnemar(RIGHT[:0], RIGHT[:0]), "at least one"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0]), "the same rows"),
        (lambda: paired_bootstrap([1.0, np.nan], [1.0, 2.0]), "finite, got nan in row 1"),
        (lambda: paired_bootstrap([], []), "at least one"),
        (lambda: paired_bootstrap([1.0], [1.0], draws=0), "draws at least 1"),
        (lambda: paired_bootstrap([1.0], [1.0], level=95), "level must be between 0 and 1"),
        (lambda: holm([0.5, 1.5]), r"in 0\.\.1"),
        (lambda: compare_all({"a": RIGHT}), "at least two backbones, got 1"),
        (lambda: compare_all({"a": RIGHT, "b": RIGHT[:1]}), "same rows, got {'a': 2, 'b': 1}"),
        (lambda: compare_all({"a": RIGHT, "b": [0.5, 1.0]}), "b must be bool"),
    ],
)
def test_bad_input_is_one_clear_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
