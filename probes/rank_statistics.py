"""What ranks over many settings say: Friedman's test, Nemenyi's critical difference, wins, Bradley and Terry's model.

Demšar (2006), *Statistical comparisons of classifiers over multiple data sets*. All of it compares a backbone by way of
the others in the table: with other ones beside them two backbones may be told apart or not (Benavoli et al. 2016,
arXiv:1505.02288). `featurebank.probes.comparison.signed_ranks` compares two by their own values.

Shapes: B backbones, S settings. Values are (B, S), greater is better.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.typing import ArrayLike, NDArray

from featurebank.probes.ranking import ranks, z_scores

__all__ = [
    "Friedman",
    "bradley_terry",
    "cliques",
    "correlations",
    "critical_difference",
    "friedman",
    "nemenyi",
    "win_rates",
    "wins",
]

Floats = NDArray[np.float64]
FARTHEST = 12.0  # ranges of normal variables that are wider have no probability left in float64


@dataclass(frozen=True, kw_only=True)
class Friedman:
    """What Friedman's test found: are the backbones' mean ranks further apart than chance would have them?

    Attributes:
        statistic: chi-square, corrected for ties.
        p_value: of it.
        f_statistic: Iman and Davenport's (1980), of B - 1 and (B - 1)(S - 1) degrees of freedom; less conservative.
        concordance: Kendall's W in 0..1: 1 where all settings rank alike.
    """

    statistic: float
    p_value: float
    f_statistic: float
    concordance: float


def friedman(values: ArrayLike) -> Friedman:
    """Friedman's test (1937) of B backbones in S settings.

    >>> found = friedman([[3.0, 3.0, 3.0], [2.0, 2.0, 1.0], [1.0, 1.0, 2.0]])
    >>> round(found.statistic, 3), round(found.p_value, 3), round(found.concordance, 3)
    (4.667, 0.097, 0.778)

    Raises:
        ValueError: values that are not finite numbers (B, S), or of fewer than two backbones.
    """
    places = _table(values)
    size, settings = places.shape
    middle = (size + 1) / 2
    between = settings * float(np.square(places.mean(1) - middle).sum())
    total = float(np.square(places - middle).sum())
    concordance = between / total if total else 0.0
    statistic = settings * (size - 1) * concordance
    return Friedman(
        statistic=statistic,
        p_value=_chi_square_tail(statistic, size - 1),
        f_statistic=(settings - 1) * concordance / (1 - concordance) if concordance < 1 else math.inf,
        concordance=concordance,
    )


def critical_difference(backbones: int, settings: int, *, level: float = 0.05) -> float:
    """How far apart two mean ranks must be for Nemenyi's test (1963) to tell them apart.

    >>> round(critical_difference(4, 14), 4), round(critical_difference(4, 14, level=0.1), 4)
    (1.2536, 1.1181)

    Args:
        backbones: B, at least two.
        settings: S.
        level: of the test, over all pairs.

    Raises:
        ValueError: too few, or ``level`` not between 0 and 1.
    """
    if backbones < 2 or settings < 1 or not 0 < level < 1:
        raise ValueError(
            f"a critical difference needs two backbones, a setting and a level in 0..1, found {backbones}, {settings} "
            f"and {level}"
        )
    tail = _range_tail(backbones)
    near, far = 0.0, FARTHEST
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if float(tail(middle)) > level else (near, middle)
    return near * _unit(backbones, settings)


def nemenyi(values: ArrayLike) -> Floats:
    """p-values (B, B) of Nemenyi's test of each two backbones, corrected for all pairs; 1 on the diagonal.

    Raises:
        ValueError: as of `friedman`.
    """
    places = _table(values)
    mean = places.mean(1)
    apart = np.abs(mean[:, None] - mean) / _unit(*places.shape)
    p_values: Floats = np.clip(_range_tail(len(places))(apart.clip(max=FARTHEST)), 0.0, 1.0)
    return p_values


def cliques(mean_ranks: ArrayLike, difference: float) -> list[tuple[int, int]]:
    """The longest runs of backbones whose mean ranks are less than a critical difference apart.

    >>> cliques([1.0, 1.5, 2.2, 4.0], 1.0)
    [(0, 1), (1, 2)]

    Args:
        mean_ranks: (B,), ascending.
        difference: see `critical_difference`.

    Returns:
        The first and the last of each run of two or more.
    """
    mean = np.asarray(mean_ranks, np.float64)
    last = np.searchsorted(mean, mean + difference, "left") - 1
    before = np.concatenate([[-1], last[:-1]])
    return [(at, int(end)) for at, end in enumerate(last) if end > at and end > before[at]]


def wins(values: ArrayLike) -> Floats:
    """In how many settings (B, B) the backbone of the row beats that of the column; a tie is half a win of both.

    >>> wins([[3.0, 1.0], [2.0, 1.0]]).tolist()
    [[0.0, 1.5], [0.5, 0.0]]

    Raises:
        ValueError: as of `friedman`.
    """
    places = _table(values)
    won = np.stack([((one < places) + 0.5 * (one == places)).sum(1) for one in places])
    np.fill_diagonal(won, 0.0)
    return won


def win_rates(values: ArrayLike) -> Floats:
    """(B,) share of the others that a backbone beats, meaned over settings (HELM's mean win rate); a tie is a half.

    Raises:
        ValueError: as of `friedman`.
    """
    places = _table(values)
    rates: Floats = (len(places) - places.mean(1)) / (len(places) - 1)
    return rates


def bradley_terry(won: ArrayLike, *, prior: float = 0.01) -> Floats:
    """Strengths (B,) of mean 0 under which the one with u beats the one with v at odds of exp(u - v).

    Bradley and Terry (1952), by maximum likelihood. The prior keeps finite who wins or loses always.

    >>> strength = bradley_terry([[0.0, 3.0], [1.0, 0.0]], prior=0.0)
    >>> round(float(strength[0] - strength[1]), 4)  # log 3
    1.0986

    Args:
        won: (B, B), see `wins`.
        prior: wins that each has over each other beside those.

    Raises:
        ValueError: counts that are not (B, B), below 0 or not finite; or strengths that without a prior have no bound.
    """
    counts = np.asarray(won, np.float64)
    size = len(counts)
    if counts.shape != (size, size) or size < 2 or not np.isfinite(counts).all() or (counts < 0).any() or prior < 0:
        raise ValueError(f"won must be counts (B, B) of two backbones or more, and prior at least 0; found {counts}")
    counts = counts + prior
    np.fill_diagonal(counts, 0.0)
    games, strength = counts + counts.T, np.zeros(size)
    unbounded = "strengths must have a bound; found none, as some never lose to the others: give a prior"
    for _ in range(200):
        expected = games / (1 + np.exp(strength - strength[:, None]))
        slope = (counts - expected).sum(1)
        curved = expected * expected.T / np.where(games > 0, games, 1.0)
        # strengths are known up to a constant: the ones keep their mean at 0
        try:
            step = np.linalg.solve(np.diag(curved.sum(1)) - curved + 1 / size, slope)
        except np.linalg.LinAlgError:
            raise ValueError(unbounded) from None
        strength = strength + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            return np.asarray(strength - strength.mean())
    raise ValueError(unbounded)


def correlations(values: ArrayLike, kind: Literal["pearson", "spearman"] = "spearman") -> Floats:
    """How alike settings (S, S) judge the backbones; NaN of a setting in which all are equal.

    Raises:
        ValueError: as of `friedman`, or another kind.
    """
    if kind not in {"pearson", "spearman"}:
        raise ValueError(f"kind must be 'pearson' or 'spearman', found {kind!r}")
    places = _table(values)
    z = z_scores(-places if kind == "spearman" else values)
    differing = np.asarray(z.any(0))
    matrix: Floats = np.where(differing & differing[:, None], z.T @ z / len(z), np.nan)
    return matrix


def _table(values: ArrayLike) -> Floats:
    """Ranks (B, S) in each setting, of two backbones or more."""
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or len(table) < 2:
        raise ValueError(f"values must be (B, S) of two backbones or more, found shape {table.shape}")
    return ranks(table)


def _unit(size: int, settings: int) -> float:
    """The standard deviation of a mean rank, from differences of which the range of B normal variables follows."""
    return math.sqrt(size * (size + 1) / (12 * settings))


def _chi_square_tail(x: float, degrees: int) -> float:
    """The chance of more than x: a finite sum for whole degrees of freedom."""
    half = x / 2
    if half == 0:
        return 1.0
    total = math.erfc(math.sqrt(half)) if degrees % 2 else 0.0
    for at in np.arange(0.5 * (degrees % 2), degrees / 2).tolist():
        total += math.exp(at * math.log(half) - half - math.lgamma(at + 1))
    return min(total, 1.0)


@functools.cache
def _range_tail(size: int) -> Callable[[float | Floats], Floats]:
    """The chance that the range of B standard normal variables is more than q, for q in 0..`FARTHEST`.

    One less the integral of B phi(z) (Phi(z) - Phi(z - q))^(B - 1), at Chebyshev's nodes: it is smooth in q.
    """
    z, step = np.linspace(-9, 9, 601, retstep=True)
    below = np.vectorize(lambda at: 0.5 * math.erfc(-at / math.sqrt(2)), otypes=[np.float64])
    density, reached = np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi), below(z)

    def tail(q: Floats) -> Floats:
        within = np.clip(reached - below(z - q[:, None]), 0.0, 1.0)
        return np.asarray(1 - size * step * (density * within ** (size - 1)).sum(1))

    polynomial: Callable[[float | Floats], Floats] = Chebyshev.interpolate(tail, 100, domain=[0.0, FARTHEST])
    return polynomial
