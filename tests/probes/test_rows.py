"""Blocks of rows, and what linear models predict in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax  # type: ignore[import-untyped]

from featurebank.probes import _rows
from featurebank.probes._prediction import affine, both_logits, log_probabilities
from featurebank.probes._rows import row_slices


@pytest.mark.parametrize(
    ("limits", "most"), [({"values": 20}, 3), ({"values": 20, "rows": 2}, 2), ({"values": 5}, 1), ({}, 10)]
)
def test_slices_cover_all_rows_in_order_within_the_limits(limits: dict[str, int], most: int) -> None:
    slices = list(row_slices(10, 6, **limits))
    assert [row for where in slices for row in range(where.start, where.stop)] == list(range(10))
    assert [where.stop - where.start for where in slices[:-1]] == [most] * (len(slices) - 1)
    assert list(row_slices(0, 6, **limits)) == []


@pytest.mark.parametrize("values", [2**20, 10])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_log_probabilities_are_scipys_in_the_dtype_of_the_logits(
    dtype: Any, tolerance: float, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rows, "SLICE_VALUES", values)
    logits = (30 * np.random.default_rng(0).normal(size=(7, 5))).astype(dtype)
    found = log_probabilities(logits, 2.5)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found, log_softmax(logits.astype(np.float64) / 2.5, axis=1), rtol=tolerance, atol=tolerance
    )


def test_affine_is_the_product_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "BLOCK_VALUES", 16)
    generator = np.random.default_rng(0)
    features, coef, intercept = generator.normal(size=(9, 8)), generator.normal(size=(3, 8)), generator.normal(size=3)
    halves = features.astype(np.float16)
    np.testing.assert_allclose(affine(halves, coef, intercept), halves.astype(np.float64) @ coef.T + intercept)
    halves[7, 1] = np.inf
    with pytest.raises(ValueError, match=r"infinity \(inf\) in row 7, column 1"):
        affine(halves, coef, intercept)


def test_one_logit_of_two_classes_gets_a_zero_beside_it() -> None:
    expected = [[0.0, 1.5], [0.0, -2.0]]
    for logits in (np.array([1.5, -2.0]), np.array([[1.5], [-2.0]])):
        assert both_logits(logits).tolist() == expected
    assert both_logits(np.array(expected)).tolist() == expected
