"""Ranks over many settings: published tables to four digits, SciPy, scikit-posthocs, choix, places drawn again."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import choix
import numpy as np
import pytest
import scikit_posthocs  # type: ignore[import-untyped]
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from featurebank.probes.comparison import holm, signed_ranks
from featurebank.probes.placing import places, redrawn_settings, redrawn_values
from featurebank.probes.rank_statistics import (
    bradley_terry,
    cliques,
    correlations,
    critical_difference,
    friedman,
    nemenyi,
    win_rates,
    wins,
)
from featurebank.probes.ranking import ranks, setting_weights, z_scores

Floats = NDArray[np.float64]

# AUC of C4.5 and of three ways to tune it on 14 sets, as printed in Demšar (2006), table 2.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.975, 0.975], [0.957, 0.978, 0.946, 0.970],
]).T  # fmt: skip


@pytest.fixture(scope="module")
def published() -> Floats:
    """MRR of 33 backbones on 8 sets, Battle of the Backbones."""
    with Path(__file__).with_name("bob_retrieval_mrr.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return np.array([row[1:] for row in rows], np.float64)


@pytest.fixture(scope="module")
def names() -> list[str]:
    with Path(__file__).with_name("bob_retrieval_mrr.csv").open(encoding="utf-8", newline="") as file:
        return [row[0] for row in csv.reader(file)][1:]


def test_friedmans_test_is_scipys_with_its_correction_for_ties(published: Floats) -> None:
    found = friedman(published)
    assert round(found.statistic, 4) == 191.0268
    assert f"{found.p_value:.1e}" == "1.5e-24"
    assert round(found.concordance, 4) == 0.7462
    assert round(found.f_statistic, 3) == 20.581
    for table in (published, published[:6], DEMSAR, published[:3, :3].round(1), np.eye(5, 4)):
        statistic, p_value = stats.friedmanchisquare(*table)
        assert friedman(table).statistic == pytest.approx(statistic, rel=1e-12)
        assert friedman(table).p_value == pytest.approx(p_value, rel=1e-9)


def test_friedmans_test_of_equal_or_opposite_or_agreeing_backbones() -> None:
    assert friedman(np.ones((3, 4))).p_value == 1.0
    assert friedman([[1.0, 2.0], [2.0, 1.0]]).concordance == 0.0
    agreeing = friedman([[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]])
    assert (agreeing.concordance, agreeing.f_statistic) == (1.0, np.inf)


def test_demsars_printed_table() -> None:
    mean = ranks(DEMSAR).mean(1)
    assert mean.round(3).tolist() == [3.143, 2.0, 2.929, 1.929]
    assert round(12 * 14 / 20 * np.square(mean - 2.5).sum(), 3) == 9.857, "without the correction for ties"
    assert round(friedman(DEMSAR).statistic, 3) == 10.952
    assert round(friedman(DEMSAR).p_value, 4) == 0.012
    assert round(critical_difference(4, 14), 4) == 1.2536
    assert round(critical_difference(4, 14, level=0.1), 4) == 1.1181
    assert nemenyi(DEMSAR)[0, [3, 1]].round(4).tolist() == [0.0617, 0.0887]


def test_nemenyis_test_is_that_of_scikit_posthocs(published: Floats) -> None:
    assert critical_difference(33, 8) == pytest.approx(18.349, abs=5e-4)
    assert critical_difference(33, 8) / np.sqrt(33 * 34 / 48) == pytest.approx(3.7952, abs=5e-5)
    for table in (published, DEMSAR):
        reference = scikit_posthocs.posthoc_nemenyi_friedman(-table.T).to_numpy()
        np.testing.assert_allclose(nemenyi(table), reference, atol=1e-10)
    upper = np.triu_indices(33, 1)
    mean = ranks(published).mean(1)
    assert int((nemenyi(published)[upper] < 0.05).sum()) == 61
    assert int((np.abs(mean[:, None] - mean)[upper] > critical_difference(33, 8)).sum()) == 61
    assert int((mean < mean.min() + critical_difference(33, 8)).sum()) == 25
    assert cliques(np.sort(mean), critical_difference(33, 8))[0] == (0, 24)


@pytest.mark.parametrize("backbones", [2, 10, 300])
@pytest.mark.parametrize("level", [0.1, 0.05, 1e-4])
def test_critical_differences_are_quantiles_of_the_studentized_range(backbones: int, level: float) -> None:
    q = stats.studentized_range.ppf(1 - level, backbones, np.inf)
    unit = np.sqrt(backbones * (backbones + 1) / (6 * 7) / 2)
    assert critical_difference(backbones, 7, level=level) == pytest.approx(q * unit, rel=1e-6)


def test_cliques_are_the_longest_runs_that_are_not_told_apart() -> None:
    assert cliques([1.0, 3.0, 5.0], 1.5) == []
    assert cliques([1.0, 2.0, 2.5, 4.0, 4.1], 1.7) == [(0, 2), (2, 4)]
    assert cliques([1.0, 1.0], 0.5) == [(0, 1)]
    assert cliques([1.0, 2.0], 1.0) == [], "a difference that is reached tells apart"


def test_win_rates_and_mean_ranks_of_the_first_five(published: Floats, names: list[str]) -> None:
    first = np.argsort(-z_scores(published).mean(1))[:5]
    assert [names[at].removeprefix("timm-").partition("_window")[0] for at in first] == [
        "swinv2_base", "convnext_xlarge_in22ft1k", "convnext_base_in22ft1k", "swinv2_base", "swinv2_large",
    ]  # fmt: skip
    assert ranks(published).mean(1)[first].tolist() == [4.375, 5.0, 5.25, 5.625, 6.0625]
    assert z_scores(published).mean(1)[first].round(4).tolist() == [1.0306, 0.9931, 0.9757, 0.9594, 0.9364]
    sample = z_scores(published, deviation="sample").mean(1)
    assert sample[first].round(4).tolist() == [1.0148, 0.9779, 0.9608, 0.9447, 0.9222]
    assert win_rates(published)[first].round(4).tolist() == [0.8945, 0.875, 0.8672, 0.8555, 0.8418]
    several = {name: at for at, name in enumerate(names)}
    moved = [several[name] for name in ("clip-vit_base_patch16_224", "timm-convnext_small_in22ft1k")]
    moved.append(several["clip-vit_large_patch14_224"])
    assert ranks(published).mean(1)[moved].round(3).tolist() == [8.438, 9.125, 9.375]
    assert z_scores(published).mean(1)[moved].round(4).tolist() == [0.7537, 0.7642, 0.8]


def test_orders_by_z_rank_mean_and_strength_correlate_as_published(published: Floats) -> None:
    z, rank = z_scores(published).mean(1), -ranks(published).mean(1)
    assert round(stats.spearmanr(z, rank).statistic, 4) == 0.9896
    assert round(stats.spearmanr(z, published.mean(1)).statistic, 4) == 0.9816
    strength = bradley_terry(wins(published))
    assert stats.spearmanr(strength, rank).statistic == pytest.approx(1), "all meet all: who wins more is stronger"
    smoothed = choix.ilsr_pairwise_dense(wins(published), alpha=0.01, max_iter=1000)
    assert round(stats.spearmanr(smoothed, rank).statistic, 4) == 0.9999
    np.testing.assert_allclose(strength, smoothed, atol=0.25)


def test_wins_count_ties_as_halves() -> None:
    values = np.array([[3.0, 1.0, 2.0], [3.0, 0.0, 5.0], [1.0, 1.0, 5.0]])
    won = wins(values)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        better = (values[one] > values[other]).sum() + 0.5 * (values[one] == values[other]).sum()
        assert (won[one, other], won[other, one]) == (better, 3 - better)
    np.testing.assert_allclose(win_rates(values), won.sum(1) / 6)


def test_strengths_are_those_of_choix(published: Floats) -> None:
    won = wins(published)
    reference = choix.ilsr_pairwise_dense(won + 0.01 * (1 - np.eye(33)), max_iter=1000)
    np.testing.assert_allclose(bradley_terry(won), reference - reference.mean(), atol=1e-6)
    always = bradley_terry([[0.0, 40.0], [0.0, 0.0]])
    assert always[0] - always[1] == pytest.approx(np.log(40.01 / 0.01))


def test_settings_correlate_as_published(published: Floats) -> None:
    upper = np.triu_indices(8, 1)
    found = correlations(published)[upper]
    assert round(found.mean(), 4) == 0.7099
    assert round(correlations(published, "pearson")[upper].mean(), 4) == 0.7472
    assert (round(found.min(), 4), round(found.max(), 4)) == (0.4151, 0.9823)
    assert round((found > 0.8).mean(), 2) == 0.29
    np.testing.assert_allclose(correlations(published), stats.spearmanr(published).statistic, atol=1e-12)
    np.testing.assert_allclose(correlations(published, "pearson"), np.corrcoef(published.T), atol=1e-12)
    equal = correlations([[0.1, 1.0, 2.0], [0.1, 2.0, 1.0]])
    np.testing.assert_allclose(equal, [[np.nan] * 3, [np.nan, 1, -1], [np.nan, -1, 1]])


@pytest.mark.parametrize("settings", [5, 8, 40, 60])
@pytest.mark.parametrize("tied", [False, True])
def test_signed_ranks_are_scipys(settings: int, tied: bool) -> None:
    differences = np.random.default_rng(settings).normal(0.2, 1, (12, settings))
    if tied:
        differences = differences.round(1)
    method: Any = "approx" if tied or settings > 50 else "exact"
    if settings <= 8:
        method = stats.PermutationMethod(n_resamples=10**4)  # all there are
    reference = [stats.wilcoxon(row, method=method).pvalue for row in differences]
    np.testing.assert_allclose(signed_ranks(differences), reference, atol=1e-12)


def test_few_settings_decide_no_pair_of_many(published: Floats) -> None:
    one, other = np.triu_indices(33, 1)
    p_values = signed_ranks(published[one] - published[other])
    assert p_values.min() == 2 / 2**8
    assert holm(p_values).min() == 1.0
    assert signed_ranks([[0.0, 0.0], [0.3, 0.0]]).tolist() == [1.0, 1.0]


def test_settings_drawn_again_say_how_sure_the_published_places_are(published: Floats, names: list[str]) -> None:
    z = z_scores(published)
    found = places(z.mean(1), redrawn_settings(z, ["retrieval"] * 8, draws=2000))
    order = np.argsort(found.place)
    assert [names[at].partition("_window")[0] for at in order[:2]] == [
        "timm-swinv2_base", "timm-convnext_xlarge_in22ft1k",
    ]  # fmt: skip
    assert found.first[order[:2]].round(2).tolist() == [0.6, 0.18]
    assert (found.low[order[0]], found.high[order[0]]) == (1, 5)
    assert np.median(found.high - found.low) == 7
    assert (found.ahead >= 0.95).mean().round(2) == 0.16
    assert found.first.sum() == pytest.approx(1)


def test_a_task_of_many_settings_weighs_as_one_of_few_in_each_draw() -> None:
    scores = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    tasks = ["one", "many", "many", "many"]
    assert (scores @ setting_weights(tasks)).tolist() == [0.5, 0.5]
    drawn = redrawn_settings(scores, tasks, draws=400, random_state=1)
    both, many_alone, one_alone = (np.isclose(drawn, of).all(1) for of in ([0.5, 0.5], [0, 1], [1, 0]))
    assert (both | many_alone | one_alone).all()
    assert many_alone.mean() == pytest.approx(0.75**4, abs=0.06)
    assert one_alone.mean() == pytest.approx(0.25**4, abs=0.01)


def test_values_are_drawn_from_their_own_intervals() -> None:
    values = np.array([[0.5, 0.8], [0.6, 0.2]])
    low = values - np.array([[0.1, 0.05], [np.nan, 0.0]])
    high = values + np.array([[0.2, 0.05], [np.nan, 0.0]])
    drawn = redrawn_values(values, low, high, ["a", "a"], lambda tables: tables, draws=20_000)
    assert drawn[:, 1].tolist() == [0.4] * 20_000, "no interval, and one without width: as they are"
    first = redrawn_values(values[:1], low[:1], high[:1], ["a", "a"], lambda tables: tables, draws=20_000)
    deviation = np.sqrt((0.1**2 + 0.2**2) / 2 + 0.05**2) / 1.96 / 2
    spread = np.sqrt(np.mean(np.square(first - 0.65)))
    assert spread == pytest.approx(deviation, rel=0.02)
    ranked = redrawn_values(values, low, high, ["a", "a"], lambda tables: -ranks(tables), draws=500)
    assert {*ranked.ravel().tolist()} == {-1.0, -1.5, -2.0}
    np.testing.assert_array_equal(ranked, redrawn_values(values, low, high, ["a", "a"], lambda t: -ranks(t), draws=500))


def test_equal_backbones_share_a_place_and_the_draws_in_which_they_are_first() -> None:
    found = places([1.0, 1.0 + 1e-14, 0.0], np.tile([2.0, 2.0, 1.0], (10, 1)))
    assert found.place.tolist() == [1.5, 1.5, 3.0]
    assert found.first.tolist() == [0.5, 0.5, 0.0]
    assert found.ahead.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: friedman([[1.0, 2.0]]), r"of two backbones or more, found shape \(1, 2\)"),
        (lambda: nemenyi([1.0, 2.0]), r"\(B, S\) of two backbones or more, found shape \(2,\)"),
        (lambda: wins([[1.0], [np.nan]]), "finite numbers"),
        (lambda: critical_difference(1, 3), "two backbones, a setting and a level in 0..1, found 1, 3 and 0.05"),
        (lambda: critical_difference(2, 3, level=1.0), "and 1.0"),
        (lambda: bradley_terry([[0.0, 1.0]]), r"counts \(B, B\)"),
        (lambda: bradley_terry([[0.0, -1.0], [1.0, 0.0]]), r"counts \(B, B\)"),
        (lambda: bradley_terry([[0.0, 1.0], [0.0, 0.0]], prior=0.0), "must have a bound"),
        (lambda: correlations([[1.0], [2.0]], "kendall"), "'pearson' or 'spearman', found 'kendall'"),  # type: ignore[arg-type]
        (lambda: signed_ranks([1.0]), r"\(P, S\), found shape \(1,\)"),
        (lambda: redrawn_settings([[1.0, 2.0]], ["a"]), r"\(B, S\) of 1 tasks, found shape \(1, 2\)"),
        (lambda: redrawn_values([[1.0]], [1.0], [[1.0]], ["a"], z_scores), r"found \(1, 1\), \(1,\) and \(1, 1\)"),
        (lambda: places([1.0], [[1.0, 2.0]]), r"\(D, B\) for overall \(B,\), found \(1, 2\) and \(1,\)"),
        (lambda: places([1.0], [[1.0]], level=1.0), "level must be between 0 and 1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
