"""What every out-of-distribution score is: fitted on training rows, higher for rows like them.

Shapes: N rows, D features, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from torch import Tensor

    from featurebank.probes.ood.block import Block
    from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["OODScore"]


class OODScore(BaseEstimator):  # type: ignore[misc]
    """A score of rows: the higher, the more like the training rows.

    A subclass names what it needs of the training set, reads it in `_fit`, and scores one block of rows in `_score`.

    Attributes:
        name: in the registry.
        needs: of ``features``, ``labels``, ``logits``, ``head`` and ``text``; logits are there if a head is.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    def fit(self, train: TrainingSet) -> Self:
        """Takes from the training set what the score needs.

        Raises:
            ValueError: something that it needs is missing, or a parameter is not allowed.
        """
        train.require(self.needs, f"the score {self.name!r}")
        self._train = train
        self._fit(train)
        return self

    def score_samples(self, features: ArrayLike | None = None, logits: ArrayLike | None = None) -> NDArray[np.float64]:
        """Scores of rows, (N,).

        Args:
            features: (N, D); not needed by scores of logits alone.
            logits: (N, K); computed from the head where None.

        Raises:
            ValueError: not fitted, widths other than in training, NaN or infinity, or what is needed is missing.
        """
        if not hasattr(self, "_train"):
            raise ValueError(f"the score {self.name!r} must be fitted before it scores; call fit")
        blocks = self._train.blocks(features, logits, needs=self.needs)
        return np.concatenate([as_numpy(self._score(block)) for _, block in blocks])

    def _fit(self, train: TrainingSet) -> None:
        """Nothing, for scores without parameters from training rows."""

    def _score(self, block: Block) -> Tensor:
        """(m,) of one block."""
        raise NotImplementedError


def as_numpy(values: Tensor) -> NDArray[np.float64]:
    """A vector on any device as float64."""
    return values.double().cpu().numpy()


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError where a share is not in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1; found {value}")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError where a number is not above 0 and finite."""
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be above 0 and finite; found {value}")
