"""Class labels: what every classifier takes and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featurebank.probes.few_labels import FewLabelsProbe
from featurebank.probes.heads import LinearHeads
from featurebank.probes.logistic import LogisticProbe
from featurebank.probes.neighbours import KNNProbe, NearestClassMean
from featurebank.probes.tokens import MLPProbe

PROBES: list[Any] = [
    FewLabelsProbe(),
    KNNProbe(1),
    LinearHeads((0.1,), epochs=1),
    LogisticProbe(),
    MLPProbe(epochs=1),
    NearestClassMean(),
]
NAMES = [type(probe).__name__ for probe in PROBES]
X = np.random.default_rng(0).normal(size=(24, 8))


@pytest.mark.parametrize("probe", PROBES, ids=NAMES)
def test_almost_as_many_classes_as_rows_are_no_warning(probe: Any) -> None:
    labels = np.r_[np.arange(20), np.arange(4)]
    assert probe.fit(X, labels).classes_.tolist() == list(range(20))


@pytest.mark.parametrize("probe", PROBES, ids=NAMES)
def test_numbers_that_are_no_classes_are_refused(probe: Any) -> None:
    with pytest.raises(ValueError, match="Unknown label type"):
        probe.fit(X, X[:, 0])
