"""Backbones by name: resolved to an immutable spec without building anything, then built.

========================================  ==============================================
``efficientnet_lite0``, ``mobilenetv2``   weights that ship inside packages (`packaged`)
``timm:resnet18.a1_in1k``                 timm's zoo (`timm_source`)
``torchvision:resnet50/IMAGENET1K_V2``    torchvision's weight enums (`torchvision_source`)
========================================  ==============================================

``@random`` or ``@random:<seed>`` behind any name asks for that architecture at its random initialisation.
Importing this package imports neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from featurebank.extract.backbones.contract import Backbone, BackboneSpec, Network
from featurebank.extract.backbones.packaged import PackagedSource
from featurebank.extract.backbones.timm_source import TimmSource
from featurebank.extract.backbones.torchvision_source import TorchvisionSource
from featurebank.extract.errors import UnknownNameError, nearest

__all__ = ["build", "describe", "names", "resolve"]

_SOURCES: Mapping[str, Backbone] = {
    "packaged": PackagedSource(),
    "timm": TimmSource(),
    "torchvision": TorchvisionSource(),
}


def names() -> list[str]:
    """Every name that resolves, packaged ones first; imports timm and torchvision to ask them."""
    return [name for source in _SOURCES.values() for name in source.names()]


def resolve(name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None) -> BackboneSpec:
    """The spec behind a name: what a key needs, nothing built.

    Args:
        name: ``mobilenetv2``, ``timm:resnet18.a1_in1k``, ``torchvision:resnet50/IMAGENET1K_V2``, each optionally with
            ``@random`` or ``@random:<seed>``.
        checkpoint: a local file to use instead of the name's own weights.
        outputs: what to store; the name's own default if not given.

    Returns:
        the spec; its weights lie on this machine, fetched if need be.

    Raises:
        UnknownNameError: no such name; the nearest spellings are listed.
        AssetError: the weights cannot be had, or have the wrong digest.

    >>> spec = resolve("mobilenetv2@random:7")
    >>> spec.source, spec.weights.sha256, spec.outputs
    ('packaged', 'random:7', ('pooled',))
    """
    return _source_of(name).resolve(name, checkpoint=checkpoint, outputs=outputs)


def build(spec: BackboneSpec) -> Network:
    """The network behind a spec: weights loaded strictly, float32, on the CPU, frozen.

    Raises:
        WeightsError: the checkpoint does not fit the architecture.
        AssetError: it is no longer the file that was resolved.
        UnknownNameError: an output the network does not have.
    """
    if spec.source not in _SOURCES:
        raise nearest("source of backbones", spec.source, _SOURCES)
    return _SOURCES[spec.source].build(spec)


def describe(name: str) -> Mapping[str, object]:
    """Facts for people: parameters, dimension, licence, paper, where known.

    >>> describe("mobilenetv2")["dimension"]
    1280

    Raises:
        UnknownNameError: no such name.
    """
    return _source_of(name).describe(name)


def _source_of(name: str) -> Backbone:
    prefix, colon, _ = name.partition("@")[0].partition(":")
    if not colon:
        return _SOURCES["packaged"]
    for source in _SOURCES.values():
        if source.prefix == f"{prefix}:":
            return source
    known = [source.prefix for source in _SOURCES.values() if source.prefix]
    raise UnknownNameError(f"unknown backbone {name!r}; {nearest('prefix', f'{prefix}:', known)}")
