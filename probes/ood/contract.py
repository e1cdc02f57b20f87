"""What every out-of-distribution score is: fitted on training rows, higher for rows like them.

Shapes: N rows, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator  # type: ignore[import-untyped]

from featurebank.probes._parameters import check_parameters

if TYPE_CHECKING:
    from torch import Tensor

    from featurebank.probes.ood.block import Block
    from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["OODScore"]


@dataclass_transform(eq_default=False)
class OODScore(BaseEstimator):  # type: ignore[misc]
    """A score of rows: the higher, the more like the training rows.

    A subclass is a dataclass of its parameters, each with its bound. It names what it needs of the training set, reads
    it in `_fit`, and scores one block of rows in `_score`.

    Attributes:
        name: in the registry.
        needs: of ``features``, ``labels``, ``logits``, ``head`` and ``text``; logits are there if a head is.
        candidates: the values of parameters that are worth choosing on validation rows: those of OpenOOD v1.5's search
            and of the paper, thinned where many lie close.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    candidates: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(eq=False, repr=False)(cls)

    def fit(self, train: TrainingSet) -> Self:
        """Takes from the training set what the score needs.

        Raises:
            ValueError: something that it needs is missing, or a parameter is not allowed.
        """
        train.require(self.needs, f"the score {self.name!r}")
        check_parameters(self)
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
