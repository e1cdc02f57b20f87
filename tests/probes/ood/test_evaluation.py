"""The metrics against scikit-learn with ties, hand-made cases, and selection on validation rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk  # type: ignore[import-untyped]

from featurebank.probes.metrics import auroc, average_precision
from featurebank.probes.ood._separation import METRICS
from featurebank.probes.ood.evaluation import detection, evaluate, select, shared_rows


def two_sets(digits: int | None, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    inside, outside = generator.normal(1, 1, 403), generator.normal(0, 1.5, 211)
    return (inside, outside) if digits is None else (inside.round(digits), outside.round(digits))


def kept(inside: Any, outside: Any) -> float:
    """Share of the others at or above the highest threshold that keeps 95 %, by trying all."""
    thresholds = [t for t in np.unique(inside) if (inside >= t).mean() >= 0.95]
    return float((outside >= max(thresholds)).mean())


@pytest.mark.parametrize("digits", [None, 1, 0])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_scikit_learns(digits: int | None, seed: int) -> None:
    inside, outside = two_sets(digits, seed)
    found = detection(inside, outside)
    truth = np.concatenate([np.ones(len(inside), int), np.zeros(len(outside), int)])
    values = np.concatenate([inside, outside])
    assert found.auroc == auroc(truth, values) == pytest.approx(sk.roc_auc_score(truth, values), rel=1e-12)
    assert found.aupr_in == pytest.approx(sk.average_precision_score(truth, values), rel=1e-12)
    assert found.aupr_in == pytest.approx(average_precision(truth, values), rel=1e-12)
    assert found.aupr_out == pytest.approx(sk.average_precision_score(1 - truth, -values), rel=1e-12)
    for labels, scores, name in ((truth, values, "aupr_in_trapezoid"), (1 - truth, -values, "aupr_out_trapezoid")):
        precision, recall, _ = sk.precision_recall_curve(labels, scores)
        assert getattr(found, name) == pytest.approx(sk.auc(recall, precision), rel=1e-12)
    assert found.fpr_at_95 == kept(inside, outside)
    false, true, _ = sk.roc_curve(1 - truth, -values, drop_intermediate=False)
    assert found.fpr_at_95_ood == pytest.approx(false[np.argmax(true >= 0.95)], rel=1e-12)


@pytest.mark.parametrize(
    ("inside", "outside", "at_95", "at_95_ood"),
    [
        (range(100), [4, 5, 6], 2 / 3, 0.07),  # 95 of 100 are at least 5, as two of three; 7 of 100 are at most 6
        (range(20), [0.5, 1.0], 0.5, 0.1),  # 19 of 20 are at least 1
        ([1] * 10, [1] * 5, 1.0, 1.0),
        ([2] * 10, [1] * 5, 0.0, 0.0),
        ([1] * 10, [2] * 5, 1.0, 1.0),
        ([3, 1], [2], 1.0, 0.5),
    ],
)
def test_fpr_at_95_is_its_definition(inside: Any, outside: Any, at_95: float, at_95_ood: float) -> None:
    found = detection(list(inside), list(outside))
    assert (found.fpr_at_95, found.fpr_at_95_ood) == (at_95, at_95_ood)


@pytest.mark.parametrize("rows", [19, 20, 21, 40, 60, 100, 1000])
def test_95_per_cent_of_any_number_of_rows(rows: int) -> None:
    generator = np.random.default_rng(rows)
    inside, outside = generator.permutation(rows) + 0.0, generator.uniform(0, rows / 4, 50)
    assert detection(inside, outside).fpr_at_95 == kept(inside, outside)


def test_reversed_scores_swap_the_sets() -> None:
    inside, outside = two_sets(1)
    forward, backward = detection(inside, outside), detection(-outside, -inside)
    assert forward.aupr_in == backward.aupr_out
    assert forward.fpr_at_95 == backward.fpr_at_95_ood
    assert forward.auroc == backward.auroc


def test_groups_are_means_and_the_full_spectrum_adds_shifted_rows() -> None:
    inside, near = two_sets(1)
    far, shifted = two_sets(1, 5)[1] - 2, two_sets(1, 6)[0] - 0.5
    found = evaluate(inside, {"a": near, "b": far}, groups={"near": ["a"], "all": ["a", "b"]}, shifted=shifted)
    assert found.sets == {"a": detection(inside, near), "b": detection(inside, far)}
    assert found.groups["near"] == found.sets["a"]
    for metric in METRICS:
        both = [getattr(found.sets[name], metric) for name in "ab"]
        assert getattr(found.groups["all"], metric) == pytest.approx(np.mean(both))
    assert found.full_spectrum["b"] == detection(np.concatenate([inside, shifted]), far)
    assert found.full_spectrum_groups["near"] == found.full_spectrum["a"]
    assert found.intervals == {}
    assert evaluate(inside, {"a": near}).full_spectrum_groups == {}


@pytest.mark.parametrize(
    ("digits", "offset", "rows"), [(None, 1.0, (403, 211)), (1, 1.0, (403, 211)), (None, -1.0, (1500, 1000))]
)
def test_intervals_are_the_bootstraps_within_its_own_noise(
    digits: int | None, offset: float, rows: tuple[int, int]
) -> None:
    generator = np.random.default_rng(4)
    sets = [generator.normal(mean, 1, n) for mean, n in zip((offset, 0.0), rows, strict=True)]
    inside, outside = sets if digits is None else [scores.round(digits) for scores in sets]
    found = evaluate(inside, {"a": outside}, draws=8000, random_state=1)
    drawn = []
    for _ in range(1000):
        taken = (of[np.sort(generator.integers(0, len(of), len(of)))] for of in (np.sort(inside), np.sort(outside)))
        drawn.append([*vars(detection(*taken)).values()])
    # Where a 2.5 % point of 1,000 draws may lie, by three and a half standard deviations of how many are below it.
    noise = 3.5 * np.sqrt(0.025 * 0.975 / 1000)
    lows, highs = (np.quantile(drawn, [end - noise, end + noise], axis=0) for end in (0.025, 0.975))
    for metric, low, high in zip(METRICS, lows.T, highs.T, strict=True):
        ends = found.intervals["a"][metric]
        assert low[0] <= ends[0] <= low[1], metric
        assert high[0] <= ends[1] <= high[1], metric
        assert ends[0] <= getattr(found.sets["a"], metric) <= ends[1]
    assert evaluate(inside, {"a": outside}, draws=8000, random_state=1) == found


def test_a8_sets_that_do_not_overlap_are_not_certain() -> None:
    found = evaluate(np.arange(20.0) + 100, {"far": np.arange(30.0), "wrong": np.arange(30.0) + 200}, draws=50)
    low, high = found.intervals["far"]["auroc"]
    assert (0.88 < low < 0.95, high) == (True, 1.0)
    assert found.intervals["far"]["fpr_at_95"] == pytest.approx((0.0, 0.11352), abs=1e-4)
    assert found.intervals["far"]["fpr_at_95_ood"] == pytest.approx((0.0, 0.16113), abs=1e-4)
    assert found.intervals["wrong"]["auroc"] == pytest.approx((0.0, 1 - low))
    assert found.intervals["wrong"]["fpr_at_95"] == pytest.approx((1 - 0.11352, 1.0), abs=1e-4)


def test_parameters_are_chosen_on_validation_rows(relu_problem: Any) -> None:
    p = relu_problem
    inside, outside = (p.x[:100], None), (np.maximum(2 * np.random.default_rng(3).normal(size=(80, 24)), 0), None)
    found = select("knn", {"k": [1, 20, 400]}, p.train, validation_in=inside, validation_out=outside)
    assert [parameters for parameters, _ in found.tried] == [{"k": 1}, {"k": 20}, {"k": 400}]
    assert found.auroc == max(value for _, value in found.tried)
    assert found.parameters == {"k": 1}  # the rows themselves are in the training set
    constant = select("energy", {"temperature": [1.0, 1.0]}, p.train, validation_in=inside, validation_out=outside)
    assert constant.parameters == {"temperature": 1.0}
    pairs = select("vra", {"lower": [0.1, 0.6], "upper": [0.9]}, p.train, validation_in=inside, validation_out=outside)
    assert len(pairs.tried) == 2
    wrong: tuple[Any, ...] = ({}, {"k": []}, {"neighbours": [1]})
    for grid in wrong:
        with pytest.raises(ValueError, match="grid must give candidates for parameters of 'knn', which are k; found"):
            select("knn", grid, p.train, validation_in=inside, validation_out=outside)


def test_rows_shared_by_content_hash() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (50, 16)).astype(np.uint8)
    other = np.concatenate([hashes[40:][::-1], hashes[40:] + np.uint8(1)])
    found = shared_rows(other, hashes)
    assert found.tolist() == [True] * 10 + [False] * 10
    for wrong in (hashes[:, :8], hashes.astype(int), hashes[0]):
        with pytest.raises(ValueError, match="content hashes must be uint8"):
            shared_rows(wrong, hashes)


def test_f4_rows_that_could_not_be_read_are_shared_by_no_set() -> None:
    hashes = np.array([[0, 0], [1, 2]], np.uint8)
    assert shared_rows(hashes, hashes).tolist() == [False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detection([], [1.0]), "in_scores must be numbers"),
        (lambda: detection([1.0], [np.nan]), "out_scores must be finite, got nan in row 0"),
        (lambda: evaluate([1.0], {}), "at least one set; found none"),
        (lambda: evaluate([1.0], {"a": [np.inf]}), "scores of a must be finite"),
        (lambda: evaluate([1.0], {"a": [0.0]}, groups={"near": ["b"]}), "group 'near' must name sets among a"),
        (lambda: evaluate([1.0], {"a": [0.0]}, groups={"near": []}), "group 'near' must name sets"),
        (lambda: evaluate([1.0], {"a": [0.0]}, draws=5, level=95), "level must be between 0 and 1; found 95"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
