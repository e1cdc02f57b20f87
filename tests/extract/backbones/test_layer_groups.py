"""The layer of every parameter, by one rule for all sources; and rates that fall from layer to layer."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
import transformers
from timm.models._manipulate import group_parameters
from torch import nn
from torchvision import models  # type: ignore[import-untyped]

from featurebank.extract.backbones import outline, resolve, zoo
from featurebank.extract.backbones.layer_groups import decayed_rates, layer_groups
from featurebank.extract.backbones.own_network import OwnNetwork

ZOO = zoo.entries()
# How many blocks each architecture of the zoo has, as its paper's tables say; the first that begins a name counts.
BLOCKS = {
    "swinv2_tiny": 12, "swinv2": 24, "swin_tiny": 12, "midas_swinv2_tiny": 12, "midas_swinv2_base": 24,
    "clip_resnet50x4": 24 + 2, "clip_resnet50x16": 36 + 4, "clip_resnet50x64": 64, "clip_resnet101": 33,
    "clip_resnet50": 16, "resnet101": 33, "resnet18": 8, "resnet50": 16, "dino_resnet50": 16, "mocov3_resnet50": 16,
    "vicreg_resnet50": 16, "sscd_disc_large": 33, "sscd": 16, "resnext50": 16,
    "convnext_tiny": 18, "dinov3_convnext_tiny": 18, "convnext": 36, "vicregl": 36, "dinov3_convnext": 36,
    "openclip_convnext": 36, "regnetx_400mf": 22, "regnet_y_3_2gf": 21, "efficientnet_b0": 16, "efficientnet_v2_s": 40,
    "mobilenetv3_large_tv2": 15, "mobilenetv3_large": 16, "densenet161": 6 + 12 + 36 + 24, "shufflenet": 16,
    "inception_v3": 11, "wavemix": 16, "stable_diffusion": 2 * (4 * 2 + 1), "hiera_base": 24, "aimv2": 24,
    "siglip2_vit_so400m": 27, "mobileclip_s1": 40, "dinov2_vit_giant": 40, "dinov2_reg_vit_giant": 40,
}  # fmt: skip


def blocks_of(name: str) -> int:
    for begin, count in BLOCKS.items():
        if name.startswith(begin):
            return count
    size = next(size for size in ("huge", "large", "base", "small", "tiny") if size in name)
    return {"huge": 32, "large": 24}.get(size, 12)


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_is_in_one_layer_of_as_many_as_the_architecture_has(name: str) -> None:
    network: Any = outline(resolve(f"{name}@random"))
    groups = layer_groups(network)
    names = [name for name, _ in network.named_parameters()]
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert len(groups) == blocks_of(name) + 2 >= 3
    assert all(groups[:-1]), "only the head may have no parameters"
    assert names[0] in groups[0] or name == "wavemix"
    assert not [name for name in groups[-1] if ".blocks." in name or ".layer" in name or "down_blocks" in name]


@pytest.mark.parametrize("name", ["mocov3_resnet50", "mocov3_vit_base", "vicreg_resnet50", "vicregl_convnext_xlarge",
                                  "dino_resnet50", "sscd_disc_mixup", "wavemix", "stable_diffusion_v1_4"])  # fmt: skip
def test_layer_decay_is_not_silently_ignored_where_the_authors_code_has_no_groups(name: str) -> None:
    groups = layer_groups(outline(resolve(f"{name}@random")))  # type: ignore[arg-type]
    rates = decayed_rates(groups, 1e-3, 0.75)
    assert len(set(rates)) == len(groups) > 10
    assert sum(len(group) for group in groups[1:-1]) > len(groups[0]) + len(groups[-1])


def test_all_resnets_of_fifty_layers_have_the_same_layers_whatever_their_source() -> None:
    rows = ["resnet50", "resnet50_tv", "dino_resnet50", "vicreg_resnet50", "mocov3_resnet50", "sscd_disc_mixup"]
    of_open_clip = "open_clip:RN50/openai"
    found = [layer_groups(outline(resolve(f"{row}@random"))) for row in [*rows, of_open_clip]]  # type: ignore[arg-type]
    assert {len(groups) for groups in found} == {18}
    usual = [groups[1:-1] for groups in found[:-1]]
    assert all(groups == usual[0] for groups in usual), "the same blocks hold the same parameters"
    assert [len(groups[-1]) for groups in found[:5]] == [2, 2, 0, 0, 0], "with a classifier or without"


def test_vit_base_has_stem_twelve_blocks_and_a_head_with_the_final_norm() -> None:
    network: Any = outline(resolve("vit_base_augreg_in1k@random"))
    groups = layer_groups(network)
    assert len(groups) == 14
    embeddings = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert set(groups[0]) == {f"backbone.{name}" for name in embeddings}
    assert set(groups[-1]) == {f"backbone.{part}.{of}" for part in ("norm", "head") for of in ("weight", "bias")}
    for depth in range(1, 13):
        assert all(name.startswith(f"backbone.blocks.{depth - 1}.") for name in groups[depth])


def test_blocks_agree_with_timms_own_grouping_where_it_has_one() -> None:
    for name in ("resnet50", "convnext_base", "swinv2_tiny_window8_256", "regnetx_400mf", "hiera_base_mae"):
        network: Any = outline(resolve(f"{name}@random"))
        theirs = group_parameters(network.backbone, network.backbone.group_matcher(coarse=False), reverse=True)
        ours = {of: depth for depth, group in enumerate(layer_groups(network)) for of in group}
        last = max(ours.values())
        different = {of for of, depth in ours.items() if theirs[of.removeprefix("backbone.")] != depth}
        assert all(ours[of] == last for of in different), "timm counts the final norm with the last block"


def test_what_lies_between_two_blocks_goes_with_the_second() -> None:
    groups = layer_groups(outline(resolve("convnext_tiny_tv@random")))  # type: ignore[arg-type]
    assert {name.split(".")[2] for name in groups[4]} == {"2", "3"}
    groups = layer_groups(outline(resolve("densenet161@random")))  # type: ignore[arg-type]
    assert "backbone.features.transition1.conv.weight" in groups[7]
    spec = dataclasses.replace(resolve("stable_diffusion_v1_4@random", outputs=["up.3.mean"]), name="with its way up")
    groups = layer_groups(outline(spec))  # type: ignore[arg-type]
    assert "backbone.unet.down_blocks.0.downsamplers.0.conv.weight" in groups[12]
    assert "backbone.unet.mid_block.resnets.0.conv1.weight" in groups[18], "registered after the way up, run before"
    assert len(groups) == 2 + 18 + 4 * 3
    groups = layer_groups(outline(resolve("inception_v3@random")))  # type: ignore[arg-type]
    assert "backbone.AuxLogits.fc.weight" in groups[-1]


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1", "vit_b_16", "regnet_y_400mf", "convnext_tiny"])
def test_torchvisions_other_families_have_layers_too(name: str) -> None:
    weights = models.get_model_weights(name).__members__
    groups = layer_groups(outline(resolve(f"torchvision:{name}/{next(iter(weights))}@random")))  # type: ignore[arg-type]
    expected = {"mobilenet_v2": 17, "squeezenet1_1": 8, "vit_b_16": 12, "regnet_y_400mf": 16, "convnext_tiny": 18}
    assert len(groups) == expected[name] + 2


def own(module: nn.Module) -> OwnNetwork:
    spec = dataclasses.replace(resolve("resnet18@random", outputs=["pooled"]), name="mine")
    return OwnNetwork(spec, module)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1))
        self.first = nn.Conv2d(3, 4, 8, stride=8)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(self.first(images)).mean((2, 3)) + self.token  # type: ignore[no-any-return]


def test_a_network_of_ones_own_needs_patterns() -> None:
    network = own(Plain())
    with pytest.raises(
        ValueError, match=r"mine: expected an architecture.*found Plain with backbone\.token, .*matcher="
    ):
        layer_groups(network)
    groups = layer_groups(network, {"stem": "token|first", "blocks": r"body\.(\d+)"})
    assert [len(group) for group in groups] == [3, 2, 2, 0]


def test_a_parameter_in_no_layer_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"2 blocks, 2 parameters in the stem, and in none of them: backbone\.token;"):
        layer_groups(own(Plain()), {"stem": "first", "blocks": r"body\.(\d+)"})
    with pytest.raises(
        ValueError, match=r"0 blocks, 3 parameters.*none of them: backbone\.body\.0\.weight, .*; give matcher"
    ):
        layer_groups(own(Plain()), {"stem": "token|first", "blocks": r"nothing\.(\d+)"})


def test_timm_models_that_group_by_a_function_are_refused_not_left_in_one_group() -> None:
    network: Any = outline(resolve("timm:cait_xxs24_224@random"))
    assert callable(network.backbone.group_matcher(coarse=False))
    with pytest.raises(ValueError, match="found Cait with"):
        layer_groups(network)


SMALL: dict[str, tuple[str, dict[str, Any], int]] = {
    "ConvNext": ("downsampling_layer", {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}, 3),
    "Swin": ("downsample", {"image_size": 32, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2]}, 3),
    "Dinov2": ("", {"image_size": 28, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}, 2),
}


@pytest.mark.parametrize("kind", SMALL)
def test_networks_of_transformers_have_their_blocks_too(kind: str) -> None:
    between, arguments, blocks = SMALL[kind]
    network: Any = nn.Module()
    network.backbone = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**arguments))
    groups = layer_groups(network)
    assert len(groups) == blocks + 2
    assert all(groups)
    assert all("embeddings" in name for name in groups[0])
    assert all("layernorm" in name for name in groups[-1])
    assert [depth for depth, group in enumerate(groups) if between and between in " ".join(group)] == [2] * bool(
        between
    )


def test_rates_are_those_of_mae_for_a_vit_base() -> None:
    # scale of layer i of n = depth + 1 is decay ** (n - i), in the fine-tuning code of BEiT and MAE
    rates = decayed_rates(range(14), 1e-3, 0.75)
    assert rates == tuple(1e-3 * 0.75 ** (13 - i) for i in range(14))
    assert decayed_rates(range(14), 1e-3, 0.75, steps=13) == pytest.approx(rates, rel=1e-12)


def test_steps_give_every_backbone_the_same_range_of_rates() -> None:
    for levels in (10, 18, 38, 80):
        rates = decayed_rates(range(levels), 1.0, 0.75, steps=13)
        assert rates[0] == pytest.approx(0.75**13)
        assert rates[-1] == 1.0
        ratios = [high / low for low, high in itertools.pairwise(rates)]
        assert ratios == pytest.approx([ratios[0]] * (levels - 1))
    assert decayed_rates(range(38), 1.0, 0.75)[0] == pytest.approx(2.4e-5, rel=0.01), "what a ConvNeXt-B's stem gets"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": ["one"]}, "at least two groups of parameters, found 1"),
        ({"rate": 0.0}, "rate must be above 0 and finite, found 0.0"),
        ({"rate": math.nan}, "rate must be above 0 and finite, found nan"),
        ({"decay": 1.5}, "decay must be above 0 and at most 1, found 1.5"),
        ({"decay": 0.0}, "decay must be above 0"),
        ({"steps": -1.0}, "steps must be above 0 and finite"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decayed_rates(**{"groups": range(3), "rate": 1e-3, "decay": 0.75, **given})
