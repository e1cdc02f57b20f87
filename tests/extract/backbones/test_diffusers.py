"""Stable Diffusion's encoder: tiny models in diffusers' format on disk, against the library's own forward passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_diffusion import LENGTH, SCALE, save_diffusion
from transformers import CLIPTextModel, CLIPTokenizer
from zoo_networks import put_in_hub

from featurebank.extract.backbones import build, resolve
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.store.errors import UnknownNameError

PX = 64
OUTPUTS = [
    "pooled", "features", "latents", "down.0.features", "down.1.mean", "mid.0.mean", "up.0.features", "up.1.features",
    "mid.0.features_t100", "down.1.features_t7", "up.1.mean_t100", "vae.0.features", "vae.1.mean",
]  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as diffusers saves it."""
    return save_diffusion(tmp_path_factory.mktemp("tiny"), px=PX)


def images() -> torch.Tensor:
    return torch.rand(2, 3, PX, PX, generator=torch.Generator().manual_seed(3)) * 2 - 1


def by_definition(folder: Path, prompt: str) -> dict[str, torch.Tensor]:
    """The outputs by the definition, from the library's own models: what passes hooks on one whole pass each."""
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae")  # type: ignore[no-untyped-call]
    unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet")  # type: ignore[no-untyped-call]
    text: Any = CLIPTextModel.from_pretrained(folder / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    ids = tokenizer([prompt] * 2, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    maps: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, __, output: maps.__setitem__(name, output)

    unet.down_blocks[0].attentions[-1].register_forward_hook(lambda _, __, out: maps.__setitem__("down.0", out[0]))
    unet.down_blocks[1].resnets[-1].register_forward_hook(keep("down.1"))
    unet.mid_block.register_forward_hook(keep("mid.0"))
    for level in range(2):
        vae.encoder.down_blocks[level].register_forward_hook(keep(f"vae.{level}"))
        unet.up_blocks[level].register_forward_hook(keep(f"up.{level}"))
    with torch.no_grad():
        context = text(ids["input_ids"]).last_hidden_state
        moments = vae.quant_conv(vae.encoder(images()))
        latents = moments[:, :4] * SCALE
        found = {"latents": latents}
        for timestep, suffix in ((0, ""), (7, "_t7"), (100, "_t100")):
            unet(latents, timestep, encoder_hidden_states=context)
            for name, value in maps.items():
                found[f"{name}.features{suffix}"] = value
                found[f"{name}.mean{suffix}"] = value.flatten(2).mean(2)
    mid = found["mid.0.features"]
    parts = mid.double().reshape(len(mid), 8, -1)
    normed = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    found["features"] = mid
    found["pooled"] = normed.reshape(mid.shape).mean((2, 3)).float()
    return found


@pytest.mark.parametrize("prompt", ["image classification", "a cat", ""])
def test_outputs_are_those_of_the_librarys_own_forward_pass(repository: Path, prompt: str) -> None:
    name = f"diffusers:{repository}?px={PX}&prompt={prompt}"
    network: Any = build(resolve(name, outputs=OUTPUTS))
    with torch.no_grad():
        found = network(images())
    expected = by_definition(repository, prompt)
    assert list(found) == OUTPUTS
    for output in OUTPUTS:
        torch.testing.assert_close(found[output], expected[output], rtol=1e-5, atol=1e-5)


def test_the_default_prompt_and_size(repository: Path) -> None:
    spec = resolve(f"diffusers:{repository}")
    assert spec.adapter == "prompt: image classification"
    assert (spec.preprocessing.height, spec.preprocessing.mean) == (PX, (0.5, 0.5, 0.5))
    assert spec.outputs == ("pooled",)
    assert (spec.name, spec.weights.origin) == (f"diffusers:{repository.name}", repository.name)
    other = resolve(f"diffusers:{repository}?prompt=a+cat")
    assert other.adapter == "prompt: a cat"


def test_the_half_that_is_not_needed_is_dropped(repository: Path) -> None:
    half: Any = build(resolve(f"diffusers:{repository}"))
    whole: Any = build(resolve(f"diffusers:{repository}", outputs=["up.0.mean"]))
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (half, whole)]
    assert counts[0] < counts[1]
    assert not any("decoder" in name or "up_blocks" in name for name, _ in half.named_parameters())


def test_the_prompt_is_encoded_once_however_many_images_pass(repository: Path) -> None:
    with mock.patch.object(CLIPTextModel, "forward", autospec=True, side_effect=CLIPTextModel.forward) as encode:
        network: Any = build(resolve(f"diffusers:{repository}"))
        for _ in range(3):
            network(images())
    assert encode.call_count == 1


def test_latents_are_never_drawn_not_even_in_training_mode(repository: Path) -> None:
    network: Any = build(resolve(f"diffusers:{repository}", outputs=["latents"])).train()  # type: ignore[attr-defined]
    first, second = network(images())["latents"], network(images())["latents"]
    assert torch.equal(first, second)


def test_checkpoints_of_older_libraries(repository: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(repository, old)
    vae = load_file(old / "vae" / "diffusion_pytorch_model.safetensors")
    for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        vae = {key.replace(f".{new}.", f".{before}."): value for key, value in vae.items()}
    vae = {k: v[..., None, None] if "query.weight" in k else v for k, v in vae.items()}
    save_file({k: v.contiguous() for k, v in vae.items()}, old / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(old / "text_encoder" / "model.safetensors")
    state = {f"text_model.{key}": value for key, value in text.items()}
    state["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    torch.save(state, old / "text_encoder" / "pytorch_model.bin")
    (old / "text_encoder" / "model.safetensors").unlink()
    networks: list[Any] = [build(resolve(f"diffusers:{folder}")) for folder in (repository, old)]
    assert torch.equal(networks[0](images())["pooled"], networks[1](images())["pooled"])


def test_a_repository_of_the_hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"
    files = {str(path.relative_to(repository)): path for path in repository.rglob("*") if path.is_file()}
    put_in_hub(cache, "someone/tiny", files)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    spec = resolve("diffusers:someone/tiny")
    assert spec.weights.sha256 == resolve(f"diffusers:{repository}").weights.sha256
    network: Any = build(spec)
    torch.testing.assert_close(network(images())["pooled"], by_definition(repository, "image classification")["pooled"])
    with pytest.raises(AssetError, match=r"expected someone/other in the hub's local cache, offline"):
        resolve("diffusers:someone/other")


def test_changed_and_foreign_files_are_refused(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(repository, folder)
    spec = resolve(f"diffusers:{folder}")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file({**state, "extra": torch.zeros(1)}, weights)
    with pytest.raises(AssetError, match="they have changed"):
        build(spec)
    with pytest.raises(WeightsError, match=r"extra: expected nothing, found \(1,\)"):
        build(resolve(f"diffusers:{folder}"))
    weights.unlink()
    with pytest.raises(AssetError, match=r"expected diffusion_pytorch_model\.safetensors or .*found neither"):
        resolve(f"diffusers:{folder}")


def test_a_unet_that_needs_more_than_a_prompt_is_refused(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "xl"
    shutil.copytree(repository, folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["class_embed_type"] = "timestep"
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    unet: Any = UNet2DConditionModel.from_config(config)  # type: ignore[no-untyped-call]
    unet.save_pretrained(folder / "unet")
    with pytest.raises(WeightsError, match="found class_embed_type in it"):
        build(resolve(f"diffusers:{folder}"))


@pytest.mark.parametrize("name", ["diffusers:", "diffusers:a/b?size=3", "diffusers:a/b?px=0", "diffusers:a/b?px=x"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UnknownNameError, match="expected diffusers:REPOSITORY"):
        resolve(name)


def test_unknown_outputs_and_unknown_random_networks(repository: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown output 'down\.7\.mean'"):
        build(resolve(f"diffusers:{repository}", outputs=["down.7.mean"]))
    with pytest.raises(UnknownNameError, match=r"unknown output 'vae\.1\.mean_t7'"):
        build(resolve(f"diffusers:{repository}", outputs=["vae.1.mean_t7"]))
    with pytest.raises(AssetError, match="random weights need a configuration"):
        resolve(f"diffusers:{repository}@random")


def test_half_precision_stays_close(repository: Path) -> None:
    outputs = ["features", "down.0.mean", "up.1.mean_t100"]
    full, half = (build(resolve(f"diffusers:{repository}", outputs=outputs)) for _ in range(2))
    found: Any = half.to(torch.bfloat16)(images().bfloat16())  # type: ignore[attr-defined]
    for name, value in full(images()).items():
        assert found[name].dtype == torch.bfloat16
        assert torch.nn.functional.cosine_similarity(found[name].float().flatten(), value.flatten(), dim=0) > 0.999


@pytest.mark.parametrize(
    ("part", "named"), [("unet", "FluxTransformer2DModel"), ("vae", "UNet2DConditionModel"), ("vae", 7)]
)
def test_c3_the_class_that_a_configuration_names_is_the_one_that_is_built(
    repository: Path, tmp_path: Path, part: str, named: object
) -> None:
    folder = shutil.copytree(repository, tmp_path / "tiny")
    file = folder / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": named}))
    with pytest.raises(WeightsError, match="expected a configuration of"):
        resolve(f"diffusers:{folder}")
