"""What went wrong in other studies without anybody noticing, and cannot go wrong here: one test each.

The traps are those of Battle of the Backbones' published code (its retrieval, probing and detection scripts).
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from PIL import Image
from torch import nn
from zoo_networks import put_in_torchs_cache

from featurebank.extract.backbones import build, checkpoint_source, hub_cache, outline, resolve, torch_hub, zoo
from featurebank.extract.backbones.architectures import architecture
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.transform import Transform

ZOO = zoo.entries()
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    return tmp_path


def moco_checkpoint(home: Path, heads: int) -> nn.Module:
    torch.manual_seed(0)
    model = architecture(f"vit_small_patch16_224(num_heads={heads}, num_classes=0)").eval()
    state = {f"module.base_encoder.{key}": value for key, value in model.state_dict().items()}
    put_in_torchs_cache(home, ZOO["mocov3_vit_small"].checkpoint, {"state_dict": state})
    return model


def test_moco_v3_small_has_twelve_heads_where_six_load_without_a_word(no_network: Path) -> None:
    twelve = moco_checkpoint(no_network, 12)
    spec = resolve("mocov3_vit_small")
    images = torch.randn(1, 3, 224, 224)
    network: Any = build(spec)
    with torch.no_grad():
        torch.testing.assert_close(network(images)["pooled"], twelve(images))
    six = dataclasses.replace(spec, architecture="vit_small_patch16_224(num_heads=6, num_classes=0)")
    with pytest.raises(WeightsError, match="heads: expected '12', found '6'"):
        build(six)


def test_vicreg_features_are_not_a_random_layer_of_a_thousand_classes(no_network: Path) -> None:
    model = torchvision.models.resnet50()
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    put_in_torchs_cache(no_network, ZOO["vicreg_resnet50"].checkpoint, state)
    images = torch.randn(1, 3, 224, 224)
    networks: list[Any] = [build(resolve("vicreg_resnet50")) for _ in range(2)]
    with torch.no_grad():
        first, second = (network(images)["pooled"] for network in networks)
    assert first.shape == (1, 2048)
    assert torch.equal(first, second), "nothing in it is drawn"
    assert {name.removeprefix("backbone.") for name, _ in networks[0].named_parameters()} <= set(state)


def test_vicregs_own_padding_is_the_usual_one() -> None:
    torch.manual_seed(0)
    usual, theirs = (nn.Conv2d(3, 4, 7, stride=2, padding=padding, bias=False) for padding in (3, 2))
    theirs.load_state_dict(usual.state_dict())
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(theirs(nn.ConstantPad2d(1, 0.0)(images)), usual(images))


@pytest.mark.parametrize(("name", "dimension"), [("midas_swinv2_tiny_256", 768), ("midas_swinv2_base_384", 1024)])
def test_midas_gives_features_not_a_thousand_logits(name: str, dimension: int) -> None:
    network: Any = outline(resolve(f"{name}@random"))
    assert network.dimension == dimension
    assert network.spec.outputs == ("pooled",)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["clip_resnet50", "clip_resnet101", "clip_resnet50x64", "clip_vit_base_laion2b", "openclip_vit_base"], OPENAI),
        (["clip_vit_large_laion2b"], HALF),
        ([name for name in ZOO if "augreg" in name], HALF),
        (["stable_diffusion_v1_4", "midas_swinv2_tiny_256", "midas_swinv2_base_384", "siglip2_vit_base"], HALF),
        (["deit_small", "dino_vit_base", "mocov3_vit_small", "mae_vit_base", "vicreg_resnet50"], IMAGENET),
    ],
)  # fmt: skip
def test_each_network_gets_the_normalisation_of_its_weights(names: list[str], expected: tuple[Any, Any]) -> None:
    for name in names:
        record = resolve(f"{name}@random").preprocessing
        assert (record.mean, record.std) == expected, name


@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith(("swinv2", "midas"))])
def test_swin_networks_get_the_only_size_they_take(name: str) -> None:
    size = int(found[0]) if (found := re.findall(r"(?:_|to)(\d{3})\b", ZOO[name].architecture.replace(".", " "))) else 0
    record = ZOO[name].preprocessing
    assert record.height == (size or 256)
    image = Image.fromarray(np.zeros((300, 500, 3), np.uint8))
    assert Transform(record)(image).shape == (record.height, record.height, 3)


def test_one_row_is_one_checkpoint_in_every_task() -> None:
    pairs = [
        ("resnet50", "resnet50_tv"),
        ("resnet50", "resnet50_tv2"),
        ("vit_small_augreg_in1k", "deit_small"),
        ("convnext_base_in22k", "convnext_base_in22ft1k"),
        ("deit_base", "deit_base_384"),
        ("stable_diffusion_v1_4", "stable_diffusion_v1_4_224"),
    ]
    for one, other in pairs:
        first, second = (resolve(f"{name}@random") for name in (one, other))
        assert dataclasses.replace(first, name="") != dataclasses.replace(second, name=""), (one, other)


def test_convnext_of_imagenet_21k_is_not_the_one_tuned_on_1k() -> None:
    networks: list[Any] = [
        outline(resolve(f"{name}@random")) for name in ("convnext_base_in22k", "convnext_base_in22ft1k")
    ]
    assert [len(network.head().bias) for network in networks] == [21841, 1000]


def test_sscds_large_disc_model_is_no_resnet50() -> None:
    entry = zoo.find("sscd-resnet50_disc")
    assert entry is not None
    assert (entry.architecture, entry.dimension) == ("sscd_resnext101_32x4d(dimension=1024)", 1024)


def test_pooling_is_one_thing_per_row_whoever_asks() -> None:
    network: Any = build(resolve("timm:vit_tiny_patch16_224@random", outputs=["pooled", "cls", "patch_mean"]))
    with torch.no_grad():
        found = network(torch.randn(1, 3, 224, 224))
    assert torch.equal(found["pooled"], found["cls"])
    assert not torch.allclose(found["pooled"], found["patch_mean"])
    assert {ZOO[name].pooling for name in ("mae_vit_base", "mae_vit_large", "mae_vit_huge")} == {
        "class token after norm"
    }


def test_batch_norms_stay_as_they_were_trained() -> None:
    network: Any = build(resolve("resnet18@random"))
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(2):
        network(torch.randn(4, 3, 224, 224) * 5 + 3)
    assert not any(part.training for part in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_features_do_not_depend_on_the_other_images_of_a_batch() -> None:
    network: Any = build(resolve("resnet18@random", outputs=["pooled"]))
    images = torch.randn(4, 3, 224, 224)
    torch.testing.assert_close(network(images)["pooled"][:1], network(images[:1])["pooled"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_random_weights_are_asked_for_by_name_and_fetch_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    for module in (torch_hub, checkpoint_source):
        monkeypatch.setattr(module, "fetch_url", refuse)
    monkeypatch.setattr(hub_cache, "from_hub", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    assert resolve(f"{name}@random:5").weights.sha256 == "random:5"


@pytest.mark.parametrize(
    "name", ["resnet50", "resnet50_tv", "dino_resnet50", "openclip_vit_base", "stable_diffusion_v1_4", "wavemix"]
)
def test_weights_that_cannot_be_had_are_never_replaced_by_random_ones(
    name: str, no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(no_network / "hf"))
    with pytest.raises(AssetError):
        resolve(name)


@pytest.mark.parametrize("change", ["too many", "too few", "other shape"])
def test_no_key_is_skipped(change: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = architecture("resnet18").state_dict()
    if change == "too many":
        state["extra.weight"] = torch.zeros(1)
    elif change == "too few":
        del state["layer4.1.bn2.weight"]
    else:
        state["fc.weight"] = torch.zeros(10, 512)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="1 of its tensors differ"):
        build(resolve("resnet18", checkpoint=tmp_path / "w.pth"))


def test_a_feature_dimension_is_compared_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = dataclasses.replace(ZOO["resnet18"], dimension=1000)
    monkeypatch.setattr(zoo, "_index", lambda: {"resnet18": entry})
    with pytest.raises(WeightsError, match="dimension: expected 1000, found 512"):
        build(resolve("resnet18@random"))


def test_openai_weights_keep_their_quick_activation() -> None:
    for name in ("clip_vit_base_32_openai", "clip_vit_base_openai", "clip_vit_large_openai"):
        assert "quickgelu" in ZOO[name].architecture
    network: Any = outline(resolve("clip_vit_base_32_openai@random"))
    assert {type(block.mlp.act).__name__ for block in network.backbone.blocks} == {"QuickGELU"}


def test_stable_diffusion_gets_pixels_from_minus_one_to_one() -> None:
    record = ZOO["stable_diffusion_v1_4"].preprocessing
    image = Image.fromarray(np.array([[[0] * 3, [255] * 3]], np.uint8)).resize((600, 600), Image.Resampling.NEAREST)
    pixels = Transform(record)(image) / 255
    scaled = (pixels - np.array(record.mean)) / np.array(record.std)
    assert (scaled.min(), scaled.max()) == (-1.0, 1.0)
