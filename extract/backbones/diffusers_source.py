"""``diffusers:REPOSITORY_OR_FOLDER[?px=512&prompt=…]``: Stable Diffusion's encoder, as diffusers saves it.

The folder holds ``unet/``, ``vae/``, ``text_encoder/`` and ``tokenizer/``. Without ``px`` images have the size the UNet
was trained for; without ``prompt`` the text is "image classification", as in Battle of the Backbones.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from featurebank.extract.backbones.checkpoint import decode, load_strictly
from featurebank.extract.backbones.configurations import plain_configuration, read_configuration
from featurebank.extract.backbones.contract import BackboneSpec, Network
from featurebank.extract.backbones.folders import folder_weights, verified, weight_file
from featurebank.extract.backbones.hub_cache import snapshot
from featurebank.extract.backbones.keys import select
from featurebank.extract.backbones.naming import checked_outputs, given_weights, random_seed, split_random
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.errors import UnknownNameError
from featurebank.store.places import expanded

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["PROMPT", "DiffusersSource"]

PROMPT = "image classification"
_PATTERNS = ("*/config.json", "*/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "tokenizer/*")
_STEMS = {  # of files of safetensors, and of older ones
    "unet": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "text_encoder": ("model", "pytorch_model"),
}
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
# How attention layers were called before diffusers 0.17.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class DiffusersSource:
    """Stable Diffusion's encoders; see `Backbone` for what the methods promise.

    `featurebank.extract.backbones.diffusers_network.DiffusionEncoder` tells the outputs.
    """

    prefix = "diffusers:"

    def names(self) -> Sequence[str]:
        """Those whose configuration is known without a folder."""
        return [f"{self.prefix}{repository}" for repository in _configs()]

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`. A checkpoint is a folder."""
        base, seed = split_random(name)
        place, options = _parts(base)
        if seed is None:
            folder = expanded(checkpoint or place).absolute()
            origin = folder.name
            if checkpoint is None and folder.is_dir():
                name = name.replace(place, folder.name, 1)  # no path in the key
            elif checkpoint is None:
                folder, origin = snapshot(name, place, _PATTERNS), place
            config = _folder_configs(folder)
            weights = folder_weights(folder, _files(folder), origin=origin)
        else:
            found = given_weights(name, seed, checkpoint)
            assert found is not None  # noqa: S101 - a seed was given
            weights, config = found, _known(name, place)
        px = int(options.get("px", config["unet"]["sample_size"] * 2 ** (len(config["vae"]["block_out_channels"]) - 1)))
        return BackboneSpec(
            name=name,
            source="diffusers",
            architecture=place if place in _configs() else Path(place).name,
            weights=weights,
            preprocessing=Preprocessing(
                height=px,
                width=px,
                resize="exact",
                resize_height=px,
                resize_width=px,
                interpolation="lanczos",
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            ),
            outputs=checked_outputs(name, outputs, ("pooled",)),
            adapter=f"prompt: {options.get('prompt', PROMPT)}",
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        from featurebank.extract.backbones.diffusers_network import DiffusionEncoder
        from featurebank.extract.backbones.network import seeded

        seed = random_seed(spec.weights)
        with seeded(seed or 0):
            if seed is None:
                folder = verified(spec.weights, _files)
                config = _folder_configs(folder)
                vae, unet = _autoencoder(config["vae"]), _unet(config["unet"])
                _load(vae, folder / "vae", spec)
                _load(unet, folder / "unet", spec)
                context = _prompt_embedding(folder, config["text_encoder"], spec)
            else:
                import torch

                config = _known(spec.name, spec.architecture)
                vae, unet = _autoencoder(config["vae"]), _unet(config["unet"])
                context = torch.randn(1, 77, config["unet"]["cross_attention_dim"])
        return DiffusionEncoder(spec, vae, unet, context)

    def describe(self, name: str) -> Mapping[str, object]:
        """Where it comes from."""
        return {"origin": _parts(split_random(name)[0])[0]}


def _parts(name: str) -> tuple[str, dict[str, str]]:
    """Repository or folder, and the options behind the question mark."""
    place, _, query = name.removeprefix(DiffusersSource.prefix).partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - {"px", "prompt"})
    if not place or unknown or not re.fullmatch(r"[1-9]\d*", options.get("px", "1")):
        raise UnknownNameError(
            f"unknown backbone {name!r}; expected diffusers:REPOSITORY or diffusers:FOLDER, and after it at most "
            "?px=NUMBER&prompt=TEXT"
        )
    return place, options


