"""Random features of a few classes, a head, and logits that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featurebank.probes.ood.head import Head
from featurebank.probes.ood.statistics import TrainingSet

D, K, N, M = 24, 6, 500, 70

F64 = NDArray[np.float64]


@dataclass
class Problem:
    """Training rows, test rows and a head in float64 that float32 holds exactly."""

    x: F64
    y: NDArray[np.int64]
    test: F64
    weight: F64
    bias: F64
    text: F64

    @property
    def head(self) -> Head:
        return Head(self.weight.astype(np.float32), self.bias.astype(np.float32))

    @property
    def train(self) -> TrainingSet:
        return TrainingSet(self.x.astype(np.float32), self.y, head=self.head, text=self.text)

    @property
    def queries(self) -> NDArray[np.float32]:
        return self.test.astype(np.float32)

    def logits(self, rows: F64) -> F64:
        return rows @ self.weight.T + self.bias


def build(*, relu: bool, seed: int = 0) -> Problem:
    generator = np.random.default_rng(seed)

    def exact(values: Any) -> F64:
        return np.asarray(values, np.float32).astype(np.float64)

    centres = generator.normal(size=(K, D))
    y = np.concatenate([np.arange(K), generator.integers(0, K, N - K)])
    scales = np.exp(generator.normal(size=D))
    x = centres[y] + scales * generator.normal(size=(N, D))
    test = np.concatenate([centres[generator.integers(0, K, M // 2)], np.zeros((M - M // 2, D))])
    test = test + 1.5 * scales * generator.normal(size=(M, D))
    if relu:
        x, test = np.maximum(x, 0), np.maximum(test, 0)
    weight = 0.4 * centres + 0.1 * generator.normal(size=(K, D))
    return Problem(exact(x), y, exact(test), exact(weight), exact(generator.normal(size=K)), exact(centres))


@pytest.fixture(params=[True, False], ids=["relu", "signed"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return build(relu=request.param)


@pytest.fixture
def relu_problem() -> Problem:
    return build(relu=True)
