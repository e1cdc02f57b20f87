"""A network that fine-tuning has made: the tuned trunk and its own linear classifier.

Shapes: B batch, D dimension of a feature, K classes.
"""

from __future__ import annotations

import torch
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec, Head
from featurebank.extract.backbones.network import FrozenNetwork, probe

__all__ = ["TunedBackbone"]


class TunedBackbone(FrozenNetwork):
    """``logits`` (B, K) are the tuned classifier's, linear in ``pooled`` (B, D); other outputs the base network's.

    Args:
        spec: what to give.
        network: the base network with its tuned weights; it gives every output asked for but ``logits``.
        classifier: the tuned one, from D to K.
    """

    def __init__(self, spec: BackboneSpec, network: FrozenNetwork, classifier: nn.Linear) -> None:
        super().__init__(spec, network)
        self.classifier = classifier.eval().requires_grad_(False)
        self.dimension = network.dimension
        self._head = Head(classifier.weight.detach().clone(), classifier.bias.detach().clone())
        with torch.no_grad():
            self(probe(spec, network))  # a view may ask for a size that the network does not take

    def available(self) -> list[str]:
        """Names of all outputs: those of the base network, and ``logits``."""
        return list(dict.fromkeys([*self.backbone.available(), "logits"]))  # type: ignore[operator]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        found = self.backbone(images)
        if "logits" in self.spec.outputs:
            found["logits"] = self.classifier(found["pooled"])
        return {name: found[name] for name in self.spec.outputs}
