"""Checkpoints by address: each layout that the zoo's table maps, written as its authors' code writes it."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn
from zoo_networks import put_in_torchs_cache

from featurebank.extract.backbones import build, describe, resolve, zoo
from featurebank.extract.backbones.architectures import architecture, parse_call
from featurebank.extract.backbones.keys import conversion_of, select
from featurebank.extract.backbones.wavemix import WaveMix, haar
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.store.errors import UnknownNameError

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    return tmp_path


def reference(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with batch norms that are not at their start."""
    torch.manual_seed(0)
    model = make().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.9, 1.1)  # type: ignore[union-attr]
    return model


def noise(name: str) -> torch.Tensor:
    side = zoo.entries()[name].preprocessing.height
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def without_fc(model: nn.Module) -> Tensors:
    return {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}


def resnet_features(model: Any, x: torch.Tensor) -> torch.Tensor:
    model.fc = nn.Identity()
    return model(x)  # type: ignore[no-any-return]


def published(home: Path, name: str, content: object) -> Any:
    """Builds the backbone from a checkpoint that lies where its address would be downloaded to."""
    put_in_torchs_cache(home, zoo.entries()[name].checkpoint, content)
    return build(resolve(name))


@pytest.mark.parametrize("name", ["dino_resnet50", "vicreg_resnet50"])
def test_plain_resnets_without_a_classifier(name: str, torch_home: Path) -> None:
    model = reference(torchvision.models.resnet50)
    network = published(torch_home, name, without_fc(model))
    with torch.no_grad():
        torch.testing.assert_close(network(noise(name))["pooled"], resnet_features(model, noise(name)))


def moco(model: nn.Module, head: str) -> dict[str, object]:
    """As MoCo v3's training script saves: both encoders under data parallelism, with their projectors."""
    state: Tensors = {}
    for encoder in ("base_encoder", "momentum_encoder"):
        scale = 1 if encoder == "base_encoder" else 0
        state |= {f"module.{encoder}.{key}": value * scale for key, value in model.state_dict().items()}
        state |= {f"module.{encoder}.{head}.0.weight": torch.ones(3, 3)}
    state["module.predictor.0.weight"] = torch.ones(3, 3)
    return {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def test_moco_v3_resnet(torch_home: Path) -> None:
    model = reference(lambda: timm.create_model("resnet50", num_classes=0))
    network = published(torch_home, "mocov3_resnet50", moco(model, "fc"))
    with torch.no_grad():
        torch.testing.assert_close(network(noise("resnet50"))["pooled"], model(noise("resnet50")))


def test_moco_v3_vit(torch_home: Path) -> None:
    model = reference(lambda: timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=12))
    network = published(torch_home, "mocov3_vit_small", moco(model, "head"))
    with torch.no_grad():
        torch.testing.assert_close(network(noise("resnet50"))["pooled"], model(noise("resnet50")))


def test_sscd_in_torchvisions_layout(torch_home: Path) -> None:
    model: Any = reference(lambda: torchvision.models.resnet50(num_classes=512))
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    network = published(torch_home, "sscd_disc_mixup", state)
    maps: list[torch.Tensor] = []
    model.layer4.register_forward_hook(lambda _, __, output: maps.append(output))
    with torch.no_grad():
        model(noise("sscd_disc_mixup"))
        gem = maps[0].clamp(min=1e-6).pow(3).flatten(2).mean(2).pow(1 / 3)
        expected = nn.functional.normalize(gem @ model.fc.weight.T + model.fc.bias)
        found = network(noise("sscd_disc_mixup"))["pooled"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(1))


