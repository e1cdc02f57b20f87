"""Networks by one line: ``vit_small_patch16_224(num_heads=12)``, timm's names and the few that no library has.

Shapes: B batch, C channels, D dimension of a feature, h, w size of a feature map.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from featurebank.extract.backbones.network import FrozenNetwork, TimmNetwork, probe
from featurebank.extract.backbones.torchvision_network import LinearEnd
from featurebank.extract.errors import WeightsError

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec

__all__ = ["CopyDescriptor", "architecture", "network_of", "parse_call"]


def parse_call(line: str) -> tuple[str, dict[str, Any]]:
    """A name and its keyword arguments, literals only.

    >>> parse_call("vit_small_patch16_224(num_heads=12, num_classes=0)")
    ('vit_small_patch16_224', {'num_heads': 12, 'num_classes': 0})
    >>> parse_call("resnet50.a1_in1k")
    ('resnet50.a1_in1k', {})

    Raises:
        WeightsError: it is not such a line.
    """
    name, bracket, _ = line.partition("(")
    if not bracket:
        return line, {}
    try:
        call = ast.parse(f"_{line[len(name) :]}", mode="eval").body
        if isinstance(call, ast.Call) and not call.args and all(keyword.arg for keyword in call.keywords):
            return name, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        pass
    raise WeightsError(f"expected an architecture such as 'resnet50(num_classes=0)', found {line!r}")


def architecture(line: str, **further: Any) -> nn.Module:
    """The module of a line, at its random initialisation.

    Args:
        line: as `parse_call` takes it.
        further: keyword arguments that come before those of the line.

    Raises:
        WeightsError: there is no such architecture.
    """
    name, arguments = parse_call(line)
    arguments |= further
    if name in _OWN:
        return _OWN[name](**arguments)
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise WeightsError(f"expected an architecture of timm or one of {', '.join(_OWN)}, found {name!r}")
    return timm.create_model(name, pretrained=False, **arguments)


def network_of(spec: BackboneSpec, model: nn.Module) -> FrozenNetwork:
    """The network around the module of ``spec.architecture``, its weights loaded.

    Raises:
        UnknownNameError: an output it does not have.
    """
    name = parse_call(spec.architecture)[0]
    if name not in _OWN:
        return TimmNetwork(spec, model)
    return CopyDescriptor(spec, model) if name.startswith("sscd_") else LinearEnd(spec, model)


class CopyDescriptor(FrozenNetwork):
    """SSCD (Pizzi et al. 2022, arXiv:2202.10261): a ResNet, generalised mean pooling, a linear layer, unit length.

    ``pooled`` (B, D) is the descriptor of unit length, ``gem`` (B, C) the generalised mean before the linear layer.

    Args:
        spec: what to give.
        model: a torchvision ResNet with `GeneralisedMean` as its pooling and D outputs.
    """

    def __init__(self, spec: BackboneSpec, model: nn.Module) -> None:
        super().__init__(spec, model)
        self._require(spec.outputs)
        self.linear = model.fc
        model.fc = nn.Identity()
        with torch.no_grad():
            self.dimension = self.linear(model(probe(spec, model))).shape[1]  # type: ignore[operator]

    def available(self) -> list[str]:
        """Names of all outputs."""
        return ["pooled", "gem"]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        gem = self.backbone(images)
        found = {"gem": gem, "pooled": nn.functional.normalize(self.linear(gem))}  # type: ignore[operator]
        return {name: found[name] for name in self.spec.outputs}


class GeneralisedMean(nn.Module):
    """(B, C, h, w) to (B, C, 1, 1): the cube root of the mean cube of the positions, negative values cut off."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return features.clamp(min=1e-6).pow(3).mean((2, 3), keepdim=True).pow(1 / 3)


def _sscd_resnet50(dimension: int = 512) -> nn.Module:
    from torchvision.models import resnet50  # type: ignore[import-untyped]

    return _with_generalised_mean(resnet50(weights=None, num_classes=dimension))


def _sscd_resnext101_32x4d(dimension: int = 1024) -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet  # type: ignore[import-untyped]

    model = ResNet(Bottleneck, [3, 4, 23, 3], num_classes=dimension, groups=32, width_per_group=4)
    return _with_generalised_mean(model)


def _with_generalised_mean(model: nn.Module) -> nn.Module:
    model.avgpool = GeneralisedMean()
    return model


def _wavemix(**arguments: int) -> nn.Module:
    from featurebank.extract.backbones.wavemix import WaveMix

    return WaveMix(**arguments)


_OWN: Mapping[str, Callable[..., nn.Module]] = {
    "sscd_resnet50": _sscd_resnet50,
    "sscd_resnext101_32x4d": _sscd_resnext101_32x4d,
    "wavemix": _wavemix,
}
