"""``torchvision:NAME[/WEIGHTS]``: torchvision's classification models with their weight enums.

Shapes: B batch, D dimension of a feature, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurebank.extract.assets import sha256_of
from featurebank.extract.backbones import adapters
from featurebank.extract.backbones.checkpoint import state_dict_of
from featurebank.extract.backbones.checkpoint_fitting import load_fitting
from featurebank.extract.backbones.contract import BackboneSpec, Network, Weights
from featurebank.extract.backbones.naming import checked_outputs, given_weights, random_seed, split_random
from featurebank.extract.backbones.torch_hub import fetch_url
from featurebank.extract.errors import WeightsError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.errors import UnknownNameError, unknown_name

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum  # type: ignore[import-untyped]

__all__ = ["TorchvisionSource", "preprocessing_of"]

# What these two were trained with; their constructors take it from the weights enum, which is not used here.
_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": True},
}


class TorchvisionSource:
    """torchvision's classification models; see `Backbone` for what the methods promise.

    A name is ``torchvision:<model>/<weights>``, ``torchvision:resnet50/IMAGENET1K_V2``; without weights, ``DEFAULT``.
    Outputs are ``pooled`` (the input of the last linear layer) and ``logits``; SqueezeNet also has ``features``.
    """

    prefix = "torchvision:"

    def names(self) -> Sequence[str]:
        """All models, alone and with each of their weights."""
        from torchvision.models import get_model_weights

        models = _models()
        return [self.prefix + m for m in models] + [
            f"{self.prefix}{m}/{w.name}" for m in models for w in get_model_weights(m)
        ]

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`."""
        base, seed = split_random(name)
        model, entry = self._entry(base)
        weights = given_weights(name, seed, checkpoint)
        if weights is None:
            path = fetch_url(entry.url)
            weights = Weights(sha256=sha256_of(path), path=path, origin=entry.url)
        return BackboneSpec(
            name=name,
            source="torchvision",
            architecture=model,
            weights=weights,
            preprocessing=preprocessing_of(entry),
            outputs=checked_outputs(name, outputs, ("pooled", "logits")),
            adapter="densenet" if model.startswith("densenet") else "",
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        from torchvision.models import get_model

        from featurebank.extract.backbones.network import seeded
        from featurebank.extract.backbones.torchvision_network import heads_of, network_for

        with seeded(random_seed(spec.weights) or 0):
            model = get_model(spec.architecture, weights=None, **_ARGUMENTS.get(spec.architecture, {}))
        if random_seed(spec.weights) is None:
            tensors = state_dict_of(spec.weights)
            if spec.adapter == "densenet":
                tensors = adapters.old_densenet(tensors)
            what = f"{spec.name} from {spec.weights.path}"
            load_fitting(model, tensors, what=what, outputs=spec.outputs, heads=heads_of(model))
        return network_for(spec, model)

    def describe(self, name: str) -> Mapping[str, object]:
        """Parameters, published accuracy and recipe, as torchvision states them."""
        model, entry = self._entry(split_random(name)[0])
        meta = entry.meta
        facts = {
            "model": model,
            "weights": entry.name,
            "parameters": meta.get("num_params"),
            "classes": len(meta.get("categories") or ()),
            "metrics": meta.get("_metrics"),
            "recipe": meta.get("recipe"),
        }
        return {key: value for key, value in facts.items() if value}

    def _entry(self, name: str) -> tuple[str, WeightsEnum]:
        """The model's name and the member of its weights enum."""
        from torchvision.models import get_model_weights

        model, _, weights = name.removeprefix(self.prefix).partition("/")
        if model not in _models():
            raise unknown_name("backbone", name, self.names())
        enum = get_model_weights(model)
        if weights and weights not in enum.__members__:
            raise UnknownNameError(
                f"{name}: unknown weights {weights!r} of {model}; known: {', '.join(enum.__members__)}"
            )
        return model, enum[weights or "DEFAULT"]


def _models() -> list[str]:
    import torchvision  # type: ignore[import-untyped]

    return list(torchvision.models.list_models(module=torchvision.models))


def preprocessing_of(entry: WeightsEnum) -> Preprocessing:
    """The transform that torchvision ships with weights, as a record.

    Args:
        entry: a member of a model's weights enum, ``ResNet50_Weights.IMAGENET1K_V2``.

    Raises:
        WeightsError: it is not the transform of a classification model.
    """
    from torchvision.transforms._presets import ImageClassification  # type: ignore[import-untyped]

    preset = entry.transforms()
    if not isinstance(preset, ImageClassification) or len(preset.crop_size) != 1 or len(preset.resize_size) != 1:
        raise WeightsError(f"{entry}: expected the transform of a classification model, found {preset}")
    side, scaled = preset.crop_size[0], preset.resize_size[0]
    mean, std = tuple(map(float, preset.mean)), tuple(map(float, preset.std))
    return Preprocessing(
        height=side,
        width=side,
        resize="shorter",
        resize_height=scaled,
        resize_width=scaled,
        interpolation=preset.interpolation.value,
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
    )