def as_classy_vision(state: Tensors) -> Tensors:
    """torchvision's ResNeXt under the names of Classy Vision's."""
    parts = {"conv1": "convolutional_block.0", "bn1": "convolutional_block.1", "conv2": "convolutional_block.3"}
    parts |= {"bn2": "convolutional_block.4", "conv3": "convolutional_block.6", "bn3": "bn"}
    renamed = {}
    for key, value in state.items():
        new = re.sub(r"^conv1\.", "initial_block._module.0.", key)
        new = re.sub(r"^bn1\.", "initial_block._module.1.", new)
        if found := re.fullmatch(r"layer(\d)\.(\d+)\.(\w+)\.(.+)", key):
            part = parts.get(found[3], found[3])
            new = f"blocks.{int(found[1]) - 1}.{found[2]}.{part}.{found[4]}"
        renamed[f"embeddings.1.{key[3:]}" if key.startswith("fc.") else f"backbone.{new}"] = value
    return renamed


def test_sscd_in_classy_visions_layout(torch_home: Path) -> None:
    model: Any = reference(lambda: architecture("sscd_resnext101_32x4d(dimension=1024)"))
    network = published(torch_home, "sscd_disc_large", as_classy_vision(model.state_dict()))
    x = noise("sscd_disc_large")
    with torch.no_grad():
        torch.testing.assert_close(network(x)["pooled"], nn.functional.normalize(model(x)))
    torch.save(model.state_dict(), torch_home / "w.pt")
    with pytest.raises(WeightsError, match=r"ResNet of Classy Vision, found the tensor 'conv1\.weight'"):
        build(resolve("sscd_disc_large", checkpoint=torch_home / "w.pt"))


def test_vicregl_takes_the_norm_before_the_mean(torch_home: Path) -> None:
    small = "convnext_tiny(num_classes=0, ls_init_value=None, head_norm_first=True)"
    model: Any = reference(lambda: architecture(small))
    names = [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc", ".pwconv"),
        (r"^norm_pre\.", "norm."),
    ]
    state = {}
    for key, value in model.state_dict().items():
        new = key
        for pattern, replacement in names:
            new = re.sub(pattern, replacement, new)
        state[new] = value
    torch.save(state, torch_home / "w.pth")
    spec = resolve("vicregl_convnext_xlarge", checkpoint=torch_home / "w.pth")
    network: Any = build(replace(spec, name="hub:small", architecture=small))
    with torch.no_grad():
        features = model.stages(model.stem(noise("resnet50"))).flatten(2).transpose(1, 2)
        norm = model.norm_pre
        tokens = nn.functional.layer_norm(features, features.shape[-1:], norm.weight, norm.bias, 1e-6)
        found = network(noise("resnet50"))["pooled"]
    torch.testing.assert_close(found, tokens.mean(1), rtol=1e-4, atol=1e-5)


