"""What enters a block: the same tensor as by the architecture's own parts, whatever library, folded or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import make_images, open_folder, run
from torch import nn

from featurebank.extract.backbones import build, resolve, trainable
from featurebank.extract.backbones.cuts import CutNetwork
from featurebank.extract.backbones.own_network import OwnNetwork
from featurebank.extract.device import Execution
from featurebank.extract.forward import PixelsToFeatures, Runner
from featurebank.extract.transform import Transform, normalisation
from featurebank.store import FeatureSet
from featurebank.store.errors import UnknownNameError

Below = Callable[[Any, torch.Tensor], torch.Tensor]


def through(modules: Any, x: torch.Tensor) -> torch.Tensor:
    for module in modules:
        x = module(x)
    return x


def timm_vit(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(images)))  # type: ignore[no-any-return]


# What runs below a block, written down from each architecture's own forward.
CUTS: dict[tuple[str, int], Below] = {
    ("efficientnet_lite0@random@64px", 1): lambda m, x: m.bn1(m.conv_stem(x)),
    ("efficientnet_lite0@random@64px", 3): lambda m, x: m.blocks[1][0](m.blocks[0](m.bn1(m.conv_stem(x)))),
    ("efficientnet_lite0@random@64px", 6): lambda m, x: through(m.blocks[:3], m.bn1(m.conv_stem(x))),
    ("mobilenetv2@random@64px", 17): lambda m, x: through(m.blocks[:6], m.bn1(m.conv_stem(x))),
    ("squeezenet1_1@random@64px", 3): lambda m, x: through(m.features[:6], x),
    ("timm:resnet18@random@32px", 1): lambda m, x: m.maxpool(m.act1(m.bn1(m.conv1(x)))),
    ("timm:resnet18@random@32px", 4): lambda m, x: through(
        [m.conv1, m.bn1, m.act1, m.maxpool, m.layer1, m.layer2[0]], x
    ),
    ("timm:convnext_atto@random@64px", 3): lambda m, x: m.stages[0](m.stem(x)),
    ("timm:test_vit@random", 1): timm_vit,
    ("timm:test_vit@random", 4): lambda m, x: through(m.blocks[:3], timm_vit(m, x)),
    ("timm:swin_tiny_patch4_window7_224@random@64px", 4): lambda m, x: through(
        m.layers[1].blocks[:1], m.layers[1].downsample(m.layers[0](m.patch_embed(x)))
    ),
    ("torchvision:mobilenet_v2@random@64px", 2): lambda m, x: through(m.features[:2], x),
}


@pytest.mark.parametrize(("name", "block"), CUTS)
def test_what_enters_a_block_is_what_all_below_it_gives(name: str, block: int) -> None:
    network = build(resolve(name, outputs=[f"cut.{block}", "pooled"]))
    size = network.spec.preprocessing
    images = torch.randn(3, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))
    found = network(images)
    plain: Any = trainable(resolve(name, outputs=["pooled"]))
    with torch.no_grad():
        expected = CUTS[name, block](plain.backbone, images)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found[f"cut.{block}"], expected, atol=1e-5 * scale, rtol=1e-4)
    torch.testing.assert_close(found["pooled"], plain(images)["pooled"], atol=1e-4, rtol=1e-3)


def test_a_network_with_cuts_is_otherwise_the_network() -> None:
    spec = resolve("mocov3_vit_small@random@32px@flip", outputs=["cut.2", "pooled"])
    network: Any = build(spec)
    plain: Any = build(replace(spec, outputs=("pooled",)))
    assert (network.spec, network.dimension, network.sparsity()) == (spec, 384, plain.sparsity())
    classified: Any = build(resolve("timm:test_resnet@random@32px", outputs=["cut.1", "pooled", "logits"]))
    assert classified.head().weight.shape == (1000, classified.dimension)
    parameters = sum(parameter.numel() for parameter in network.parameters_counted())
    assert parameters == sum(parameter.numel() for parameter in plain.parameters_counted())


def test_a_block_that_begins_in_place_does_not_change_what_entered_it() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 4, stride=4)
            self.layer1 = nn.Sequential(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer1(self.conv1(images)).mean((2, 3))  # type: ignore[no-any-return]

        def group_matcher(self, coarse: bool) -> dict[str, str]:
            assert not coarse
            return {"stem": "conv1", "blocks": r"layer(\d+)\.(\d+)"}

    spec = resolve("timm:test_resnet@random@32px", outputs=["cut.1"])
    network = CutNetwork(spec, OwnNetwork(replace(spec, outputs=("pooled",)), InPlace()))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images)["cut.1"], network.backbone.backbone.conv1(images))  # type: ignore[operator,union-attr]


@pytest.mark.parametrize(
    ("name", "output", "known"),
    [
        ("timm:test_resnet@random@32px", "cut.9", r"unknown output 'cut.9'.*cut\.1-4"),
        ("timm:densenet121@random@32px", "cut.3", r"unknown output 'cut.3'.*'cut.1'"),
        ("timm:cait_xxs24_224@random", "cut.1", r"no output cut\.K, as its blocks are not known: .*Cait"),
    ],
)
def test_a_cut_that_is_none_is_refused(name: str, output: str, known: str) -> None:
    with pytest.raises(UnknownNameError, match=known):
        build(resolve(name, outputs=[output]))


@pytest.mark.parametrize("output", ["cut", "cut.0", "cut.1.mean", "stem.1"])
def test_other_spellings_are_not_cuts(output: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown output"):
        build(resolve("timm:test_resnet@random@32px", outputs=[output]))


def test_the_engine_stores_cuts_row_by_row_from_several_lanes(tmp_path: Path) -> None:
    name, outputs = "efficientnet_lite0@random@32px", ["cut.5", "pooled"]
    split = open_folder(make_images(tmp_path / "images", 40))
    execution = Execution(device="cpu", compile="never", batch_size=4, workers=3)
    (outcome,) = run(tmp_path / "store", split, [name], outputs=outputs, execution=execution)
    assert outcome.error == ""
    network: Any = trainable(resolve(name, outputs=["pooled"]))
    transform = Transform(network.spec.preprocessing)
    scale, shift = normalisation(transform.preprocessing)
    prepared = np.stack([transform(Image.open(tmp_path / "images" / record)) for record in split.ids])
    images = torch.from_numpy((prepared * scale + shift).transpose(0, 3, 1, 2).astype(np.float32))
    with FeatureSet(outcome.path) as made, torch.no_grad():
        stem = network.backbone.bn1(network.backbone.conv_stem(images))
        expected = through([*network.backbone.blocks[:2], network.backbone.blocks[2][0]], stem)
        assert made["cut.5"].shape == (40, 40, 4, 4)
        np.testing.assert_allclose(made["cut.5"], expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))


def test_a_run_that_would_be_compiled_is_eager_and_says_so() -> None:
    spec = resolve("timm:test_resnet@random@32px", outputs=["cut.1"])
    runner = Runner(
        PixelsToFeatures(build(spec), spec, "float32", "float16"), device="cpu", batch_size=2, compiled=True
    )
    assert (runner.compiled, runner.note) == (False, "this network cannot be compiled, running eagerly")