def _configs() -> dict[str, Any]:
    text = (importlib.resources.files("featurebank.extract.backbones") / "diffusers_configs.json").read_text("utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def _known(name: str, repository: str) -> dict[str, Any]:
    known = _configs()
    if repository not in known:
        raise AssetError(f"{name}: random weights need a configuration; known: {', '.join(known)}; found {repository}")
    return known[repository]  # type: ignore[no-any-return]


def _folder_configs(folder: Path) -> dict[str, Any]:
    configs = {}
    for part in _STEMS:
        path = folder / part / "config.json"
        content = read_configuration(path)
        if content.get("_class_name", _CLASSES.get(part)) != _CLASSES.get(part):
            raise WeightsError(
                f"{path}: expected a configuration of {_CLASSES[part]}, found {content['_class_name']!r}"
            )
        configs[part] = plain_configuration(str(path), content)
    return configs


def _files(folder: Path) -> list[str]:
    """What determines the numbers: configurations, weights and the tokenizer."""
    files = [f"{p}/{name}" for p, stems in _STEMS.items() for name in ("config.json", weight_file(folder / p, *stems))]
    return files + [f"tokenizer/{path.name}" for path in (folder / "tokenizer").glob("*") if path.is_file()]


def _autoencoder(config: Mapping[str, Any]) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_config(config)  # type: ignore[no-any-return, no-untyped-call]


def _unet(config: Mapping[str, Any]) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_config(config)  # type: ignore[no-any-return, no-untyped-call]


def _load(module: nn.Module, folder: Path, spec: BackboneSpec) -> None:
    path = folder / weight_file(folder, *_STEMS[folder.name])
    tensors = {_new_name(name): value for name, value in decode(path.read_bytes(), path).items()}
    wanted = module.state_dict()
    for name, value in tensors.items():  # attention was once made of convolutions over one position
        if name in wanted and value.ndim == wanted[name].ndim + 2 and value.shape[2:] == (1, 1):
            tensors[name] = value[:, :, 0, 0]
    load_strictly(module, tensors, what=f"{spec.name} from {path}")


def _new_name(name: str) -> str:
    return re.sub(
        r"(attentions\.\d+)\.(query|key|value|proj_attn)\.", lambda m: f"{m[1]}.{_OLD_ATTENTION[m[2]]}.", name
    )


def _prompt_embedding(folder: Path, config: Mapping[str, Any], spec: BackboneSpec) -> torch.Tensor:
    """(1, L, D): the prompt through the text encoder, once."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    model: Any = CLIPTextModel(CLIPTextConfig.from_dict(dict(config)))
    model.eval()
    path = folder / "text_encoder" / weight_file(folder / "text_encoder", *_STEMS["text_encoder"])
    tensors = decode(path.read_bytes(), path)
    prefix = "text_model." if all(name.startswith("text_model.") for name in tensors) else ""
    load_strictly(model, select(tensors, f"{prefix}* without *.position_ids"), what=f"{spec.name} from {path}")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True, trust_remote_code=False)
    length = int(config["max_position_embeddings"])
    tokens = tokenizer(
        spec.adapter.removeprefix("prompt: "),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        return model(tokens["input_ids"]).last_hidden_state  # type: ignore[no-any-return]
