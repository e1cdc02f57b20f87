"""Folders of transformers: features and preprocessing equal to its own, and nothing loaded loosely."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]

from featurebank.extract.backbones import build, describe, resolve
from featurebank.extract.backbones.hf_source import preprocessing_of
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.transform import Transform
from featurebank.store.errors import UnknownNameError

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
PROCESSOR = {
    "do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def vit_for_classes() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**{**SMALL, "num_labels": 7}))


def dinov2() -> Any:
    return transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))


def resnet() -> Any:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return transformers.ResNetModel(config)


def clip() -> Any:
    text = {**SMALL, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config=SMALL, projection_dim=16)
    return transformers.CLIPModel(config)


MODELS = {"vit": vit_for_classes, "dinov2": dinov2, "resnet": resnet, "clip": clip}


def save(folder: Path, kind: str, **processor: Any) -> Any:
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **processor}))
    return model


def by_transformers(kind: str, model: Any, images: torch.Tensor) -> torch.Tensor:
    if kind == "vit":
        return model.vit(images).last_hidden_state[:, 0]  # type: ignore[no-any-return]
    if kind == "clip":
        return model.vision_model(images).pooler_output  # type: ignore[no-any-return]
    return model(images).pooler_output.flatten(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", MODELS)
def test_pooled_is_what_the_models_head_would_get(kind: str, tmp_path: Path) -> None:
    model = save(tmp_path / kind, kind)
    spec = resolve(f"hf:{tmp_path / kind}")
    assert spec.name == f"hf:{kind}"
    network: Any = build(spec)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images)["pooled"], by_transformers(kind, model, images))
    assert network.dimension == network(images)["pooled"].shape[1]


def test_levels(tmp_path: Path) -> None:
    model = save(tmp_path / "vit", "vit")
    outputs = ["last_hidden_state", "blocks.0.cls", "blocks.1.tokens"]
    network: Any = build(resolve(f"hf:{tmp_path / 'vit'}", outputs=outputs))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, states = network(images), model.vit(images, output_hidden_states=True)
    torch.testing.assert_close(found["last_hidden_state"], states.last_hidden_state)
    torch.testing.assert_close(found["blocks.0.cls"], states.hidden_states[1][:, 0])
    torch.testing.assert_close(found["blocks.1.tokens"], states.hidden_states[2])
    with pytest.raises(UnknownNameError, match=r"unknown output 'blocks\.2\.cls'"):
        build(resolve(f"hf:{tmp_path / 'vit'}", outputs=["blocks.2.cls"]))


def test_random_weights_of_a_configuration(tmp_path: Path) -> None:
    save(tmp_path / "vit", "vit")
    one, two = (build(resolve(f"hf:{tmp_path / 'vit'}@random:{seed}")) for seed in (1, 2))
    images = torch.randn(1, 3, 32, 32)
    assert not torch.equal(one(images)["pooled"], two(images)["pooled"])
    assert describe(f"hf:{tmp_path / 'vit'}")["model_type"] == "vit"


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_a_key_too_few_or_too_many_is_an_error(change: str, tmp_path: Path) -> None:
    save(tmp_path / "vit", "vit")
    file = tmp_path / "vit" / "model.safetensors"
    state = load_file(file)
    if change == "missing":
        del state["vit.layernorm.weight"]
    else:
        state["vit.extra"] = torch.zeros(1)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"{change}: vit\.(layernorm\.weight|extra)"):
        build(resolve(f"hf:{tmp_path / 'vit'}"))


def test_changed_files_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "vit", "vit")
    spec = resolve(f"hf:{tmp_path / 'vit'}")
    config = tmp_path / "vit" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(AssetError, match="they have changed"):
        build(spec)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="expected a file that transformers or diffusers saves"):
        resolve(f"hf:{tmp_path}")
    save(tmp_path / "vit", "vit")
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(AssetError, match=r"expected model\.safetensors or pytorch_model\.bin"):
        resolve(f"hf:{tmp_path / 'vit'}")
    (tmp_path / "vit" / "config.json").write_text(json.dumps({"model_type": "vit_mae"}))
    with pytest.raises(WeightsError, match="MAE drops patches at random"):
        resolve(f"hf:{tmp_path / 'vit'}")


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "squash": ("ViTImageProcessor", {"size": {"height": 64, "width": 48}, "resample": 2}),
    "crop": (
        "CLIPImageProcessor",
        {
            "size": {"shortest_edge": 72},
            "do_center_crop": True,
            "crop_size": {"height": 64, "width": 64},
            "resample": 3,
        },
    ),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.875, "resample": 3}),
    "convnext, large": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3}),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_preprocessing_is_transformers_own_on_photographs(kind: str) -> None:
    class_name, settings = PROCESSORS[kind]
    config = {**PROCESSOR, **settings}
    found = getattr(transformers, f"{class_name}Pil", None) or getattr(transformers, class_name)
    processor = found(**config)
    record = preprocessing_of("hf:test", config)
    transform = Transform(record)
    for name in ("china.jpg", "flower.jpg"):
        image = Image.fromarray(load_sample_image(name))
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0], np.float32)
        ours = (np.asarray(transform(image), np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() * 0.5 <= 1 / 255 + 1e-6


@pytest.mark.parametrize(
    "config",
    [
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False},
        {"size": {"shortest_edge": 224}},
        {"size": {"longest_edge": 224}},
        {"do_resize": False},
    ],
)
def test_processors_that_do_something_else_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=r"expected (pixels scaled|a processor that gives images of one size)"):
        preprocessing_of("hf:test", {**PROCESSOR, **config})


CODE = "import pathlib, transformers\npathlib.Path(__file__).with_name('ran').touch()\nOwn = transformers.ViTModel\n"


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    "named",
    [
        "AutoModel", "AutoBackbone", "PreTrainedModel", "BeitModel", "ViTConfig", "pipeline", "own.Own", "__doc__", "",
        None, ["ViTModel"],
    ],
)  # fmt: skip
def test_c3_only_a_network_of_the_configurations_own_kind_is_built(named: Any, tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    save(folder, "vit")
    configure(folder, architectures=[named], auto_map={"AutoModel": "own.Own", "AutoConfig": "own.Own"})
    (folder / "own.py").write_text(CODE)
    for weights in ("", "@random"):
        with pytest.raises(WeightsError, match="expected a network of transformers with model type 'vit'"):
            build(resolve(f"hf:{folder}{weights}"))
    assert not (folder / "ran").exists()


def test_c3_code_and_kernels_that_a_configuration_names_are_passed_over(tmp_path: Path) -> None:
    plain, folder = tmp_path / "plain", tmp_path / "vit"
    save(plain, "vit")
    save(folder, "vit")
    configure(
        folder,
        auto_map={"AutoModel": "own.Own"},
        attn_implementation="someone/kernel:flash",
        _attn_implementation="someone/kernel",
    )
    (folder / "own.py").write_text(CODE)
    # What PEFT and sharded checkpoints keep beside the weights names other files; no digest covers them.
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(plain)}))
    images = torch.randn(1, 3, 32, 32)
    ours, theirs = (build(resolve(f"hf:{f}"))(images)["pooled"] for f in (folder, plain))
    assert torch.equal(ours, theirs)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"transformers_weights": "../other.safetensors"},
        {"backbone": "someone/network", "use_pretrained_backbone": True},
        {"backbone_config": {"model_type": "timm_backbone", "backbone": None}},
        {"backbone_config": {"model_type": "vit", "checkpoint_path": "/other.pth"}},
    ],
)
def test_c3_what_points_outside_the_folder_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "vit", "vit")
    configure(tmp_path / "vit", **changes)
    with pytest.raises(WeightsError, match=r"names nothing outside its folder|found one of timm"):
        build(resolve(f"hf:{tmp_path / 'vit'}"))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"{", b" " * (1 << 21), b'{"a": "' + b"\xff" + b'"}'])
def test_c3_a_configuration_that_is_none(content: bytes, tmp_path: Path) -> None:
    save(tmp_path / "vit", "vit")
    (tmp_path / "vit" / "config.json").write_bytes(content)
    with pytest.raises(AssetError, match=r"config\.json: expected"):
        resolve(f"hf:{tmp_path / 'vit'}")


def test_c3_the_weights_are_those_that_the_digest_covers(tmp_path: Path) -> None:
    """Not those that an index of shards beside a pickled checkpoint names."""
    folder, other = tmp_path / "vit", tmp_path / "other"
    model = save(folder, "vit")
    torch.manual_seed(1)
    save(other, "vit")
    state = load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "shard.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(state, "shard.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = build(resolve(f"hf:{folder}"))(images)["pooled"]
        torch.testing.assert_close(found, by_transformers("vit", model, images))