def test_midas_is_the_encoder_of_its_depth_network(torch_home: Path) -> None:
    model: Any = reference(lambda: timm.create_model("swinv2_tiny_window16_256"))
    state = {}
    for key, value in model.state_dict().items():  # as timm 0.6 named them, when MiDaS was trained
        new = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
        state[f"pretrained.model.{new.replace('head.fc.', 'head.')}"] = value
    state["pretrained.model.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(256, 256, dtype=torch.long)
    state["scratch.layer1_rn.weight"] = torch.ones(3)
    network = published(torch_home, "midas_swinv2_tiny_256", state)
    x = noise("midas_swinv2_tiny_256")
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(network(x)["pooled"], expected)


def test_wavemix_is_that_of_its_package(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = types.ModuleType("numpy.lib.function_base")  # from NumPy 2; the package imports a name from it, unused
    gone.hamming = np.hamming  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, gone.__name__, gone)
    from wavemix import classification  # type: ignore[import-untyped]

    settings = {"ff_channel": 192, "final_dim": 192, "level": 3, "initial_conv": "pachify", "patch_size": 4}
    model = reference(lambda: classification.WaveMix(num_classes=1000, depth=16, mult=2, dropout=0.5, **settings))
    network = published(torch_home, "wavemix", model.state_dict())
    x = noise("wavemix")
    with torch.no_grad():
        expected = model(x)
        found = network(x)["pooled"]
        head = network.head()
        torch.testing.assert_close(found @ head.weight.T + head.bias, expected, rtol=1e-4, atol=1e-4)
    assert isinstance(WaveMix(depth=1), nn.Module)


def test_haar_keeps_the_energy() -> None:
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    coarse, details = haar(x)
    assert (coarse.shape, details.shape) == ((2, 3, 4, 3), (2, 9, 4, 3))
    torch.testing.assert_close(coarse.square().sum() + details.square().sum(), x.square().sum())


@pytest.mark.parametrize("name", [name for name, entry in zoo.entries().items() if entry.source == "hub"])
def test_a_tensor_too_many_or_too_few_is_an_error(name: str, torch_home: Path) -> None:
    with pytest.raises(WeightsError):
        published(torch_home, name, {"something.else": torch.zeros(1)})


def test_the_first_digest_is_kept_where_none_is_published(torch_home: Path) -> None:
    model = reference(torchvision.models.resnet50)
    path = put_in_torchs_cache(torch_home, zoo.entries()["vicreg_resnet50"].checkpoint, without_fc(model))
    first = resolve("vicreg_resnet50")
    assert resolve("vicreg_resnet50") == first
    path.write_bytes(b"something else")
    with pytest.raises(AssetError, match=rf"expected SHA-256 {first.weights.sha256}, found"):
        resolve("vicreg_resnet50")


def test_the_published_digest_is_required(torch_home: Path) -> None:
    model: Any = timm.create_model("test_vit")
    url = "https://example.org/w.pth"
    path = put_in_torchs_cache(torch_home, url, {"model": model.state_dict()})
    digest = resolve(f"url:test_vit={url}").weights.sha256
    spec = resolve(f"url:test_vit={url}#{digest}")
    assert spec.preprocessing.height == 160
    network: Any = build(spec)
    x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        expected = model.eval().forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(network(x)["pooled"], expected)
    with pytest.raises(AssetError, match="expected SHA-256 0000"):
        resolve(f"url:test_vit={url}#{'0' * 64}")
    assert spec.weights.path == path
    assert describe(f"url:test_vit={url}") == {"origin": url}


def test_files_of_one_name_at_two_addresses_are_two_files(torch_home: Path) -> None:
    one, two = (f"https://example.org/{place}/w.pth" for place in ("one", "two"))
    put_in_torchs_cache(torch_home, one, timm.create_model("test_vit").state_dict())
    assert resolve(f"url:test_vit={one}").weights.path
    with pytest.raises(AssetError, match="FEATUREBANK_OFFLINE forbids downloads"):
        resolve(f"url:test_vit={two}")


def test_names() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'hub:facebookresearch/dino/dino_resnet50'"):
        resolve("hub:facebookresearch/dino/dino_resnet5")
    with pytest.raises(UnknownNameError, match="expected url:ARCHITECTURE=https://"):
        resolve("url:resnet50")
    with pytest.raises(UnknownNameError, match="expected an architecture of timm before '=', found 'resnet51'"):
        resolve("url:resnet51=https://example.org/w.pth")
    with pytest.raises(AssetError, match="FEATUREBANK_OFFLINE forbids downloads"):
        resolve("vicreg_resnet50")


@pytest.mark.parametrize("line", ["resnet50(3)", "resnet50(a=b)", "resnet50(", "resnet50(__import__('os'))"])
def test_architectures_hold_literals_only(line: str) -> None:
    with pytest.raises(WeightsError, match="expected an architecture such as"):
        parse_call(line)
    with pytest.raises(WeightsError, match="expected an architecture of timm or one of"):
        architecture("no_such_network")


def test_keys_leave_out_only_what_is_listed() -> None:
    x = torch.zeros(1)
    tensors = {"net.a": x, "net.b": x, "head.a": x}
    assert list(select(tensors, "net.* without head.*")) == ["a", "b"]
    assert list(select(tensors, "net.* without head.* net.b")) == ["a"]
    assert conversion_of("net.* without head.* tail.* via classy") == "classy"
    with pytest.raises(WeightsError, match=r"found head\.a: another checkpoint"):
        select(tensors, "net.*")
    with pytest.raises(WeightsError, match="found none"):
        select(tensors, "* without *")
    with pytest.raises(WeightsError, match="<prefix>"):
        select(tensors, "net")
