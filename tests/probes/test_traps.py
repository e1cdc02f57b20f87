"""What went wrong in other studies' probing without anybody noticing, and cannot go wrong here: one test each.

The traps are those of Battle of the Backbones' published code (its linear probing and CheXpert scripts).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from featurebank.probes.heads import LinearHeads
from featurebank.probes.linear import fit_linear, linear_probe
from featurebank.probes.metrics import multilabel_auroc
from featurebank.probes.neighbours import KNNProbe


@pytest.fixture
def digits() -> tuple[Any, Any, Any, Any]:
    x, y = load_digits(return_X_y=True)
    return x[:600].astype(np.float32), y[:600], x[600:900].astype(np.float32), y[600:900]


def test_nothing_is_selected_on_the_test_rows(digits: tuple[Any, Any, Any, Any]) -> None:
    """The accuracy of the study is the greatest over 90 epochs on the test split."""
    x, y, x_test, y_test = digits
    first = linear_probe(x, y, x_test, y_test)
    other = linear_probe(x, y, x_test, np.roll(y_test, 1))
    assert (first.C, first.validation, first.temperature) == (other.C, other.validation, other.temperature)
    assert first.predictions.tolist() == other.predictions.tolist()
    assert first.accuracy != other.accuracy


def test_the_learning_rate_of_bobs_protocol_is_the_best_on_validation_rows(digits: tuple[Any, Any, Any, Any]) -> None:
    x, y, x_validation, y_validation = digits
    fit = fit_linear(x, y, validation=(x_validation, y_validation), protocol="bob")
    scores = dict(fit.validation)
    assert len(scores) == 7
    assert scores[fit.chosen["learning_rate"]] == max(scores.values())


def test_no_epoch_is_picked_the_last_one_is_reported(digits: tuple[Any, Any, Any, Any]) -> None:
    x, y, *validation = digits
    heads = LinearHeads([0.05], epochs=5)
    given, other = (heads.fit(x, y, validation=rows).coef_ for rows in (tuple(validation), (x[:50], y[:50])))
    assert np.array_equal(given, other), "validation rows choose among heads, never among epochs"


@pytest.mark.parametrize("protocol", ["logistic", "bob"])
def test_features_of_every_scale_are_normalised_alike_before_the_head(
    protocol: Any, digits: tuple[Any, Any, Any, Any]
) -> None:
    """Features were normalised only where the backbone's name held vit, swin, conv or stable, never a ResNet's."""
    x, y, x_test, _ = digits
    generator = np.random.default_rng(0)
    scale, shift = 2.0 ** generator.integers(-3, 4, x.shape[1]), generator.integers(-4, 5, x.shape[1])
    first = fit_linear(x, y, protocol=protocol)
    other = fit_linear((x * scale + shift).astype(np.float32), y, protocol=protocol)
    assert first.chosen == other.chosen
    same = first.logits(x_test).argmax(1) == other.logits((x_test * scale + shift).astype(np.float32)).argmax(1)
    assert same.mean() > 0.99


def test_neighbours_are_sought_among_unit_vectors_whatever_the_backbone(digits: tuple[Any, Any, Any, Any]) -> None:
    x, y, x_test, _ = digits
    first, other = (KNNProbe(k=20).fit(x * factor, y).predict(x_test * factor) for factor in (1.0, 64.0))
    assert first.tolist() == other.tolist()


def test_the_statistics_of_a_head_are_frozen_once_it_is_fitted(digits: tuple[Any, Any, Any, Any]) -> None:
    """Batch norms in training mode drifted with every batch that they saw."""
    x, y, x_test, _ = digits
    heads = LinearHeads([0.05], epochs=2).fit(x, y)
    before = heads.logits(x_test)
    heads.logits(x_test[:10] * 100 + 5)
    assert np.array_equal(heads.logits(x_test), before)
    np.testing.assert_allclose(heads.logits(x_test[:1]), before[:1], rtol=1e-5, atol=1e-5)


def test_a_label_of_one_class_only_has_no_auroc_and_is_no_zero() -> None:
    """Such a label of CheXpert was scored 0."""
    found = multilabel_auroc([[0, 1], [1, 1], [0, 1]], [[0.1, 0.2], [0.9, 0.8], [0.2, 0.1]])
    assert found.values.tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert found.mean == 1.0
