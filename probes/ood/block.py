"""A block of rows, and what several scores compute of it, each at most once.

Shapes: m rows of a block, D features, K classes.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FAINT = 1e-30  # below this float32 may have rounded some exponentials to zero


class Peak(NamedTuple):
    """The largest logit of each row, and the others relative to it.

    Attributes:
        top: (m,) the largest logit.
        predicted: (m,) int64, its class.
        shifted: (m, K) the logits minus the largest.
        exponentials: (m, K) exp(shifted), 0 at the largest.
        rest: (m,) float64, the sum of the exponentials; log-sum-exp is top + log1p(rest).
    """

    top: Tensor
    predicted: Tensor
    shifted: Tensor
    exponentials: Tensor
    rest: Tensor

    @property
    def log_sum(self) -> Tensor:
        """(m,) float64, the logarithm of the sum of exp(shifted): minus that of the largest probability."""
        return self.rest.log1p()

    @property
    def energy(self) -> Tensor:
        """(m,) float64, log-sum-exp of the logits."""
        return self.top.double() + self.log_sum


def peak(logits: Tensor, *, overwrite: bool = False) -> Peak:
    """Splits float32 logits (m, K) so that nothing is lost where the softmax saturates.

    In float32 a probability above 1 - 6e-8 is 1; the sum over the *other* classes keeps its seven digits however
    small it is: where its exponentials underflow it is taken relative to the second largest logit.
    """
    predicted = argmax(logits)
    top = logits.gather(1, predicted[:, None])[:, 0]
    shifted = torch.sub(logits, top[:, None], out=logits if overwrite else None)
    exponentials = shifted.exp().scatter_(1, predicted[:, None], 0.0)
    rest = exponentials.sum(1).double()
    faint = (rest < FAINT).nonzero()[:, 0]
    if len(faint):
        others = shifted[faint].scatter_(1, predicted[faint, None], -torch.inf)
        second = others.amax(1, keepdim=True)
        rest[faint] = (others - second).exp_().sum(1).double() * second[:, 0].double().exp()
    return Peak(top, predicted, shifted, exponentials, rest)


def argmax(logits: Tensor) -> Tensor:
    """The first greatest column of each row (m,) int64; on the CPU by NumPy, which is several times faster."""
    if logits.device.type != "cpu":
        return logits.argmax(1)
    return torch.from_numpy(logits.numpy().argmax(1))


def energy(logits: Tensor) -> Tensor:
    """log-sum-exp of float32 logits (m, K), which are overwritten, as float64 (m,)."""
    return peak(logits, overwrite=True).energy


class Affine(NamedTuple):
    """A head on a device: weight (K, D) and bias (K,), float32."""

    weight: Tensor
    bias: Tensor


class Block:
    """Rows on a device, float32, with the work that scores share.

    Args:
        features: (m, D), or None where only logits are known.
        logits: (m, K); computed from the head where None.
        head: the classifier, or None.
    """

    def __init__(self, features: Tensor | None, logits: Tensor | None = None, head: Affine | None = None) -> None:
        self._features, self._logits, self._head = features, logits, head

    @property
    def features(self) -> Tensor:
        """(m, D)."""
        assert self._features is not None  # noqa: S101 - TrainingSet.blocks refuses rows without
        return self._features

    @property
    def head(self) -> Affine:
        """Of the training set."""
        assert self._head is not None  # noqa: S101 - a score that needs a head is not fitted without
        return self._head

    @cached_property
    def linear(self) -> Tensor:
        """(m, K) products with the head's weights, without its bias."""
        return self.features @ self.head.weight.T

    @cached_property
    def logits(self) -> Tensor:
        """(m, K) as given, or else the head's."""
        return self.linear + self.head.bias if self._logits is None else self._logits

    @cached_property
    def peak(self) -> Peak:
        """The logits split at the largest."""
        return peak(self.logits)

    @property
    def predicted(self) -> Tensor:
        """(m,) int64, the class of the largest logit."""
        return self.peak.predicted

    @cached_property
    def energy(self) -> Tensor:
        """(m,) float64, log-sum-exp of the logits."""
        return self.peak.energy

    @cached_property
    def probabilities(self) -> Tensor:
        """(m, K) softmax of the logits."""
        scale = (1 / (1 + self.peak.rest)).float()
        values = self.peak.exponentials * scale[:, None]
        values.scatter_(1, self.predicted[:, None], scale[:, None])
        return values

    @cached_property
    def unit(self) -> Tensor:
        """(m, D) rows scaled to unit length; a zero row stays zero."""
        norms = self.features.norm(dim=1, keepdim=True)
        norms[norms == 0] = 1.0
        unit: Tensor = self.features / norms
        return unit

    @cached_property
    def descending(self) -> Tensor:
        """(m, D) the features of each row, largest first."""
        if self.features.device.type != "cpu":
            return self.features.sort(dim=1, descending=True).values
        return torch.from_numpy(-np.sort(-self.features.numpy(), axis=1))

    @cached_property
    def l1(self) -> Tensor:
        """(m,) float64, the sum of absolute features."""
        return self.features.abs().sum(1).double()
