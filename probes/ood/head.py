"""The classifier that scores of logits and of weights look through.

Shapes: D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Head"]


@dataclass(frozen=True, eq=False)
class Head:
    """A linear classifier on the features: logits = features @ weight.T + bias.

    Args:
        weight: (K, D).
        bias: (K,).
        source: ``own`` for the backbone's classifier, ``probe`` for one that was trained on its features.

    Raises:
        ValueError: the shapes do not match, fewer than two classes, or a value is not finite.
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    source: Literal["own", "probe"] = "own"

    def __post_init__(self) -> None:
        weight, bias = np.asarray(self.weight), np.asarray(self.bias)
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(weight) < 2 or 0 in weight.shape:
            raise ValueError(
                "a head must have weight (K, D) and bias (K,) of at least two classes; "
                f"found {weight.shape} and {bias.shape}"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError("a head must be finite; found NaN or infinity (inf)")
        if self.source not in ("own", "probe"):
            raise ValueError(f"source must be 'own' or 'probe'; found {self.source!r}")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)
