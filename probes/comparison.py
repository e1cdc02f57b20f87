"""Is one backbone better than another on the same test rows, or was it luck?

Shapes: M test rows, B backbones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes.intervals import bootstrap_means, paired_interval, row_weights
from featurebank.probes.ranking import ranks
from featurebank.probes.weighted import Statistic, check_draws, percentiles, value_of

__all__ = [
    "Comparison",
    "McNemar",
    "PairedBootstrap",
    "compare_all",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "paired_statistics",
    "signed_ranks",
]

EXACT_BELOW = 25
EXACT_UNTIED, EXACT_TIED = 50, 25  # settings up to which all signs of Wilcoxon's ranks are counted


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """What McNemar's test found.

    Attributes:
        only_first: rows only the first has right.
        only_second: rows only the second has right.
        statistic: chi-square with continuity correction; None where the test was exact.
        p_value: two-sided.
    """

    only_first: int
    only_second: int
    statistic: float | None
    p_value: float


@dataclass(frozen=True, kw_only=True)
class PairedBootstrap:
    """A difference in mean score, first minus second, on the same rows.

    Attributes:
        difference: of the means.
        low: lower end of the percentile bootstrap interval.
        high: upper end.
        p_value: two-sided, of no difference.
    """

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every backbone against every other; entry (i, j) is i minus j, or the test of i against j.

    Attributes:
        names: B.
        accuracy: (B,) float64.
        difference: (B, B) float64, of accuracies.
        low: (B, B) float64, lower end of the difference's 95 % interval; see `paired_interval`.
        high: (B, B) float64, upper end.
        p_value: (B, B) float64, McNemar's, 1 on the diagonal.
        p_holm: (B, B) float64, the same corrected for the B (B - 1) / 2 tests.
    """

    names: tuple[str, ...]
    accuracy: NDArray[np.float64]
    difference: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p_value: NDArray[np.float64]
    p_holm: NDArray[np.float64]


def mcnemar(first: ArrayLike, second: ArrayLike, *, exact_below: int = EXACT_BELOW) -> McNemar:
    """McNemar's test of two classifiers that were right or wrong on the same rows (McNemar 1947, Edwards 1948).

    Of the n rows that only one of them has right, equal classifiers get half each. Below ``exact_below`` such rows the
    two-sided binomial probability, exactly; else chi-square with one degree of freedom of (|b - c| - 1)^2 / (b + c).

    >>> mcnemar([True] * 9 + [False], [False] * 8 + [True] * 2).p_value  # 8 against 1: 2 * (1 + 9) / 2**9
    0.0390625

    Args:
        first: (M,) bool, right or wrong.
        second: (M,) bool, on the same rows.
        exact_below: discordant rows from which on chi-square is used.

    Raises:
        ValueError: the arrays are not bool of one shape (M,), or have no rows.
    """
    left, right = _correct("first", first), _correct("second", second)
    if left.shape != right.shape:
        raise ValueError(f"first and second must be of the same rows, got {left.shape} and {right.shape}")
    b, c = int((left & ~right).sum()), int((right & ~left).sum())
    n = b + c
    if n < exact_below:
        tail = sum(math.comb(n, wins) for wins in range(min(b, c) + 1))
        return McNemar(only_first=b, only_second=c, statistic=None, p_value=min(1.0, 2 * tail / 2**n))
    statistic = max(abs(b - c) - 1, 0) ** 2 / n
    return McNemar(only_first=b, only_second=c, statistic=statistic, p_value=math.erfc(math.sqrt(statistic / 2)))


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, *, draws: int = 10000, level: float = 0.95, random_state: int = 0
) -> PairedBootstrap:
    """The difference in mean of a per-row score, rows drawn with replacement for both at once.

    The p-value is the share of draws, the observed one counted in, whose difference lies at least as far from the
    observed difference as that lies from 0 (Efron and Tibshirani 1993, chapter 16); it is at least 1 / (draws + 1).

    Args:
        first: (M,) numbers or bool.
        second: (M,), of the same rows.
        draws: resamples.
        level: of the interval.
        random_state: of the draws.

    Raises:
        ValueError: the arrays are not finite numbers of one shape (M,), there are no rows, ``draws`` is below 1 or
            ``level`` is not between 0 and 1.
    """
    check_draws(draws, level)
    left, right = np.asarray(first), np.asarray(second)
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(f"first and second must be (M,) of the same rows, got {left.shape} and {right.shape}")
    differences = left.astype(np.float64) - right.astype(np.float64)
    drawn = bootstrap_means(differences, draws=draws, random_state=random_state)
    return _tested(float(differences.mean()), drawn, level)


