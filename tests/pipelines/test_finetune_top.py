"""The upper blocks alone: the features and gradients of the whole network, at the cost of what is above the cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models  # type: ignore[import-untyped]

from featurebank.extract.backbones import resolve, trainable
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.layer_groups import layer_groups
from featurebank.extract.backbones.network import FrozenNetwork, TimmNetwork, seeded
from featurebank.extract.backbones.torchvision_network import LinearEnd
from featurebank.pipelines.jobs.finetune.top import Top


def spec_of(name: str, px: int = 32) -> BackboneSpec:
    return replace(resolve(f"timm:test_resnet@random@{px}px", outputs=["pooled"]), name=name)


def named(name: str) -> FrozenNetwork:
    return trainable(resolve(name, outputs=["pooled"]))


def timm_swin() -> FrozenNetwork:
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, embed_dim=8, depths=(1, 2, 1), num_heads=(1, 2, 2), window_size=4
    )
    return TimmNetwork(spec_of("swin"), model)


def torchvision_swin() -> FrozenNetwork:
    model = models.SwinTransformer([4, 4], 8, [1, 2], [1, 2], [4, 4])
    return LinearEnd(spec_of("swin of torchvision"), model)


def torchvision_vit() -> FrozenNetwork:
    model = models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5)
    model.heads.head.weight.data.normal_()
    return LinearEnd(spec_of("vit of torchvision"), model)


NETWORKS: dict[str, tuple[Callable[[], FrozenNetwork], int]] = {
    "efficientnet": (lambda: named("efficientnet_lite0@random@32px"), 6),
    "mobilenetv2": (lambda: named("mobilenetv2@random@32px"), 17),
    "squeezenet": (lambda: named("squeezenet1_1@random@64px"), 4),
    "resnet": (lambda: named("timm:test_resnet@random@32px"), 2),
    "resnet of torchvision": (lambda: named("torchvision:resnet18@random@32px"), 4),
    "convnext": (lambda: named("timm:test_convnext@random@64px"), 3),
    "vit": (lambda: named("timm:test_vit@random@32px"), 3),
    "vit with rotations": (lambda: named("timm:vit_small_patch16_dinov3@random@32px"), 12),
    "vit of torchvision": (torchvision_vit, 2),
    "swin": (timm_swin, 3),
    "swin of torchvision": (torchvision_swin, 2),
}


def below(top: Top, images: torch.Tensor) -> torch.Tensor:
    """What enters the block, nothing run above it."""
    kept: list[torch.Tensor] = []

    def stop(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        kept.append(arguments[0].clone())
        raise InterruptedError

    hook = top._entrance[0].register_forward_pre_hook(stop)
    with pytest.raises(InterruptedError), torch.no_grad():
        top.network(images)
    hook.remove()
    return kept[0]


def flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("kind", NETWORKS)
def test_features_gradients_and_cost_are_those_of_the_blocks_above_the_cut(kind: str) -> None:
    build, block = NETWORKS[kind]
    with seeded(0):
        network = build()
    groups = layer_groups(network)
    top = Top(network, block)
    parameters = dict(network.named_parameters())
    above = {name: parameters[name] for group in groups[block:] for name in group}
    for parameter in above.values():
        parameter.requires_grad_(True)
    size = network.spec.preprocessing
    images = torch.randn(5, 3, size.height, size.width, generator=torch.Generator().manual_seed(1))
    cut = below(top, images)

    whole, alone = network(images)["pooled"], top(cut)
    scale = float(whole.detach().abs().max())
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-4 * scale)
    expected, found = (
        torch.autograd.grad(pooled.square().sum(), [*above.values()], allow_unused=True) for pooled in (whole, alone)
    )
    assert any(gradient is not None for gradient in found)
    for name, theirs, ours in zip(above, expected, found, strict=True):
        assert (theirs is None) == (ours is None), name
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()), msg=name)
    costs = [flops(run) for run in (lambda: network(images), lambda: below(top, images), lambda: top(cut))]
    assert costs[0] == costs[1] + costs[2]
    torch.testing.assert_close(network(images)["pooled"], whole, rtol=0, atol=0, msg="the network is as it was")


def test_a_network_in_training_keeps_its_modes_and_statistics() -> None:
    network = named("timm:test_resnet@random@32px")
    for module in network.modules():
        module.training = True
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Top(network, 2)
    assert all(module.training for module in network.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_a_network_with_a_way_around_the_block_is_refused() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 4, stride=4)
            self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1))
            self.fc = nn.Linear(4, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            stem = self.conv1(images)
            return self.fc((stem + self.layer1(stem)).mean((2, 3)))  # type: ignore[no-any-return]

        def group_matcher(self, coarse: bool) -> dict[str, str]:
            assert not coarse
            return {"stem": "conv1", "blocks": r"layer(\d+)\.(\d+)"}

    network = LinearEnd(spec_of("mine"), Around())
    with pytest.raises(ValueError, match=r"mine cannot be cut at block 1: what enters it must decide.*choose another"):
        Top(network, 1)


def test_a_block_that_several_tensors_enter_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"densenet.* cannot be cut at block 2: one tensor must enter it; .*: 1, 7, 19, 43"
    ):
        Top(named("timm:densenet121@random@32px"), 2)
