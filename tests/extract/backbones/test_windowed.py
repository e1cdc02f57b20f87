"""Plain transformers in windows: against attention written out, and what becomes of every tensor."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.layers.mlp import SwiGLU
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch.nn import functional as F  # noqa: N812

from featurebank.extract.backbones import build, outline, resolve, trainable
from featurebank.extract.backbones.contract import BackboneSpec, Weights
from featurebank.extract.backbones.layer_groups import layer_groups
from featurebank.extract.backbones.network import FrozenNetwork, TimmNetwork
from featurebank.extract.backbones.windowed_network import DROPPED, WINDOW, windowed, without_positions
from featurebank.extract.errors import WeightsError
from featurebank.extract.preprocessing import Preprocessing

PATCH = 4
PLAIN: dict[str, Any] = {
    "patch_size": PATCH,
    "embed_dim": 16,
    "num_heads": 2,
    "mlp_ratio": 2,
    "depth": 6,
    "num_classes": 5,
}
WITHOUT_PREFIX: dict[str, Any] = {"class_token": False, "global_pool": "avg", "fc_norm": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers outside the embedding": {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5},
    "pooled by attention": {"class_token": False, "global_pool": "map", "qkv_bias": False},
    "norm behind the mean": {"class_token": False, "global_pool": "avg", "qk_norm": True},
    "CLIP": {"pre_norm": True, "act_layer": "quick_gelu", "norm_layer": partial(torch.nn.LayerNorm, eps=1e-5)},
}


def spec(grid: int, output: str = "tokens") -> BackboneSpec:
    px = grid * PATCH
    size = Preprocessing(
        height=px, width=px, resize_height=px, resize_width=px, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
    )
    weights = Weights(sha256="random:0")
    return BackboneSpec(
        name="tiny", source="tiny", architecture="", weights=weights, preprocessing=size, outputs=(output,)
    )


def plain(grid: int, own: int = 0, **options: Any) -> tuple[BackboneSpec, Any]:
    """A transformer all of whose tensors are drawn, made for a grid, or its ``own``; on a canvas of the grid."""
    torch.manual_seed(0)
    model = VisionTransformer(**{"img_size": (own or grid) * PATCH, "num_classes": 5, **PLAIN, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return spec(grid), model.eval()


class Whole(FrozenNetwork):
    """A network that is asked for nothing."""


def images(of: BackboneSpec) -> torch.Tensor:
    size = of.preprocessing
    return torch.randn(2, 3, size.height, size.width, generator=torch.Generator().manual_seed(1))


def test_on_a_canvas_of_one_window_it_gives_what_the_plain_one_gives() -> None:
    of, model = plain(WINDOW, **WITHOUT_PREFIX)
    before = TimmNetwork(of, model)(images(of))["tokens"]
    torch.testing.assert_close(windowed(of, TimmNetwork(of, model))(images(of))["tokens"], before)


@pytest.mark.parametrize("variant", ["class token", "registers outside the embedding", "CLIP"])
def test_it_is_attention_within_windows_and_of_four_blocks_to_all_places(variant: str) -> None:
    of, model = plain(WINDOW + 5, depth=8, **VARIANTS[variant])
    network: Any = windowed(of, Whole(of, model))
    tables = [(block.attn.rel_pos_h, block.attn.rel_pos_w) for block in network.backbone.blocks]
    for table in (table for both in tables for table in both):
        assert not table.any()
        torch.nn.init.normal_(table)
    with torch.no_grad():
        found = network(images(of))["tokens"]
        expected = written_out(model, tables, images(of))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def written_out(model: Any, tables: list[Any], pictures: torch.Tensor) -> torch.Tensor:
    """The final tokens, window by window and head by head."""
    embedding = model.patch_embed.proj
    x = F.conv2d(pictures, embedding.weight, embedding.bias, stride=PATCH).permute(0, 2, 3, 1)
    side = x.shape[1]
    x = model.norm_pre(x + model.pos_embed[:, -side * side :].reshape(1, side, side, -1))
    for number, (block, table) in enumerate(zip(model.blocks, tables, strict=True)):
        step = side if number in (1, 3, 5, 7) else WINDOW
        normed, attended = block.norm1(x), torch.zeros_like(x)
        for top in range(0, side, step):
            for left in range(0, side, step):
                own = normed[:, top : top + step, left : left + step]
                window = F.pad(own, (0, 0, 0, step - own.shape[2], 0, step - own.shape[1]))
                out = attention(block.attn, table, window)
                attended[:, top : top + step, left : left + step] = out[:, : own.shape[1], : own.shape[2]]
        x = x + block.ls1(attended)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.norm(x).flatten(1, 2)  # type: ignore[no-any-return]


def attention(of: Any, tables: Any, x: torch.Tensor) -> torch.Tensor:
    batch, side, _, wide = x.shape
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    rows, columns = (places[:, None, axis] - places[None, :, axis] + side - 1 for axis in (0, 1))
    heads = []
    for head in range(of.num_heads):
        own = slice(head * of.head_dim, (head + 1) * of.head_dim)
        query, key, value = (part[..., own] for part in of.qkv(x.reshape(batch, -1, wide)).chunk(3, -1))
        logits = query @ key.transpose(1, 2) / of.head_dim**0.5
        for table, distance in zip(tables, (rows, columns), strict=True):
            logits = logits + (query[:, :, None] * table[distance]).sum(-1)
        heads.append(logits.softmax(-1) @ value)
    return of.proj(torch.cat(heads, -1)).reshape(x.shape)  # type: ignore[no-any-return]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tensor_of_the_plain_one_is_taken_over_or_left_out_by_name(variant: str) -> None:
    of, model = plain(WINDOW, **VARIANTS[variant])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = windowed(of, Whole(of, model))
    after = network.backbone.state_dict()
    for name, value in before.items():
        place = after.get(name.replace("norm.", "neck.") if name.startswith("norm.") else name)
        assert (place is None) == name.startswith(tuple(DROPPED))
        if place is not None:
            assert place.flatten().equal(value.flatten()[value.numel() - place.numel() :])
    new = {name for name in after if name.replace("neck.", "norm.") not in before}
    assert len(new) == 2 * len(model.blocks)
    assert not any(after[name].any() for name in new)
    assert all("rel_pos" in name for name in new)
    assert len(layer_groups(network)) == 2 + len(model.blocks)


def test_position_embeddings_are_brought_onto_the_canvas() -> None:
    of, model = plain(2 * WINDOW, own=WINDOW, dynamic_img_size=True)
    found = windowed(of, Whole(of, model)).backbone.state_dict()["pos_embed"]
    own = model.pos_embed[:, 1:].reshape(1, WINDOW, WINDOW, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(own, size=2 * WINDOW, mode="bicubic", antialias=True).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, expected)


def with_a_tensor(model: Any) -> Any:
    model.register_parameter("temperature", torch.nn.Parameter(torch.ones(1)))
    return model


def gated(model: Any) -> Any:
    model.blocks[3].attn.gate = torch.nn.Linear(16, 16)
    return model


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: timm.create_model("test_resnet"), "timm's ResNet"),
        (lambda: timm.create_model("eva02_tiny_patch14_224", depth=1), "timm's Eva"),
        (lambda: plain(WINDOW, block_fn=ParallelThingsBlock, depth=1)[1], "timm's ParallelThingsBlock"),
        (lambda: plain(WINDOW, mlp_layer=SwiGLU)[1], "blocks.0.mlp: SwiGLU"),
        (lambda: plain(WINDOW, scale_attn_norm=True)[1], "blocks.0.attn.norm: LayerNorm"),
        (lambda: gated(plain(WINDOW)[1]), r"blocks\.3\.attn\.gate: Linear"),
        (lambda: with_a_tensor(plain(WINDOW)[1]), "the tensor temperature"),
    ],
)
def test_what_sams_transformer_has_no_place_for_is_named(make: Any, found: str) -> None:
    of = spec(WINDOW)
    with pytest.raises(WeightsError, match=f"tiny: what attends within windows .* found {found}"):
        windowed(of, Whole(of, make()))


def test_where_nothing_is_trained_positions_of_zero_cost_nothing_and_others_stay() -> None:
    wanted = resolve("timm:test_vit2@random@240px@windowed", outputs=["tokens"])
    built: Any = build(wanted)
    kept = trainable(wanted)
    assert [block.attn.use_rel_pos for block in built.backbone.blocks] == [False] * 8
    with torch.no_grad():
        torch.testing.assert_close(built(images(wanted))["tokens"], kept(images(wanted))["tokens"])
        blocks: Any = kept.backbone.blocks
        blocks[2].attn.rel_pos_w[3] = 1.0
    without_positions(kept)
    assert outline(wanted)(images(wanted).to("meta"))["tokens"].shape == (2, 225, 64)
    assert [block.attn.use_rel_pos for block in blocks] == [number == 2 for number in range(8)]


def test_a_backbone_of_the_zoo_is_asked_for_in_windows_by_name() -> None:
    wanted = resolve("mocov3_vit_small@random@240px@windowed@flip", outputs=["features", "blocks.11.tokens"])
    assert wanted.name == "mocov3_vit_small@random@240px@windowed@flip"
    assert wanted.preprocessing.flip
    network: Any = build(wanted)
    assert [block.window_size for block in network.backbone.blocks] == [14, 14, 0] * 4
    shapes = {name: tuple(value.shape) for name, value in network(torch.zeros(1, 3, 240, 240)).items()}
    assert shapes == {"features": (1, 384, 15, 15), "blocks.11.tokens": (1, 225, 384)}
