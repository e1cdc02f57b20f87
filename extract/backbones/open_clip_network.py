"""Image towers of open_clip, split before their projection.

Shapes: B batch, H, W input size, D dimension of a feature, E dimension of the space shared with texts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.network import FrozenNetwork, probe

__all__ = ["ImageTower"]


class ImageTower(FrozenNetwork):
    """``pooled`` (B, D) before the projection, ``embedding`` (B, E) after it.

    Args:
        spec: what to give.
        visual: ``model.visual`` of open_clip, its weights loaded; its projection is taken out of it.
    """

    def __init__(self, spec: BackboneSpec, visual: Any) -> None:
        super().__init__(spec, visual)
        self._require(spec.outputs)
        self.projection = _projection(visual)
        with torch.no_grad():
            self.dimension = self._pool(probe(spec, visual)).shape[1]

    def available(self) -> list[str]:
        """Names of all outputs."""
        return ["pooled", "embedding"]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        pooled = self._pool(images)
        return {name: pooled if name == "pooled" else self.projection(pooled) for name in self.spec.outputs}

    def _pool(self, images: torch.Tensor) -> torch.Tensor:
        return getattr(self.backbone, "trunk", self.backbone)(images)  # type: ignore[no-any-return]


def _projection(visual: Any) -> nn.Module:
    """What comes behind ``pooled``, taken out of the tower."""
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        if not getattr(trunk, "num_classes", 0):
            return visual.head  # type: ignore[no-any-return]
        classifier = trunk.get_classifier()
        trunk.reset_classifier(0, trunk.global_pool if isinstance(getattr(trunk, "global_pool", None), str) else None)
        return nn.Sequential(classifier, visual.head)
    if hasattr(visual, "attnpool"):
        # The pool applies its projection itself; by the identity it gives what comes before.
        projection: nn.Linear = visual.attnpool.c_proj
        identity = nn.Module()  # of no parameters: nothing of it is the network's
        weight = torch.eye(projection.in_features, device=projection.weight.device)
        identity.register_buffer("weight", weight)
        identity.register_buffer("bias", torch.zeros_like(weight[0]))
        visual.attnpool.c_proj = identity
        return projection
    product = _Product(visual.proj)
    visual.proj, visual.output_tokens = None, False
    return product


class _Product(nn.Module):
    """(B, D) times a matrix (D, E)."""

    def __init__(self, matrix: nn.Parameter) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return pooled @ self.matrix
