"""Layouts of checkpoints that no library reads, to the names of the architectures that the zoo's table gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from featurebank.extract.backbones import adapters
from featurebank.extract.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["BY_NAME", "classy_resnet", "old_swinv2", "vicregl_convnext"]

Tensors = Mapping[str, "torch.Tensor"]

_CLASSY = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3"}


def classy_resnet(tensors: Tensors, model: nn.Module) -> dict[str, torch.Tensor]:
    """A ResNet or ResNeXt of Classy Vision behind a descriptor, under the names of torchvision's.

    Raises:
        WeightsError: a name that is not of this layout.
    """
    del model
    places = [
        (r"backbone\.initial_block\._module\.0\.(\w+)", r"conv1.\1"),
        (r"backbone\.initial_block\._module\.1\.(\w+)", r"bn1.\1"),
        (r"embeddings\.1\.(\w+)", r"fc.\1"),
    ]
    block = re.compile(r"backbone\.blocks\.(\d)\.(?:block\d-)?(\d+)\.(?:_module\.)?(.+)\.(\w+)")
    renamed = {}
    for name, value in tensors.items():
        new = next((re.sub(old, to, name) for old, to in places if re.fullmatch(old, name)), None)
        if found := block.fullmatch(name):
            part = found[3].removeprefix("convolutional_block.")
            new = f"layer{int(found[1]) + 1}.{found[2]}.{_CLASSY.get(part, 'bn3' if part == 'bn' else part)}.{found[4]}"
        if new is None:
            raise WeightsError(f"expected a ResNet of Classy Vision, found the tensor {name!r}")
        renamed[new] = value
    return renamed


def vicregl_convnext(tensors: Tensors, model: nn.Module) -> dict[str, torch.Tensor]:
    """A ConvNeXt of VICRegL, whose norm comes before its mean, under timm's names."""
    renamed = adapters.foreign_timm(tensors, model, None)
    return {name.replace("head.norm.", "norm_pre."): value for name, value in renamed.items()}


def old_swinv2(tensors: Tensors, model: nn.Module) -> dict[str, torch.Tensor]:
    """A SwinV2 of timm before 0.9, where a stage ended with its down-sampling and kept its index tables."""
    del model
    tables = (".relative_position_index", ".relative_coords_table", ".attn_mask")
    renamed = {}
    for name, value in tensors.items():
        if not name.endswith(tables):
            new = re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", name)
            renamed[re.sub(r"^head\.", "head.fc.", new)] = value
    return renamed


BY_NAME: Mapping[str, Callable[[Tensors, nn.Module], dict[str, torch.Tensor]]] = {
    "classy": classy_resnet,
    "swinv2": old_swinv2,
    "vicregl": vicregl_convnext,
}
