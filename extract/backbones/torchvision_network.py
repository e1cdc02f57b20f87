"""Networks of torchvision's classification models: the features are what enters the last linear layer.

Shapes: B batch, H, W input size, D dimension of a feature, K classes, h, w size of the last feature map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.network import FrozenNetwork, Kept, linear_head, probe
from featurebank.extract.errors import WeightsError

__all__ = ["LinearEnd", "SqueezeNet", "heads_of", "network_for"]


def network_for(spec: BackboneSpec, model: nn.Module) -> FrozenNetwork:
    """The network for a torchvision model, by how it ends.

    Raises:
        UnknownNameError: an output it does not have.
        WeightsError: it does not end in a linear layer and is not a SqueezeNet.
    """
    from torchvision.models import SqueezeNet as TorchvisionSqueezeNet  # type: ignore[import-untyped]

    return SqueezeNet(spec, model) if isinstance(model, TorchvisionSqueezeNet) else LinearEnd(spec, model)


def heads_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the modules that no output but ``logits`` needs, those of the training's further losses included."""
    if hasattr(model, "features") and not any(isinstance(module, nn.Linear) for module in model.modules()):
        return ("classifier",)
    further = (name for name, _ in model.named_children() if name in {"aux1", "aux2", "AuxLogits"})
    return _last_linear(model)[0], *further


def _last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


class LinearEnd(FrozenNetwork):
    """A model that ends in one linear layer: ``pooled`` (B, D) enters it, ``logits`` (B, K) leave it.

    Where parts of torchvision's own models give maps, ``stages.N.features`` (B, C, h, w) is the last of each stride,
    N from 0, the finest, and ``stages.N.mean`` (B, C) the mean of its positions. Asked for them, it is never compiled.

    Args:
        spec: what to give.
        model: a torchvision model with its weights loaded; its last linear layer is taken out of it.
    """

    def __init__(self, spec: BackboneSpec, model: nn.Module) -> None:
        super().__init__(spec, model)
        name, classifier = _last_linear(model)
        with torch.no_grad():
            images = probe(spec, model)
            logits, self._stages = _staged(model, images)
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, nn.Identity())
            self.classifier = classifier
            pooled = model(images)
            self.dimension = pooled.shape[1]
            self._head = linear_head(classifier, pooled, logits)
        self._require(spec.outputs)
        self._kept, wanted = Kept(), {output.rpartition(".")[0] for output in spec.outputs} - {""}
        self.compiles = not wanted
        for stage in wanted:
            self._stages[stage].register_forward_hook(partial(self._kept.leaving, stage))
        if self._head is None and logits.isfinite().all():
            raise WeightsError(
                f"{spec.name}: expected {spec.architecture} to end in its linear layer {name}; it does not"
            )

    def available(self) -> list[str]:
        """Names of all outputs."""
        return ["pooled", "logits", *(f"{stage}.{kind}" for kind in ("mean", "features") for stage in self._stages)]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        with self._kept.passing() as maps:
            pooled = self.backbone(images)
        return {name: self._output(name, pooled, maps) for name in self.spec.outputs}

    def _output(self, name: str, pooled: torch.Tensor, maps: Mapping[str, torch.Tensor]) -> torch.Tensor:
        stage, _, kind = name.rpartition(".")
        if not stage:
            return pooled if name == "pooled" else self.classifier(pooled)
        found = _channels_first(self.backbone, maps[stage])
        return found if kind == "features" else found.mean((2, 3))


def _staged(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, nn.Module]]:
    """The logits, and the last part of each stride that gives a map: of torchvision's models, unless one gives tokens.

    What the parts of other models give may be only half of a map: WaveMix adds what entered.
    """
    trunk = getattr(model, "features", getattr(model, "trunk_output", model))
    parts = [part for child in trunk.children() for part in (child if isinstance(child, nn.ModuleList) else [child])]
    left: dict[nn.Module, Any] = {}
    hooks = [part.register_forward_hook(lambda own, _, output: left.update({own: output})) for part in parts]
    logits = model(images)
    for hook in hooks:
        hook.remove()
    last: dict[int, nn.Module] = {}
    for part, output in left.items() if type(model).__module__.startswith("torchvision.") else ():
        if output.ndim == 3:
            return logits, {}
        if output.ndim == 2 or isinstance(part, nn.AdaptiveAvgPool2d):
            break
        last[round(math.log2(images.shape[2] / _channels_first(model, output).shape[2]))] = part
    return logits, {f"stages.{number}": part for number, part in enumerate(last.values())}


def _channels_first(model: nn.Module, output: torch.Tensor) -> torch.Tensor:
    return output.permute(0, 3, 1, 2) if hasattr(model, "permute") else output  # of a Swin


class SqueezeNet(FrozenNetwork):
    """SqueezeNet: a convolution classifies each position, and the rectified scores are averaged.

    ``pooled`` (B, 512) is the mean of the last feature map, ``features`` (B, 512, h, w) that map, ``logits`` (B, K).
    Because of the rectification logits are not linear in ``pooled``, so there is no head.

    Args:
        spec: what to give.
        model: torchvision's SqueezeNet with its weights loaded.
    """

    def __init__(self, spec: BackboneSpec, model: nn.Module) -> None:
        super().__init__(spec, model)
        self._require(spec.outputs)
        self.dimension = 512

    def available(self) -> list[str]:
        """Names of all outputs."""
        return ["pooled", "logits", "features"]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        features = self.backbone.features(images)  # type: ignore[operator]
        outputs = {}
        for name in self.spec.outputs:
            if name == "logits":
                outputs[name] = self.backbone.classifier(features).flatten(1)  # type: ignore[operator]
            else:
                outputs[name] = features if name == "features" else features.mean((2, 3))
        return outputs
