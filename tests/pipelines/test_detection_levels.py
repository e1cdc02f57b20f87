"""Maps of every family of the zoo on a canvas: strides and channels, where a place of the image lies in them, views."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from command_line import featurebank_
from object_scenes import scenes
from tiny_diffusion import save_diffusion
from torch import nn
from torch.nn.utils import prune

from featurebank.extract import backbones
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.tuned_source import save_tuned
from featurebank.extract.errors import WeightsError
from featurebank.pipelines.jobs.detection.detector import Detector, Truth
from featurebank.pipelines.jobs.detection.heads import Shape, total
from featurebank.pipelines.jobs.maps.levels import as_map, fitted, levels_of, maps_of, mirrored, with_levels
from featurebank.pipelines.jobs.maps.pyramids import Pyramid, SimplePyramid

SIDE = 128
STRIDES = (4, 8, 16, 32)
STAGES: dict[str, tuple[int, ...]] = {
    "clip_resnet50": (256, 512, 1024, 2048),
    "convnext_tiny": (96, 192, 384, 768),
    "efficientnet_lite0": (24, 40, 112, 320),
    "hiera_base_mae": (96, 192, 384, 768),
    "mobilenetv2": (24, 32, 96, 320),
    "regnetx_400mf": (32, 64, 160, 384),
    "densenet161": (384, 768, 2112, 2208),
    "inception_v3": (192, 288, 768, 2048),  # of convolutions without borders: other strides, resampled
    "resnet18": (64, 128, 256, 512),
    "resnet50_tv": (256, 512, 1024, 2048),
    "stable_diffusion_v1_4": (256, 320, 640, 1280),
    "swin_tiny_tv": (96, 192, 384, 768),
    "swinv2_tiny_window8_256": (96, 192, 384, 768),
}
SINGLE = {
    "beitv2_base_ft": (16, 768),
    "clip_vit_base_32_openai": (32, 768),
    "dino_vit_small_8": (8, 384),
    "dinov2_reg_vit_small": (16, 384),  # of patches of 14 pixels, resampled
    "dinov3_vit_small": (16, 384),
    "eva02_tiny": (16, 192),
    "mocov3_vit_small": (16, 384),
    "sam_vit_base": (16, 768),
    "siglip_vit_base": (16, 768),
    "squeezenet1_1": (16, 512),
}


@pytest.mark.parametrize("name", [*STAGES, *SINGLE])
def test_a_family_has_its_maps_and_the_pyramid_stands_on_them(name: str) -> None:
    side = 2 * SIDE
    spec = fitted(backbones.resolve(f"{name}@random"), side)
    with torch.device("meta"), torch.no_grad():
        levels = levels_of(spec, STRIDES)
        network = backbones.trainable(with_levels(spec, levels))
        neck = Pyramid(levels, 8) if len(levels) > 1 else SimplePyramid(levels[0], 8)
        maps = maps_of(network, levels, torch.zeros(2, 3, side, side))
        pyramid = neck(maps)
    expected = [SINGLE[name]] if name in SINGLE else list(zip(STRIDES, STAGES[name], strict=True))
    assert [(level.stride, level.channels) for level in levels] == expected
    for (stride, channels), one in zip(expected, maps, strict=True):
        assert one.shape == (2, channels, side // stride, side // stride)
    first = expected[0][0] if name in STAGES else expected[0][0] // 4
    assert neck.strides == tuple(first * 2**level for level in range(5))
    sides = [-(-side // stride) for stride in neck.strides]
    assert [tuple(one.shape) for one in pyramid.values()] == [(2, 8, one, one) for one in sides]


def changed_place(spec: BackboneSpec, output: str, stride: int) -> tuple[int, int]:
    """Where a map of real numbers changes most when row 1, column 5 of the image, in patches of 16 pixels, changes."""
    network = backbones.trainable(replace(spec, outputs=(output,)))
    images = torch.zeros(1, 3, SIDE, SIDE)
    changed = images.clone()
    changed[..., 16:32, 80:96] = 5.0
    with torch.no_grad():
        before, after = (as_map(network(one)[output], (SIDE, SIDE)) for one in (images, changed))
    change = nn.functional.avg_pool2d((after - before).abs().sum(1), 16 // stride)[0]
    row, column = divmod(int(change.argmax()), change.shape[1])
    return row, column


@pytest.mark.parametrize(
    ("name", "output", "stride"),
    [
        ("timm:test_vit@random", "blocks.0.tokens", 16),
        ("timm:test_vit@random@windowed", "blocks.0.tokens", 16),
        ("swinv2_tiny_window8_256@random", "stages.0.features", 4),
        ("dinov2_vit_small@random", "blocks.0.tokens", 16),
    ],
)
def test_a_place_of_the_image_is_the_same_place_of_a_map(name: str, output: str, stride: int) -> None:
    spec = fitted(backbones.resolve(name), SIDE)
    assert changed_place(spec, output, stride) == (1, 5)


def test_the_maps_of_stable_diffusion_are_the_autoencoders_and_the_unets(tmp_path: Path) -> None:
    save_diffusion(tmp_path / "tiny", px=64, vae=(4, 4, 8, 8), unet=(16, 24, 32, 32))
    spec = fitted(backbones.resolve(f"diffusers:{tmp_path}/tiny"), SIDE)
    assert spec.name == f"diffusers:tiny@{SIDE}px"
    levels = levels_of(spec, (4, 8, 16, 32, 64))
    found = [(level.output, level.stride, level.channels) for level in levels]
    assert found == [
        ("vae.1.features", 4, 4),
        ("down.0.features", 8, 16),
        ("down.1.features", 16, 24),
        ("down.2.features", 32, 32),
        ("mid.0.features", 64, 32),
    ]
    network = backbones.trainable(with_levels(spec, levels))
    maps = maps_of(network, levels, torch.zeros(1, 3, SIDE, SIDE))
    assert [tuple(level.shape) for level in maps] == [(1, c, SIDE // s, SIDE // s) for _, s, c in found]


def detector(spec: BackboneSpec, *, blocks: int = 0) -> Detector:
    levels = levels_of(spec, STRIDES)
    shape = Shape(channels=8, width=8, proposals=20, sampled=8)
    model = Detector(backbones.trainable(with_levels(spec, levels)), levels, shape=shape, classes=1, side=SIDE, seed=0)
    model.freeze(blocks)
    return model.train()


def stepped(model: Detector) -> set[str]:
    """The names of all that a step has moved within the backbone."""
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    boxes = torch.tensor([[10.0, 12.0, 60.0, 70.0]])
    truth = Truth([{"boxes": boxes, "labels": torch.tensor([1])}])
    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.autograd.backward(total(model(images, truth)))
    torch.optim.SGD(trained, lr=1.0).step()
    return {name for name, value in model.network.state_dict().items() if not value.equal(before[name])}


def test_relative_positions_of_windows_are_learned_unless_the_backbone_is_frozen() -> None:
    spec = fitted(backbones.resolve("timm:test_vit2@random"), SIDE, windowed=True)
    assert spec.name == f"timm:test_vit2@random@{SIDE}px@windowed"
    positions = {name for name, _ in backbones.trainable(replace(spec, outputs=("pooled",))).named_parameters()}
    positions = {name for name in positions if "rel_pos" in name}
    assert len(positions) == 2 * 8
    assert stepped(detector(spec)) >= positions
    frozen = detector(spec, blocks=-1)
    assert not stepped(frozen)
    assert not any(value.any() for name, value in frozen.network.state_dict().items() if name in positions)


def test_a_backbone_without_plain_blocks_has_no_windows() -> None:
    spec = fitted(backbones.resolve("timm:test_resnet@random"), SIDE, windowed=True)
    with pytest.raises(WeightsError, match=r"within windows must be a plain transformer .* found timm's ResNet;"):
        levels_of(spec, STRIDES)


def tuned(folder: Path) -> BackboneSpec:
    spec = backbones.resolve("timm:test_vit@random:3")
    network = backbones.trainable(replace(spec, outputs=("pooled",)))
    model = nn.ModuleDict({"network": network, "head": nn.Linear(network.dimension, 2)})
    save_tuned(folder / "mine", model.state_dict(), spec, ("cat", "dog"))
    return backbones.resolve(f"tuned:{folder}/mine")


def pruned(folder: Path) -> BackboneSpec:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet")
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            prune.l1_unstructured(part, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    torch.save(model.state_dict(), folder / "pruned.pth")
    return backbones.resolve("timm:test_resnet", checkpoint=folder / "pruned.pth", outputs=["pooled"])


def test_a_tuned_network_gives_the_maps_of_its_own_weights_on_a_canvas(tmp_path: Path) -> None:
    spec = fitted(tuned(tmp_path), SIDE)
    (level,) = levels_of(spec, STRIDES)
    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    base = backbones.trainable(backbones.resolve("timm:test_vit@random:3", outputs=[level.output]))
    with torch.no_grad():
        # Made for images of any size, it resamples its position embeddings itself.
        (found,), expected = maps_of(backbones.trainable(with_levels(spec, [level])), [level], images), base(images)
    torch.testing.assert_close(found, as_map(expected[level.output], (SIDE, SIDE)))


def test_pruned_and_tuned_backbones_are_detected_on_as_any_other(tmp_path: Path) -> None:
    tuned(tmp_path), pruned(tmp_path)
    scenes(tmp_path / "toy", "train", 3, 0)
    scenes(tmp_path / "toy", "test", 2, 1)
    options = {"px": 64, "channels": 8, "width": 8, "epochs": 1, "batch_size": 2, "proposals": 20, "sampled": 8}
    config = {
        "store": str(tmp_path / "store"),
        "backbones": [
            {"name": "timm:test_resnet", "checkpoint": str(tmp_path / "pruned.pth")},
            f"tuned:{tmp_path}/mine",
        ],
        "datasets": [{"name": f"coco:{tmp_path}/toy/objects_*.json", "splits": ["train", "test"]}],
        "extraction": {"precision": "float32", "dtype": "float32", "device": "cpu"},
        "detect": [
            {"of": "toy", "options": options},
            {"of": "toy", "backbones": ["tuned:mine"], "options": {**options, "windowed": True}},
        ],
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    run = featurebank_("detect", tmp_path / "run.yaml", "--json")
    assert run.code == 0, run.err
    assert [len(answer["rows"]) > 0 for answer in run.json["answers"]] == [True] * 3
    maps = {path.name for path in (tmp_path / "store" / "tuned" / "maps").glob("*/*/*windowed*")}
    assert maps == {"tuned:mine@64px@windowed", "tuned:mine@64px@windowed@flip"}


def test_a_pruned_backbone_is_as_sparse_on_its_canvas(tmp_path: Path) -> None:
    network = detector(fitted(pruned(tmp_path), SIDE), blocks=-1).network
    assert network.sparsity() > 0.35  # of all weights, those of the classifier among them
    assert not stepped(detector(fitted(pruned(tmp_path), SIDE), blocks=-1))


def test_mirrored_is_the_other_way_round_of_what_it_is() -> None:
    spec = fitted(backbones.resolve("mobilenetv2@random@96px"), SIDE)
    assert spec.name == f"mobilenetv2@random@{SIDE}px"
    once = mirrored(spec)
    assert (once.name, once.preprocessing.flip) == (f"mobilenetv2@random@{SIDE}px@flip", True)
    assert mirrored(once) == spec


def test_maps_of_other_strides_are_brought_to_a_power_of_two() -> None:
    ramp = torch.linspace(0.5, 17.5, 18).expand(1, 1, 18, 18) * 14  # the middle of each patch of 14 pixels of 252
    found = as_map(ramp, (256, 256))
    assert found.shape == (1, 1, 16, 16)
    middle = (torch.arange(16) + 0.5) * 16 * 252 / 256
    torch.testing.assert_close(found[0, 0, 3, 1:-1], middle[1:-1], atol=1.0, rtol=0)
