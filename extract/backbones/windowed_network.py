"""``@windowed``: a plain transformer whose blocks attend within windows, all but four: timm's ViT as timm's SAM-ViT.

What attention costs grows with the square of the places, and images that objects are found in are large. ViTDet (Li et
al. 2022, arXiv:2203.16527) keeps a plain transformer's weights and lets its blocks attend within windows of 14 x 14
places, what is beyond the image's border being zero; four blocks, evenly spread, the last among them, attend to all. To
the logits of attention come relative positions, a table for each axis, that begin at zero.

Shapes: h, w places of the canvas, D dimension, d of a head, P prefix tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from timm.layers.norm import LayerNorm2d
from timm.layers.pos_embed import resample_abs_pos_embed_nhwc
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vision_transformer_sam import Attention, VisionTransformerSAM
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.network import FrozenNetwork, TimmNetwork
from featurebank.extract.errors import WeightsError

__all__ = ["DROPPED", "GLOBAL_BLOCKS", "WINDOW", "windowed", "without_positions"]

WINDOW: Final = 14
GLOBAL_BLOCKS: Final = 4
DROPPED: Final[Mapping[str, str]] = {
    "cls_token": "windows hold places of the image alone",
    "reg_token": "windows hold places of the image alone",
    "fc_norm.": "it norms what is pooled, for the classifier",
    "attn_pool.": "it pools, for the classifier",
    "head.": "the classifier",
}
"""Which tensors of a plain transformer are left out, by what their names begin with, and why."""
_KEPT = ("patch_embed", "norm_pre", "blocks")


def windowed(spec: BackboneSpec, network: FrozenNetwork) -> TimmNetwork:
    """The transformer in windows, with the weights of the plain one; ``pooled`` is the mean of its normed places.

    Every tensor of the plain one is taken over or is in `DROPPED`; new are the relative positions alone. Where the
    canvas is one window, a transformer without prefix tokens gives what it gave before.

    Args:
        spec: what to give, on its canvas.
        network: the plain one. Its position embeddings are resampled where they are not of the canvas.

    Raises:
        WeightsError: it is no plain transformer of timm, or has a part that SAM-ViT has no place for, which is named.
        UnknownNameError: an output it does not have.
    """
    plain: Any = network
    while isinstance(plain, FrozenNetwork):
        plain = plain.backbone
    if type(plain) is not VisionTransformer or type(plain.blocks[0]) is not Block:
        part = plain if type(plain) is not VisionTransformer else plain.blocks[0]
        raise _inexpressible(spec, f"{type(part).__module__.partition('.')[0]}'s {type(part).__name__}")
    with torch.device("meta"):  # no number of it stays
        model: Any = VisionTransformerSAM(**_arguments(plain, spec))
        model.neck = nn.Identity() if isinstance(plain.norm, nn.Identity) else LayerNorm2d(plain.embed_dim)
    if isinstance(plain.norm, nn.LayerNorm):
        model.neck.eps = plain.norm.eps
    wanted, found = _parts(plain), _parts(model)
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            raise _inexpressible(spec, f"{name}: {wanted.get(name, 'nothing')}")
    model.load_state_dict(_tensors(spec, plain, model), assign=True)
    return TimmNetwork(spec, model)


def without_positions(network: nn.Module) -> None:
    """Leaves out relative positions that are zero and stay so: attention then needs no number for each pair of places.

    Half the time of a pass of ViT-Ti on 1,024 pixels, and the same numbers.
    """
    for part in network.modules():
        if isinstance(part, Attention) and not any(table.is_meta or table.any() for table in _positions(part)):
            part.use_rel_pos = False


def _positions(part: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    return part.rel_pos_h, part.rel_pos_w


def _arguments(plain: Any, spec: BackboneSpec) -> dict[str, Any]:
    """What SAM-ViT's constructor must be told to have the parts of a plain transformer."""
    block, depth = plain.blocks[0], len(plain.blocks)
    hidden = block.mlp.fc1.out_features if hasattr(block.mlp, "fc1") else 0
    return {
        "img_size": (spec.preprocessing.height, spec.preprocessing.width),
        "patch_size": plain.patch_embed.patch_size,
        "num_classes": 0,
        "embed_dim": plain.embed_dim,
        "depth": depth,
        "num_heads": block.attn.num_heads,
        "mlp_ratio": (hidden + 0.5) / plain.embed_dim,  # rounded down again
        "qkv_bias": block.attn.qkv.bias is not None,
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity),
        "init_values": None if isinstance(block.ls1, nn.Identity) else 1.0,
        "pre_norm": not isinstance(plain.norm_pre, nn.Identity),
        "norm_layer": partial(block.norm1.__class__, eps=block.norm1.eps),
        "act_layer": block.mlp.act.__class__ if hasattr(block.mlp, "act") else nn.GELU,
        "use_abs_pos": plain.pos_embed is not None,
        "use_rel_pos": True,
        "window_size": WINDOW,
        "global_attn_indexes": tuple(depth * part // GLOBAL_BLOCKS - 1 for part in range(1, GLOBAL_BLOCKS + 1)),
        "neck_chans": 0,
    }


def _parts(model: nn.Module) -> dict[str, str]:
    """What each module of embedding and blocks is, those that do nothing left out; of leaves with their settings."""
    return {
        name: type(module).__name__ if any(module.children()) else repr(module)
        for name, module in model.named_modules()
        if name.partition(".")[0] in _KEPT and not isinstance(module, nn.Identity)
    }


def _tensors(spec: BackboneSpec, plain: Any, model: Any) -> dict[str, torch.Tensor]:
    """The state dict of SAM-ViT, each tensor of the plain one accounted for.

    Raises:
        WeightsError: one has no place.
    """
    (height, width), weight = plain.patch_embed.grid_size, plain.patch_embed.proj.weight
    tensors = {name: weight.new_zeros(value.shape) for name, value in model.state_dict().items() if ".rel_pos_" in name}
    for name, value in plain.state_dict().items():
        if name == "pos_embed":
            places = value[:, value.shape[1] - height * width :].reshape(1, height, width, -1)
            tensors[name] = resample_abs_pos_embed_nhwc(places, list(model.patch_embed.grid_size)).clone()
        elif name.partition(".")[0] in _KEPT:
            tensors[name] = value
        elif name.startswith("norm."):
            tensors[name.replace("norm.", "neck.")] = value
        elif not name.startswith(tuple(DROPPED)):
            raise _inexpressible(spec, f"the tensor {name}")
    return tensors


def _inexpressible(spec: BackboneSpec, part: str) -> WeightsError:
    return WeightsError(
        f"{spec.name}: what attends within windows must be a plain transformer of timm whose parts its SAM-ViT has "
        f"too; found {part}; take the backbone without windows"
    )
