"""Networks of one's own.

Shapes: B batch, D dimension of a feature.
"""

from __future__ import annotations

import torch
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.network import FrozenNetwork, probe
from featurebank.extract.errors import WeightsError

__all__ = ["OwnNetwork"]


class OwnNetwork(FrozenNetwork):
    """Any module that gives ``pooled`` (B, D), alone or in a dict with other outputs (B, …).

    Args:
        spec: what to give.
        model: the module, its weights loaded.

    Raises:
        WeightsError: it gives something else.
        UnknownNameError: an output it does not give.
    """

    def __init__(self, spec: BackboneSpec, model: nn.Module) -> None:
        super().__init__(spec, model)
        with torch.no_grad():
            found = self._outputs(probe(spec, model))
        if "pooled" not in found or found["pooled"].ndim != 2 or any(len(value) != 1 for value in found.values()):
            shapes = {name: tuple(value.shape) for name, value in found.items()}
            raise WeightsError(
                f"{spec.name}: expected pooled (B, D) and other outputs (B, …) for B = 1, found {shapes}"
            )
        self._names = list(found)
        self.dimension = found["pooled"].shape[1]
        self._require(spec.outputs)

    def available(self) -> list[str]:
        """Names of all outputs."""
        return self._names

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        found = self._outputs(images)
        return {name: found[name] for name in self.spec.outputs}

    def _outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.backbone(images)
        return found if isinstance(found, dict) else {"pooled": found}