def paired_statistics(
    first: Statistic, second: Statistic, rows: int, *, draws: int = 2000, level: float = 0.95, random_state: int = 0
) -> PairedBootstrap:
    """The difference of any metric of M rows, drawn with replacement for both at once; as `paired_bootstrap`.

    Args:
        first: as a function of row weights; see `featurebank.probes.weighted`.
        second: of the same rows.
        rows: M.
        draws: resamples; those that do not define both metrics are passed over.
        level: of the interval.
        random_state: of the draws.

    Raises:
        ValueError: as `featurebank.probes.intervals.weighted_interval`.
    """
    check_draws(draws, level)
    blocks = row_weights(rows, draws=draws, random_state=random_state)
    drawn = np.concatenate([first(weights) - second(weights) for weights in blocks])
    return _tested(value_of(first, rows) - value_of(second, rows), drawn[~np.isnan(drawn)], level)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """The p-values (T,) of T tests, corrected so that one false rejection is as likely as the level (Holm 1979).

    >>> holm([0.01, 0.04, 0.03, 0.005])
    array([0.03, 0.06, 0.06, 0.02])

    Raises:
        ValueError: they are not (T,), or one is outside 0..1.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values must be of shape (T,) and in 0..1, got {p.shape}: {p}")
    order = p.argsort(kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected


def signed_ranks(differences: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p-values (P,) of Wilcoxon's signed-rank test (1945) for P pairs of backbones over S settings.

    Settings without a difference are left out. All signs that the ranks might have had are counted, up to 50 settings,
    or 25 where differences are tied; beyond, the sum of positive ranks is taken as normal. No setting knows of another
    pair, so that a p-value does not depend on who else is compared.

    >>> signed_ranks([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, -0.05]]).tolist()  # two of 256, and two more extreme ones
    [0.015625]

    Args:
        differences: (P, S), of values in the same setting, or of z-scores where settings have several units.

    Raises:
        ValueError: they are not finite numbers (P, S).
    """
    table = np.asarray(differences, np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"differences must be finite numbers (P, S), found shape {table.shape}")
    different = (table != 0).sum(1)
    # those without a difference come before all others, whose ranks then begin at 1
    places = ranks(-np.abs(table).T).T - (table.shape[1] - different)[:, None]
    places = np.where(table != 0, places, 0.0)
    positive, variance = (places * (table > 0)).sum(1), np.square(places).sum(1) / 4
    spread = np.sqrt(np.where(variance > 0, variance, 1.0))
    far = np.abs(positive - different * (different + 1) / 4) / spread
    p_values = np.array([math.erfc(one / math.sqrt(2)) for one in far.tolist()])
    tied = variance < different * (different + 1) * (2 * different + 1) / 24 - 0.1
    for n in np.unique(different[~tied & (different <= EXACT_UNTIED)]).tolist():
        alike = ~tied & (different == n)
        p_values[alike] = _two_sided(tuple(range(1, n + 1)))[positive[alike].astype(int)]
    for at in np.flatnonzero(tied & (different <= EXACT_TIED)).tolist():
        halves = np.sort(2 * places[at]).astype(int)[-different[at] :]
        p_values[at] = _two_sided(tuple(halves.tolist()))[int(2 * positive[at])]
    return p_values


@functools.lru_cache(maxsize=1024)
def _two_sided(steps: tuple[int, ...]) -> NDArray[np.float64]:
    """The p-value of each sum that some of the steps may have, if each is taken or not with the same chance."""
    chances = np.ones(1)
    for step in steps:
        longer = np.zeros(len(chances) + step)
        longer[: len(chances)] += chances / 2
        longer[step:] += chances / 2
        chances = longer
    up_to = chances.cumsum()
    return np.asarray(np.minimum(2 * np.minimum(up_to, up_to[::-1]), 1.0))


def compare_all(correct: Mapping[str, ArrayLike]) -> Comparison:
    """Every pair of backbones: difference in accuracy, its interval, and McNemar's test with Holm's correction.

    Args:
        correct: per backbone, (M,) bool: right or wrong on each of the same test rows.

    Raises:
        ValueError: there are fewer than two backbones, or their arrays are not bool of one shape (M,).
    """
    names = tuple(correct)
    if len(names) < 2:
        raise ValueError(f"a comparison needs at least two backbones, got {len(names)}")
    rows = {name: _correct(name, correct[name]) for name in names}
    if len({len(values) for values in rows.values()}) != 1:
        raise ValueError(
            f"all backbones must be scored on the same rows, got { ({n: len(v) for n, v in rows.items()}) } rows"
        )
    size = len(names)
    difference, low, high = np.zeros((3, size, size))
    p_value, p_holm = np.ones((2, size, size))
    upper = np.triu_indices(size, 1)
    for i, j in zip(*upper, strict=True):
        left, right = rows[names[i]], rows[names[j]]
        test = mcnemar(left, right)
        low[i, j], high[i, j] = paired_interval(test.only_first, test.only_second, len(left))
        difference[i, j] = (test.only_first - test.only_second) / len(left)
        difference[j, i], low[j, i], high[j, i] = -difference[i, j], -high[i, j], -low[i, j]
        p_value[i, j] = p_value[j, i] = test.p_value
    p_holm[upper] = p_holm.T[upper] = holm(p_value[upper])
    return Comparison(
        names=names,
        accuracy=np.array([rows[name].mean() for name in names]),
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        p_holm=p_holm,
    )


def _tested(observed: float, drawn: NDArray[np.float64], level: float) -> PairedBootstrap:
    """The interval and the p-value of an observed difference from drawn ones."""
    if not len(drawn):
        raise ValueError("the metrics must be defined for some drawn rows; found none")
    low, high = percentiles(drawn, level)
    beyond = int((np.abs(drawn - observed) >= abs(observed) * (1 - 1e-9)).sum())
    p_value = (beyond + 1) / (len(drawn) + 1)
    return PairedBootstrap(difference=observed, low=low, high=high, p_value=p_value)


def _correct(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype != np.bool_ or not len(array):
        raise ValueError(
            f"{name} must be bool of shape (M,), right or wrong per row, at least one, got {array.dtype} {array.shape}"
        )
    return array
