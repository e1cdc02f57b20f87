"""Masked heads, corruption error and effective robustness: published numbers, formulas, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special, stats  # type: ignore[import-untyped]

from featurebank.probes import _rows
from featurebank.probes.shift import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    class_mask,
    effective_robustness,
    mean_corruption_error,
    relative_mean_corruption_error,
)

# Hendrycks & Dietterich 2019: ResNet-50's clean error, mCE, relative mCE and, per corruption, CE, all in percent.
RESNET50_CLEAN, RESNET50_MCE, RESNET50_RELATIVE = 23.9, 76.7, 105.0
RESNET50_CE = (80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77)


@pytest.mark.parametrize("block", [1 << 20, 1000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_masked_head_knows_only_its_classes(
    dtype: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rows, "SLICE_VALUES", block)
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(50, 1000)).astype(dtype)
    classes = generator.permutation(1000)[:200]
    np.save(tmp_path / "logits.npy", logits)
    mask = class_mask(np.load(tmp_path / "logits.npy", mmap_mode="r"), classes)
    hidden = np.full_like(logits, -np.inf)
    hidden[:, classes] = logits[:, classes]
    ties = np.sort(hidden, 1)[:, -1] == np.sort(hidden, 1)[:, -2]
    assert mask.predictions[~ties].tolist() == hidden.argmax(1)[~ties].tolist()
    assert classes[mask.positions].tolist() == mask.predictions.tolist()
    assert mask.logits.dtype == dtype
    np.testing.assert_allclose(
        special.softmax(mask.logits.astype(np.float64), axis=1),
        special.softmax(hidden.astype(np.float64), axis=1)[:, classes],
        rtol=1e-12,
    )


def test_the_published_resnet50_has_its_published_mce() -> None:
    errors = {name: ce / 100 * ALEXNET_ERRORS[name] for name, ce in zip(ALEXNET_ERRORS, RESNET50_CE, strict=True)}
    assert mean_corruption_error(errors) == pytest.approx(RESNET50_MCE, abs=0.3)
    relative = relative_mean_corruption_error(errors, RESNET50_CLEAN / 100)
    assert relative == pytest.approx(RESNET50_RELATIVE, abs=0.5)


def test_corruption_errors_are_their_formulas() -> None:
    generator = np.random.default_rng(0)
    names = list("abc")
    model, reference = generator.uniform(0.3, 0.6, (3, 5)), generator.uniform(0.5, 0.9, (3, 5))
    errors, others = dict(zip(names, model, strict=True)), dict(zip(reversed(names), reference[::-1], strict=True))
    expected = 100 * np.mean([model[c].sum() / reference[c].sum() for c in range(3)])
    assert mean_corruption_error(errors, others) == pytest.approx(expected, rel=1e-14)
    means: dict[str, Any] = {name: values.mean() for name, values in errors.items()}
    assert mean_corruption_error(means, others) == pytest.approx(expected, rel=1e-14)
    above = 100 * np.mean([(model[c] - 0.25).sum() / (reference[c] - 0.4).sum() for c in range(3)])
    assert relative_mean_corruption_error(errors, 0.25, others, 0.4) == pytest.approx(above, rel=1e-14)


def test_alexnet_is_a_hundred_by_definition() -> None:
    assert len(ALEXNET_ERRORS) == 15
    assert mean_corruption_error(ALEXNET_ERRORS) == pytest.approx(100, rel=1e-15)
    assert relative_mean_corruption_error(ALEXNET_ERRORS, ALEXNET_CLEAN_ERROR) == pytest.approx(100, rel=1e-15)


def test_effective_robustness_is_what_lies_above_the_line() -> None:
    baseline = np.array([0.55, 0.62, 0.7, 0.76, 0.81])
    noise = np.array([0.02, -0.03, 0.01, 0.02, -0.02])
    shifted = special.expit(0.9 * special.logit(baseline) - 0.7 + noise)
    line = stats.linregress(special.logit(baseline), special.logit(shifted))
    models, theirs = np.array([0.6, 0.85]), np.array([0.5, 0.6])
    found = effective_robustness(models, theirs, baseline, shifted)
    assert (found.slope, found.intercept) == pytest.approx((line.slope, line.intercept), rel=1e-10)
    expected = special.expit(line.slope * special.logit(models) + line.intercept)
    np.testing.assert_allclose(found.expected, expected, rtol=1e-10)
    np.testing.assert_allclose(found.robustness, theirs - expected, rtol=1e-8)


def test_models_on_the_line_have_none() -> None:
    baseline = np.array([0.5, 0.7, 0.8])
    found = effective_robustness(baseline, baseline, baseline[:2], baseline[:2])
    assert (found.slope, found.intercept) == pytest.approx((1, 0), abs=1e-12)
    np.testing.assert_allclose(found.robustness, 0, atol=1e-12)


LOGITS = np.zeros((2, 5))
ONE = {"fog": [0.5, 0.6]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_mask(LOGITS, [1, 5]), r"classes must be in 0\.\.4, got 1\.\.5"),
        (lambda: class_mask(LOGITS, [1, 2, 1]), r"named once each, got \[1\] more than once"),
        (lambda: class_mask(LOGITS, []), "classes must have at least one"),
        (lambda: class_mask(LOGITS * np.nan, [1]), "logits must be finite, got nan"),
        (lambda: mean_corruption_error(ONE), r"got none for \['brightness', .* and some for \[\]"),
        (lambda: mean_corruption_error({"dust": 0.5}, ONE), r"none for \['fog'\] and some for \['dust'\]"),
        (lambda: mean_corruption_error({}, {}), "errors must be given"),
        (lambda: mean_corruption_error({"fog": [0.5] * 3}, ONE), "fog must have as many severities .* 2, got 3"),
        (lambda: mean_corruption_error({"fog": 50.0}, ONE), r"errors on fog must be shares in 0\.\.1"),
        (lambda: mean_corruption_error({"fog": np.nan}, ONE), r"errors on fog must be shares"),
        (lambda: mean_corruption_error(ONE, {"fog": 0.0}), "reference's error on fog must be above 0, got 0"),
        (lambda: relative_mean_corruption_error(ONE, 0.2, ONE, 0.7), "on fog must be above 0.7, got 0.55"),
        (lambda: effective_robustness([0.5], [0.4], [0.5, 0.5], [0.4, 0.3]), "two different accuracies"),
        (
            lambda: effective_robustness([0.5], [1.0], [0.5, 0.6], [0.4, 0.3]),
            "shifted_accuracy must be shares strictly",
        ),
        (lambda: effective_robustness([50.0], [0.4], [0.5, 0.6], [0.4, 0.3]), "accuracy must be shares strictly"),
        (lambda: effective_robustness([0.5], [0.4], [0.5, 0.6], [0.4]), "2 and 1 of the baselines"),
    ],
)
def test_bad_input_is_one_clear_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
