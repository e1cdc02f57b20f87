"""The network that fine-tuning trains: a backbone as its checkpoint has it, and a linear classifier of its features.

Shapes: B images, H, W their size, D dimension of a feature, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from featurebank.extract.backbones.contract import BackboneSpec, Head
from featurebank.extract.backbones.network import FrozenNetwork
from featurebank.extract.backbones.tuned_source import save_tuned
from featurebank.pipelines.jobs.trunk import Trunk

if TYPE_CHECKING:
    from featurebank.probes.linear import LinearFit

__all__ = ["TunedNetwork", "folded_head", "interpolated", "random_head"]

ABSENT: Final = -1e4
"""The bias of a class that the head has never seen: far below the logits of any other."""


class TunedNetwork(Trunk):
    """A `Trunk`, and a linear classifier behind its ``pooled``.

    Args:
        network: built with the outputs ``("pooled",)``.
        head: what the classifier begins with.
        batch_norm: see `Trunk`.
        drop_path: see `Trunk`.

    Raises:
        ValueError: another number of features in the head; or as `Trunk`.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        head: Head,
        *,
        batch_norm: Literal["eval", "train"] = "eval",
        drop_path: float = 0.0,
    ) -> None:
        classes, width = head.weight.shape
        if width != network.dimension:
            raise ValueError(
                f"the head must be of {network.dimension} features, as {network.spec.name} gives; found {width}"
            )
        super().__init__(network, batch_norm=batch_norm, drop_path=drop_path)
        self.head = nn.Linear(width, classes)
        self.head.load_state_dict({"weight": head.weight, "bias": head.bias})

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised, to features (B, D)."""
        return self.network(images)["pooled"]  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised, to logits (B, K)."""
        return self.head(self.pooled(images))  # type: ignore[no-any-return]

    def save(self, folder: Path, spec: BackboneSpec, class_names: Sequence[str]) -> Path:
        """Writes the file of the backbone ``tuned:<name of the folder>``; see `save_tuned`."""
        return save_tuned(folder, self.state_dict(), spec, class_names)


def folded_head(fit: LinearFit, classes: int) -> Head:
    """The classifier of a probe in the space of features as they are, its standardisation folded in.

    A class that the probe's training rows lack has a bias far below all logits: it is never predicted.

    Args:
        fit: whose ``classes`` are numbers below K.
        classes: K.

    Raises:
        ValueError: the fit has a class that is not among the K.
    """
    if fit.classes.max() >= classes:
        raise ValueError(f"a probe's classes must be below {classes}; found {fit.classes.max()}; give all class names")
    model = fit.model
    W, b = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if hasattr(model, "variance_"):
        from featurebank.probes._training import EPS

        W = W / np.sqrt(np.asarray(model.variance_, np.float64) + EPS)
        b = b - W @ np.asarray(model.mean_, np.float64)
    if len(W) == 1:  # of two classes, the second less the first
        W, b = np.concatenate([-W, W]) / 2, np.concatenate([-b, b]) / 2
    weight, bias = torch.zeros(classes, W.shape[1]), torch.full((classes,), ABSENT)
    at = torch.from_numpy(fit.classes)
    weight[at], bias[at] = torch.from_numpy(W).float(), torch.from_numpy(b).float()
    return Head(weight, bias)


def random_head(dimension: int, classes: int, seed: int) -> Head:
    """Weights (K, D) by Glorot and Bengio's normal initialisation, biases of 0."""
    generator = torch.Generator().manual_seed(seed)
    return Head(nn.init.xavier_normal_(torch.empty(classes, dimension), generator=generator), torch.zeros(classes))


def interpolated(a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Weights between two networks: (1 - alpha) a + alpha b (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903).

    Args:
        a: state dict at alpha = 0: the frozen backbone with the probe as its head.
        b: state dict at alpha = 1, of the same names and shapes; what is not of floats is taken from it.
        alpha: 0 to 1.

    Raises:
        ValueError: names or shapes differ, or alpha is out of range.

    >>> interpolated({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}, 0.25)
    {'w': tensor([1.])}
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1; found {alpha!r}")
    differing = sorted(name for name in a.keys() | b.keys() if a.get(name, _NONE).shape != b.get(name, _NONE).shape)
    if differing:
        raise ValueError(
            f"state dicts must have the same tensors; {len(differing)} differ, such as {', '.join(differing[:3])}; "
            "give two of one network"
        )
    return {
        name: (1 - alpha) * a[name] + alpha * value if value.is_floating_point() else value.clone()
        for name, value in b.items()
    }


_NONE = torch.empty(0, 0, 0, 0, 0, 0, 0, 0)
