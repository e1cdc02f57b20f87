"""What fine-tuning has made, as a backbone: its file, where it is looked for, and files that nobody should trust."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from featurebank.extract.backbones import build, describe, diffusers_source, names, resolve, trainable
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.network import probe
from featurebank.extract.backbones.tuned_source import WEIGHTS, check_base, read_tuned, save_tuned
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.key import backbone_key
from featurebank.extract.preprocessing import Decode
from featurebank.store import FeatureStore
from featurebank.store.errors import UnknownNameError

NAMES = ("cat", "dog", "großer Hund")


def tune(spec: BackboneSpec) -> nn.ModuleDict:
    """A network as it comes out of training, every parameter and every statistic moved."""
    network = trainable(replace(spec, outputs=("pooled",)))
    model = nn.ModuleDict({"network": network, "head": nn.Linear(network.dimension, len(NAMES))})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.1 * torch.rand(value.shape, generator=generator))
    return model


def saved(folder: Path, name: str = "timm:test_resnet@random:5") -> tuple[BackboneSpec, nn.ModuleDict]:
    spec = resolve(name)
    spec = replace(spec, preprocessing=replace(spec.preprocessing, decode=Decode(exif=False, background=None)))
    model = tune(spec)
    save_tuned(folder, model.state_dict(), spec, NAMES)
    return spec, model


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """The file with other metadata or tensors, whole as a file."""
    data, tensors = path.read_bytes(), load_file(path)
    about = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["featurebank"])
    change(about, tensors)
    save_file(tensors, path, {"featurebank": json.dumps(about)})


@pytest.mark.parametrize("name", ["timm:test_resnet@random:5", "efficientnet_lite0@random:5", "squeezenet1_1@random:5"])
def test_a_tuned_network_gives_what_it_gave_when_it_was_saved(tmp_path: Path, name: str) -> None:
    base, model = saved(tmp_path / "pets", name)
    spec = resolve(f"tuned:{tmp_path / 'pets'}")
    assert (spec.name, spec.source, spec.outputs) == ("tuned:pets", "tuned", ("pooled", "logits"))
    assert spec.preprocessing == base.preprocessing
    assert len(spec.weights.sha256) == 64
    assert str(tmp_path) not in json.dumps(backbone_key(spec))
    network: Any = build(spec)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules()) or "lite" not in name
    assert not any(part.training for part in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = probe(base, model)
    with torch.no_grad():
        pooled = model["network"](images)["pooled"]
        logits, found = model["head"](pooled), network(images)
    torch.testing.assert_close(found["pooled"], pooled, rtol=1e-4, atol=1e-4 * float(pooled.abs().max()))
    torch.testing.assert_close(found["logits"], logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))
    head = network.head()
    torch.testing.assert_close(found["pooled"] @ head.weight.T + head.bias, found["logits"])
    about = read_tuned(tmp_path / "pets" / WEIGHTS)
    assert (about.base, about.base_weights, about.class_names) == (name, "random:5", NAMES)


def test_outputs_are_the_bases_and_the_tuned_logits(tmp_path: Path) -> None:
    saved(tmp_path / "pets", "timm:test_vit@random")
    name = f"tuned:{tmp_path / 'pets'}"
    network = build(resolve(name, outputs=["blocks.1.cls", "logits"]))
    found = network(torch.zeros(2, 3, 160, 160))
    assert {key: tuple(value.shape) for key, value in found.items()} == {"blocks.1.cls": (2, 64), "logits": (2, 3)}
    assert list(build(resolve(name, outputs=["cls"]))(torch.zeros(1, 3, 160, 160))) == ["cls"]
    with pytest.raises(UnknownNameError, match="unknown output 'features'"):
        build(resolve(name, outputs=["features"]))


def test_views_of_what_was_tuned_and_what_was_tuned_in_a_view(tmp_path: Path) -> None:
    _, vit = saved(tmp_path / "vit", "timm:vit_tiny_patch16_224@random@96px")
    name = f"tuned:{tmp_path / 'vit'}"
    spec = resolve(f"{name}@flip")
    assert (spec.name, spec.preprocessing.height, spec.preprocessing.flip) == ("tuned:vit@flip", 96, True)
    assert build(spec)(torch.zeros(1, 3, 96, 96))["logits"].shape == (1, 3)
    smaller: Any = build(resolve(f"{name}@64px"))
    resampled = resample_abs_pos_embed(vit.state_dict()["network.backbone.pos_embed"], [4, 4])
    torch.testing.assert_close(smaller.state_dict()["backbone.backbone.pos_embed"], resampled)
    assert smaller(torch.zeros(1, 3, 64, 64))["logits"].shape == (1, 3)


def test_what_was_tuned_is_tuned_further_and_keeps_its_base(tmp_path: Path) -> None:
    _, model = saved(tmp_path / "first", "efficientnet_lite0@random:5")
    spec = resolve(f"tuned:{tmp_path / 'first'}")
    network = trainable(spec)
    wanted, found = model["network"].state_dict(), network.state_dict()
    assert all(found[name].equal(value) for name, value in wanted.items())
    assert any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    save_tuned(tmp_path / "second", tune(spec).state_dict(), spec, NAMES)
    about = read_tuned(tmp_path / "second" / WEIGHTS)
    assert (about.base, about.base_weights) == ("efficientnet_lite0@random:5", spec.weights.sha256)
    build(resolve(f"tuned:{tmp_path / 'second'}"))


def test_the_prompt_of_a_diffusion_network_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = {
        "sample_size": 16, "block_out_channels": [16, 32], "layers_per_block": 1, "cross_attention_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "attention_head_dim": 4, "norm_num_groups": 8,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }  # fmt: skip
    vae = {
        "block_out_channels": [8, 16], "down_block_types": ["DownEncoderBlock2D"] * 2, "norm_num_groups": 4,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }  # fmt: skip
    monkeypatch.setattr(diffusers_source, "_configs", lambda: {"tiny/model": {"unet": unet, "vae": vae}})
    base, model = saved(tmp_path / "pets", "diffusers:tiny/model?px=32@random:5")
    images = probe(base, model)
    with torch.no_grad():
        found = build(resolve(f"tuned:{tmp_path / 'pets'}"))(images)["pooled"]
        torch.testing.assert_close(found, model["network"](images)["pooled"])


def test_a_plain_name_is_looked_for_in_the_store_which_takes_no_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATUREBANK_STORE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "tuned" / "pets")
    assert resolve("tuned:pets").weights == resolve("tuned:tuned/pets").weights
    assert resolve("tuned:pets") == resolve("tuned:./tuned/pets")
    assert "tuned:pets" in names()
    assert describe("tuned:pets") == {"base": "timm:test_resnet@random:5", "base weights": "random:5", "classes": 3}
    with pytest.raises(UnknownNameError, match=r"unknown backbone 'tuned:pet'.*tuned:pets"):
        resolve("tuned:pet")
    with pytest.raises(AssetError, match=r"nowhere must hold weights\.safetensors; found none"):
        resolve("tuned:./nowhere")
    with pytest.raises(WeightsError, match="must have its weights"):
        resolve("tuned:pets@random")
    assert FeatureStore(tmp_path).ls() == []
    assert FeatureStore(tmp_path).gc(hours=0) == []
    monkeypatch.delenv("FEATUREBANK_STORE")
    (tmp_path / "features").mkdir()
    (tmp_path / "tuned").rename(tmp_path / "features" / "tuned")
    assert resolve("tuned:pets").source == "tuned"


def test_another_file_may_take_the_weights_place(tmp_path: Path) -> None:
    saved(tmp_path / "pets")
    other = tmp_path / "middle.safetensors"
    other.write_bytes((tmp_path / "pets" / WEIGHTS).read_bytes())
    rewritten(other, lambda _, tensors: tensors["head.bias"].fill_(7))
    network = build(resolve(f"tuned:{tmp_path / 'pets'}", checkpoint=other))
    head = network.head()
    assert head is not None
    assert head.bias.tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    "base",
    ["python:FILE:network", "hf:FILE", "onnx:FILE", "tuned:FILE", "mine", "diffusers:FILE", "timm:hf-hub:a/b",
     "timm:local-dir:FILE", "open_clip:local-dir:FILE/x", "url:nonsense=https://example.org/a.pth", "timm:resnet18@@",
     "", "evil:x", "efficientnet_lite0@evil"],
)  # fmt: skip
def test_a_file_chooses_no_code_and_no_other_file(tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    code = tmp_path / "evil.py"
    code.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    saved(tmp_path / "pets")
    rewritten(tmp_path / "pets" / WEIGHTS, lambda about, _: about.update(base=base.replace("FILE", str(code))))
    with pytest.raises(WeightsError, match=r"base.* must be built from its name"):
        build(resolve(f"tuned:{tmp_path / 'pets'}"))
    assert not (tmp_path / "ran").exists()


def test_what_can_be_rebuilt_is_known_before_training() -> None:
    for name in (
        "mobilenetv2",
        "dino_vit_base@random",
        "timm:resnet18",
        "open_clip:ViT-B-16/openai",
        "url:a=https://b",
    ):
        check_base(name)
    with pytest.raises(WeightsError, match="would run code or read another file"):
        check_base("hf:folder")


def preprocessing(**changes: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], object]:
    return lambda about, _: about["preprocessing"].update(changes)


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], object]] = {
    "format version 2": lambda about, _: about.update(version=2),
    "names that are no text": lambda about, _: about.update(class_names=[1, 2, 3]),
    "no 'class_names'": lambda about, _: about.pop("class_names"),
    "preprocessing of 'none'": lambda about, _: about.update(preprocessing="none"),
    "height of '224'": preprocessing(height="224"),
    "images of": preprocessing(height=10**9, width=10**9),
    "with 'more'": preprocessing(more=1),
    "mean of": preprocessing(mean=[1.0]),
    "interpolation of": preprocessing(interpolation="evil"),
    "decode of": preprocessing(decode=[]),
    "library of": preprocessing(decode={"library": "evil"}),
    "expected nothing": lambda _, tensors: tensors.update(more=torch.zeros(1)),
    "found nothing": lambda _, tensors: tensors.pop("network.backbone.conv1.0.weight"),
    "head.weight must be": lambda _, tensors: tensors.pop("head.weight"),
    "classes by features": lambda about, _: about["class_names"].extend(["x"] * 1000),
    "must be finite": lambda _, tensors: tensors["head.weight"].fill_(torch.nan),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_a_file_of_something_else_is_one_clear_error(tmp_path: Path, reason: str) -> None:
    saved(tmp_path / "pets")
    rewritten(tmp_path / "pets" / WEIGHTS, CHANGES[reason])
    with pytest.raises(WeightsError, match=reason):
        build(resolve(f"tuned:{tmp_path / 'pets'}"))


def test_damaged_bytes_are_one_clear_error(tmp_path: Path) -> None:
    saved(tmp_path / "pets")
    path = tmp_path / "pets" / WEIGHTS
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    deep = b"[" * 100_000
    hostile = [whole[:cut] for cut in (0, 7, 8, 100, length)] + [
        (1 << 62).to_bytes(8, "little") + whole[8:],
        len(deep).to_bytes(8, "little") + deep,
        b"\x80\x02c",
    ]
    for data in hostile:
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="must be a tuned network's file"):
            read_tuned(path)
    for at in range(8, 8 + 400):  # a letter of a name may be another and nobody can tell but the digest
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with contextlib.suppress(WeightsError):
            read_tuned(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(WeightsError, match="expected a checkpoint of tensors only"):
        build(resolve(f"tuned:{tmp_path / 'pets'}"))
    spec = resolve(f"tuned:{tmp_path / 'pets'}")
    path.write_bytes(whole)
    with pytest.raises(AssetError, match="has changed"):
        build(spec)


def test_as_many_names_as_logits_are_saved(tmp_path: Path) -> None:
    spec = resolve("timm:test_resnet@random")
    with pytest.raises(ValueError, match="one for each of 3 logits; found 2"):
        save_tuned(tmp_path / "pets", tune(spec).state_dict(), spec, NAMES[:2])
    assert not (tmp_path / "pets").exists()
