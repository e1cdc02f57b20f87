"""``hf:FOLDER``: a vision model as transformers saves it, from a local folder.

The folder holds ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``. The class that the
configuration names is built, so that every tensor has its place; nothing is asked of a hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from featurebank.extract.backbones.checkpoint import decode
from featurebank.extract.backbones.configurations import plain_configuration, read_configuration, transformers_class
from featurebank.extract.backbones.contract import BackboneSpec, Network
from featurebank.extract.backbones.folders import folder_weights, verified, weight_file
from featurebank.extract.backbones.naming import checked_outputs, given_weights, random_seed, split_random
from featurebank.extract.backbones.text_tower import TextTower
from featurebank.extract.errors import WeightsError
from featurebank.extract.preprocessing import Interpolation, Preprocessing
from featurebank.store.places import expanded

__all__ = ["HuggingFaceSource", "preprocessing_of"]

_RESAMPLE: Final[Mapping[int, Interpolation]] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
_CONVNEXT_SMALL = 384  # its processor crops below this size, and squashes from it on


class HuggingFaceSource:
    """Folders of transformers; see `Backbone` for what the methods promise."""

    prefix = "hf:"

    def names(self) -> Sequence[str]:
        """None: they are folders."""
        return []

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`."""
        base, seed = split_random(name)
        folder = expanded(base.removeprefix(self.prefix)).absolute()
        config = read_configuration(folder / "config.json")
        if config.get("model_type") == "vit_mae":
            raise WeightsError(
                f"{name}: transformers' MAE drops patches at random; use mae_vit_base with this checkpoint"
            )
        random = given_weights(name, seed, None)
        weights = random or folder_weights(checkpoint or folder, _files(checkpoint or folder), origin=folder.name)
        return BackboneSpec(
            name=name.replace(base, f"{self.prefix}{folder.name}"),
            source="hf",
            architecture=json.dumps(config, sort_keys=True)
            if random
            else str((config.get("architectures") or [""])[0]),
            weights=weights,
            preprocessing=preprocessing_of(name, read_configuration(folder / "preprocessor_config.json")),
            outputs=checked_outputs(name, outputs, ("pooled",)),
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        import torch

        from featurebank.extract.backbones.hf_network import HuggingFaceNetwork
        from featurebank.extract.backbones.network import seeded

        seed = random_seed(spec.weights)
        if seed is None:
            return HuggingFaceNetwork(spec, _loaded(spec))
        with seeded(seed):
            kind, config = _configured(spec.name, json.loads(spec.architecture))
            return HuggingFaceNetwork(spec, kind._from_config(config, dtype=torch.float32))

    def tokenizer(self, spec: BackboneSpec) -> Mapping[str, Any]:
        """What determines the tokens of a text; see `TextSource.tokenizer`."""
        from featurebank.extract.backbones.hf_text import tokenizer_record

        return tokenizer_record(spec, _files)

    def text_tower(self, spec: BackboneSpec, device: str) -> TextTower:
        """The text tower behind a spec; see `TextSource.text_tower`."""
        from featurebank.extract.backbones.hf_text import build_text_tower

        record = self.tokenizer(spec)
        return build_text_tower(spec, _loaded(spec), record, device)

    def describe(self, name: str) -> Mapping[str, object]:
        """What its configuration says."""
        folder = expanded(split_random(name)[0].removeprefix(self.prefix))
        config = read_configuration(folder / "config.json")
        return {key: config[key] for key in ("model_type", "architectures", "hidden_size") if key in config}


def preprocessing_of(name: str, config: Mapping[str, Any]) -> Preprocessing:
    """What a ``preprocessor_config.json`` says, as a record.

    Args:
        name: the backbone, for messages.
        config: the file's content.

    Raises:
        WeightsError: it does not give images of one size, or scales pixels in another way than by 1/255.
    """
    if abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6 or not config.get("do_rescale", True):
        raise WeightsError(f"{name}: expected pixels scaled by 1/255, found {config.get('rescale_factor')}")
    resample = next((filt for number, filt in _RESAMPLE.items() if number == config.get("resample", 3)), None)
    if resample is None:
        raise WeightsError(f"{name}: expected resample to be one of {sorted(_RESAMPLE)}, found {config['resample']!r}")
    resize, side, crop = _geometry(name, config)
    normal = config.get("do_normalize", True)
    mean, std = (
        tuple(map(float, config[key])) if normal else default
        for key, default in (("image_mean", (0.0, 0.0, 0.0)), ("image_std", (1.0, 1.0, 1.0)))
    )
    return Preprocessing(
        height=crop[0],
        width=crop[1],
        resize=resize,  # type: ignore[arg-type]
        resize_height=side[0],
        resize_width=side[1],
        interpolation=resample,
        margins="floor" if config.get("do_center_crop") or "crop_pct" in config else "round",
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
    )


def _geometry(name: str, config: Mapping[str, Any]) -> tuple[str, tuple[int, int], tuple[int, int]]:
    """Resize mode, what is resized to, and what is cropped, each height first."""
    size: Any = config.get("size", {})
    cropped = bool(config.get("do_center_crop"))
    if isinstance(size, int):
        size = {"shortest_edge": size} if cropped else {"height": size, "width": size}
    shortest = size.get("shortest_edge")
    if shortest and "crop_pct" in config:  # ConvNeXt
        if shortest >= _CONVNEXT_SMALL:
            return "exact", (shortest, shortest), (shortest, shortest)
        side = int(shortest / config["crop_pct"])
        return "shorter", (side, side), (shortest, shortest)
    crop: Any = config.get("crop_size", size)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    known = {"height", "width"}
    if config.get("do_resize", True) and (shortest or known <= size.keys()) and (not cropped or known <= crop.keys()):
        if shortest and cropped:
            return "shorter", (shortest, shortest), (crop["height"], crop["width"])
        if not shortest:
            side_height, side_width = size["height"], size["width"]
            target = (crop["height"], crop["width"]) if cropped else (side_height, side_width)
            return "exact", (side_height, side_width), target
    raise WeightsError(
        f"{name}: expected a processor that gives images of one size, found size={size}, "
        f"crop={crop if cropped else None}"
    )


def _files(folder: Path) -> list[str]:
    return ["config.json", weight_file(folder, "model", "pytorch_model")]


def _configured(name: str, content: Mapping[str, Any]) -> tuple[Any, Any]:
    """The class of a network and its configuration, of what a file says."""
    kind = transformers_class(name, content)
    try:
        return kind, kind.config_class.from_dict(plain_configuration(name, content))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(f"{name}: expected a configuration of {kind.__name__}, found: {error}") from error


def _loaded(spec: BackboneSpec) -> Any:
    import torch

    folder = verified(spec.weights, _files)
    kind, config = _configured(spec.name, read_configuration(folder / "config.json"))
    path = folder / _files(folder)[1]
    # Of a folder it would also read adapters, indexes and generation settings, which no digest covers.
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=decode(path.read_bytes(), path),
        output_loading_info=True,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
    )
    wrong = [
        f"{kind.removesuffix('_keys')}: {key}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        for key in sorted(map(str, report.get(kind) or ()))
    ]
    if wrong:
        raise WeightsError(
            f"{spec.name} from {folder}: the checkpoint is not of this architecture, {len(wrong)} of its tensors "
            "differ:" + "".join(f"\n  {line}" for line in wrong[:10])
        )
    return model
