"""The candidates of each score: parameters it has, values it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featurebank.probes.ood.names import scores
from featurebank.probes.ood.registry import get, grid
from featurebank.probes.ood.weiper import WeiPerKLD


@pytest.mark.parametrize("name", [name for name in scores() if grid(name, rows=500, width=24)])
def test_every_candidate_can_be_fitted(name: str, problem: Any) -> None:
    candidates = grid(name, rows=500, width=24)
    default = get(name)().get_params()
    for parameter, values in candidates.items():
        assert parameter in default
        assert len(set(values)) == len(values)
        for value in values:
            more = {"repeats": 2} if get(name) is WeiPerKLD else {}
            found = get(name)(**{parameter: value}, **more).fit(problem.train).score_samples(problem.queries)
            assert np.isfinite(found).all()


def test_candidates_fit_the_rows_and_the_width() -> None:
    assert grid("knn", rows=100, width=24)["k"] == (1, 10, 50, 100)
    assert grid("vim", rows=100, width=16) == {}
    assert grid("residual", rows=100, width=17) == {"dim": (16,)}
    assert grid("msp", rows=100, width=16) == {}
