"""Inference form of EfficientNet-Lite and MobileNetV2: batch norms folded away, and bfloat16 only where it is harmless.

In bfloat16 as a whole these networks give features at a cosine of 0.975 to 0.997 to those of float32 (worst of 20
ImageNet photographs). All of the loss comes from the stem and the first two stages: few channels, depthwise kernels of
nine numbers, large scales of the batch norms. With that quarter of the arithmetic in float32 the worst cosine is
0.9994. Float16 has the bits to need nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["for_inference"]

SENSITIVE_STAGES = 2


class _Float32(nn.Module):
    """A part whose weights stay float32 when the network is cast to bfloat16; it computes and hands on float32.

    Args:
        part: the module.
        last: whether the network goes on in its own dtype behind this part.
    """

    def __init__(self, part: nn.Module, *, last: bool) -> None:
        super().__init__()
        self.part = part
        self.last = last
        self.dtype_of_network: torch.Tensor
        self.register_buffer("dtype_of_network", torch.empty(0), persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> _Float32:
        def keep(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype == torch.bfloat16 else moved

        witness = fn(self.dtype_of_network)
        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        self.dtype_of_network = witness
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any floating dtype to float32, or to the network's dtype if this is the last such part."""
        weight = next(self.part.parameters(), None)
        x = self.part(x if weight is None else x.to(weight.dtype))
        return x.to(self.dtype_of_network.dtype) if self.last else x


def for_inference(model: nn.Module) -> nn.Module:
    """Folds batch norms into the convolutions before them and keeps the sensitive beginning out of bfloat16.

    Args:
        model: timm's ``EfficientNet`` with its weights loaded, in eval mode; changed in place.

    Returns:
        the model; in float32 its outputs differ by rounding only.
    """
    model.eval()
    for parent in list(model.modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))
    model.conv_stem = _Float32(model.conv_stem, last=False)  # type: ignore[arg-type]
    stages: Any = model.blocks
    for index in range(SENSITIVE_STAGES):
        stages[index] = _Float32(stages[index], last=index == SENSITIVE_STAGES - 1)
    return model
