"""``timm:NAME``: every model of timm, with its own preprocessing, and weights from a file or timm's hub."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurebank.extract.assets import sha256_of
from featurebank.extract.backbones import adapters
from featurebank.extract.backbones.checkpoint import state_dict_of
from featurebank.extract.backbones.checkpoint_fitting import classifier_of, load_fitting
from featurebank.extract.backbones.contract import BackboneSpec, Network, Weights
from featurebank.extract.backbones.hub_cache import from_hub
from featurebank.extract.backbones.naming import checked_outputs, given_weights, random_seed, split_random
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

__all__ = ["TimmSource", "load_into", "preprocessing_of", "size_arguments"]

HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class TimmSource:
    """timm's model zoo; see `Backbone` for what the methods promise.

    A name is ``timm:<architecture>[.<tag>]``, as ``timm.create_model`` takes it; without a tag the one timm uses by
    default is meant, and recorded.
    """

    prefix = "timm:"

    def names(self) -> Sequence[str]:
        """All architectures, alone and with each of their tags."""
        import timm

        plain, tagged = timm.list_models(), timm.list_models(include_tags=True)
        return [f"{self.prefix}{name}" for name in sorted({*plain, *tagged})]

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`."""
        base, seed = split_random(name)
        cfg = self._config(base)
        architecture = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)
        weights = given_weights(name, seed, checkpoint) or _own_weights(name, cfg)
        default = ("pooled", "logits") if cfg.num_classes else ("pooled",)
        return BackboneSpec(
            name=name,
            source="timm",
            architecture=architecture,
            weights=weights,
            preprocessing=preprocessing_of(asdict(cfg)),
            outputs=checked_outputs(name, outputs, default),
            adapter="timm",
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        import timm

        from featurebank.extract.backbones.network import TimmNetwork, seeded

        with seeded(random_seed(spec.weights) or 0):
            size = size_arguments(spec.architecture, spec.preprocessing)
            model = timm.create_model(spec.architecture, pretrained=False, **size)
        load_into(model, spec, resized=bool(size))
        return TimmNetwork(spec, model)

    def describe(self, name: str) -> Mapping[str, object]:
        """Licence, paper, classes and input size, as timm states them."""
        cfg = self._config(split_random(name)[0])
        facts = {
            "licence": cfg.license,
            "paper": cfg.paper_ids,
            "classes": cfg.num_classes,
            "input": cfg.input_size,
            "origin": cfg.origin_url or cfg.hf_hub_id or cfg.url,
        }
        return {key: value for key, value in facts.items() if value}

    def _config(self, name: str) -> PretrainedCfg:
        """The pretrained configuration behind a name, with architecture and tag filled in; nothing is built."""
        import timm
        from timm.models import PretrainedCfg, get_pretrained_cfg

        model = name.removeprefix(self.prefix)
        architecture = model.partition(".")[0]
        try:
            cfg = get_pretrained_cfg(model) if timm.is_model(architecture) else None
        except RuntimeError:
            cfg = None
        if cfg is None:
            if "." not in model and timm.is_model(model):
                return PretrainedCfg(architecture=model)
            raise unknown_name("backbone", name, self.names())
        cfg.architecture = architecture
        return cfg


def preprocessing_of(cfg: Mapping[str, Any]) -> Preprocessing:
    """The evaluation transform ``timm.data.create_transform`` makes of a pretrained configuration, as a record.

    Args:
        cfg: timm's pretrained configuration as a dict.

    Raises:
        WeightsError: it asks for something the record cannot say.
    """
    from timm.data.config import resolve_data_config

    config = resolve_data_config(pretrained_cfg=dict(cfg))  # type: ignore[no-untyped-call]
    channels, height, width = config["input_size"]
    scaled = [math.floor(side / config["crop_pct"]) for side in (height, width)]
    mode = config["crop_mode"]
    if channels != 3 or len(config["mean"]) != 3 or len(config["std"]) != 3:
        raise WeightsError(f"timm:{cfg.get('architecture')}: expected 3 colour channels, found {channels}")
    if mode not in {"center", "squash", "border"} or (mode == "center" and scaled[0] != scaled[1]):
        raise WeightsError(
            f"timm:{cfg.get('architecture')}: expected crop mode center (square), squash or border, found {mode} at "
            f"{height}x{width}"
        )
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    fill = tuple(round(255 * value) for value in mean) if mode == "border" else (0, 0, 0)
    return Preprocessing(
        height=height,
        width=width,
        resize={"center": "shorter", "squash": "exact", "border": "longer"}[mode],  # type: ignore[arg-type]
        resize_height=scaled[0],
        resize_width=scaled[1],
        interpolation=config["interpolation"],
        fill=fill,  # type: ignore[arg-type]
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
    )


def size_arguments(architecture: str, preprocessing: Preprocessing) -> dict[str, Any]:
    """What timm's constructor must be told of the size of images, where the architecture is made for one, and another.

    Args:
        architecture: of timm, with its tag or without.
        preprocessing: says how large images are.
    """
    from timm.models import get_pretrained_cfg

    if architecture.startswith("samvit"):  # takes images of any size as it is, and its checkpoints fit no other
        return {}
    cfg, size = get_pretrained_cfg(architecture), (preprocessing.height, preprocessing.width)
    return {"img_size": size} if cfg and cfg.fixed_input_size and size != tuple(cfg.input_size[1:]) else {}


def load_into(model: nn.Module, spec: BackboneSpec, *, resized: bool = False) -> None:
    """Loads a spec's checkpoint into a timm model, directly or through timm's converter for foreign layouts.

    Args:
        model: the architecture.
        spec: says which checkpoint.
        resized: whether the model takes images of another size than the checkpoint's, so that position embeddings are
            resampled, as timm does.

    Raises:
        AssetError: the file is missing or has another digest.
        WeightsError: it is not of this architecture.
    """
    if random_seed(spec.weights) is not None:
        return
    load_fitting(
        model,
        state_dict_of(spec.weights),
        what=f"{spec.name} from {spec.weights.path}",
        outputs=spec.outputs,
        heads=classifier_of(model),
        convert=lambda tensors: adapters.foreign_timm(tensors, model, spec.weights.path, resized=resized),
    )


def _own_weights(name: str, cfg: PretrainedCfg) -> Weights:
    if cfg.hf_hub_id:
        return from_hub(name, cfg.hf_hub_id, (cfg.hf_hub_filename,) if cfg.hf_hub_filename else HUB_FILES)
    if cfg.url:
        from featurebank.extract.backbones.torch_hub import fetch_url

        url, file_name = (cfg.url, None) if isinstance(cfg.url, str) else cfg.url
        path = fetch_url(url, file_name)
        return Weights(sha256=sha256_of(path), path=path, origin=url)
    raise AssetError(
        f"{name}: expected pretrained weights, but timm publishes none for it; give checkpoint=, another tag, "
        f"or '{name}@random'"
    )
