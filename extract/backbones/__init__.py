"""Backbones by name: resolved to an immutable spec without building anything, then built.

==============================================  =======================================================================
``efficientnet_lite0``, ``mobilenetv2``         weights that ship inside packages (`packaged`)
``dino_vit_base``, ``convnext_base_in22ft1k``   the zoo: short names for checkpoints of all other sources (`zoo`)
``timm:resnet18.a1_in1k``                       timm's zoo (`timm_source`)
``torchvision:resnet50/IMAGENET1K_V2``          torchvision's weight enums (`torchvision_source`)
``open_clip:ViT-B-16/laion2b_s34b_b88k``        open_clip's zoo (`open_clip_source`); `text_features` for zero-shot
``diffusers:CompVis/stable-diffusion-v1-4``     Stable Diffusion's encoder, from hub or folder (`diffusers_source`)
``hub:facebookresearch/dino/dino_resnet50``     checkpoints of the zoo that no library loads (`checkpoint_source`)
``url:resnet50=https://…#<sha256>``             any checkpoint of a timm architecture by its address
``hf:FOLDER``                                   a folder of transformers (`hf_source`)
``onnx:FILE``                                   a graph, run by onnxruntime (`onnx_source`)
``python:FILE.py:function``                     your own (`own_source`); also ``python:package.module:function``, and a
                                                plain name of a package's entry point
``tuned:NAME``, ``tuned:FOLDER``                what fine-tuning has made of one of them (`tuned_source`)
==============================================  =======================================================================

``@random`` or ``@random:<seed>`` behind a name asks for that architecture at its random initialisation, and behind that
``@96px`` for another input size, ``@windowed`` for a plain transformer in windows, ``@flip`` for mirrored images
(`views`): ``mobilenetv2@random:7@96px@flip``.
Importing this package imports neither torch nor any of these libraries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from featurebank.extract.backbones import views, zoo
from featurebank.extract.backbones.checkpoint_source import HubSource, UrlSource
from featurebank.extract.backbones.contract import Backbone, BackboneSpec, Network, TrainableSource
from featurebank.extract.backbones.diffusers_source import DiffusersSource
from featurebank.extract.backbones.hf_source import HuggingFaceSource
from featurebank.extract.backbones.naming import at_random, rooted, unrooted, without_cuts
from featurebank.extract.backbones.onnx_source import OnnxSource
from featurebank.extract.backbones.open_clip_source import OpenClipSource
from featurebank.extract.backbones.own_source import OwnBackbone, OwnSource
from featurebank.extract.backbones.packaged import PackagedSource
from featurebank.extract.backbones.text_tower import TextSource, TextTower
from featurebank.extract.backbones.timm_source import TimmSource
from featurebank.extract.backbones.torchvision_source import TorchvisionSource
from featurebank.extract.backbones.tuned_source import TunedSource
from featurebank.extract.errors import WeightsError
from featurebank.store.errors import UnknownNameError, unknown_name
from featurebank.store.places import expanded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featurebank.extract.backbones.network import FrozenNetwork

__all__ = [
    "OwnBackbone",
    "build",
    "describe",
    "has_texts",
    "logit_scale",
    "names",
    "outline",
    "resolve",
    "rooted",
    "stored_name",
    "text_features",
    "text_tower",
    "tokenizer",
    "trainable",
    "without_weights",
]

_SOURCES: dict[str, Backbone] = {
    "packaged": PackagedSource(),
    "python": OwnSource(),
    "timm": TimmSource(),
    "torchvision": TorchvisionSource(),
    "open_clip": OpenClipSource(),
    "diffusers": DiffusersSource(),
    "hub": HubSource(),
    "url": UrlSource(),
    "hf": HuggingFaceSource(),
    "onnx": OnnxSource(),
}

# Their checkpoints are files of tensors by name.
_CHOOSING = {"packaged", "python", "timm", "torchvision", "open_clip", "hub", "url"}


def names() -> list[str]:
    """Every name that can be listed, plain ones first; imports the libraries to ask them."""
    packaged, *others = (source.names() for source in _SOURCES.values())
    return [*packaged, *zoo.entries(), *(name for some in others for name in some)]


def resolve(
    name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None, checkpoint_key: str = ""
) -> BackboneSpec:
    """The spec behind a name: what a key needs, nothing built.

    Args:
        name: one of the forms above, with ``@random`` or ``@random:<seed>`` where no weights are wanted. Another name
            that the zoo knows for a backbone gives the same spec as its first. ``@<pixels>px`` and ``@flip`` may
            follow.
        checkpoint: a local file (a folder, where the source takes folders) to use instead of the name's own weights.
        outputs: what to store; the name's own default if not given.
        checkpoint_key: which set of tensors of the checkpoint, where it has several: ``state_dict_ema``, or a prefix
            that ends in a dot, as ``teacher.backbone.``; part of the key.

    Returns:
        the spec; its weights lie on this machine, fetched if need be.

    Raises:
        UnknownNameError: no such name; the nearest spellings are listed.
        AssetError: the weights cannot be had, or have the wrong digest.
        WeightsError: the name asks for something that its source cannot give.

    >>> spec = resolve("mobilenetv2@random:7")
    >>> spec.source, spec.weights.sha256, spec.outputs
    ('packaged', 'random:7', ('pooled',))
    >>> resolve("mobilenetv2@random:7@96px").preprocessing.resize_height
    110
    """
    name, view = views.split_view(name)
    base, at, suffix = name.partition("@")
    entry = zoo.find(base)
    checkpoint = None if checkpoint is None else expanded(checkpoint)
    reference = name if entry is None else f"{entry.reference}{at}{suffix}"
    spec = _source_of(reference).resolve(reference, checkpoint=checkpoint, outputs=outputs)
    if entry is not None and base != entry.reference:
        spec = replace(spec, name=f"{entry.name}{at}{suffix}")
    spec = view.of(spec)
    if not checkpoint_key:
        return spec
    if checkpoint is None or spec.source not in _CHOOSING:
        raise WeightsError(
            f"{name}: checkpoint_key chooses among the tensors of a checkpoint: of {', '.join(sorted(_CHOOSING))}; "
            f"found {checkpoint_key!r} {'without one' if checkpoint is None else f'for {spec.source}'}"
        )
    return replace(spec, weights=replace(spec.weights, part=checkpoint_key))


def stored_name(name: str) -> str:
    """What the store calls the backbone of a name: by the first of its names in the zoo, without the folders of a path.

    >>> stored_name("dino_vitb16@96px"), stored_name("tuned:/runs/pets"), stored_name("timm:resnet18")
    ('dino_vit_base@96px', 'tuned:pets', 'timm:resnet18')
    """
    base, at, suffix = name.partition("@")
    entry = zoo.find(base)
    return unrooted(name) if entry is None or base == entry.reference else f"{entry.name}{at}{suffix}"


def without_weights(name: str) -> BackboneSpec:
    """The spec of a name at its random initialisation, for which nothing is fetched; of ONNX files as they are.

    >>> without_weights("mobilenetv2@96px").name
    'mobilenetv2@random@96px'

    Raises:
        UnknownNameError, WeightsError, AssetError: as `resolve`.
    """
    if "@random" in name:
        return resolve(name)
    try:
        return resolve(at_random(name))
    except WeightsError:
        return resolve(name)


def build(spec: BackboneSpec) -> Network:
    """The network behind a spec: weights loaded strictly, float32, on the CPU, frozen.

    Raises:
        WeightsError: the checkpoint does not fit the architecture, the network is not the one the zoo describes, or it
            does not take images of the size asked for.
        AssetError: it is no longer the file that was resolved.
        UnknownNameError: an output the network does not have.
    """
    plain = replace(spec, outputs=without_cuts(spec.outputs))
    network = views.built(plain, _builder(spec).build)
    if views.split_view(spec.name)[1].windowed:
        from featurebank.extract.backbones.windowed_network import without_positions

        without_positions(cast("FrozenNetwork", network))
    zoo.check(plain, network)
    if plain == spec:
        return network
    from featurebank.extract.backbones.cuts import CutNetwork

    return CutNetwork(spec, cast("FrozenNetwork", network))


def trainable(spec: BackboneSpec) -> FrozenNetwork:
    """The network as it is trained: that of `build`, but nothing of it folded into something else for inference.

    It is frozen and in eval mode like every other; whoever trains it sets both for its modules. What is not needed for
    the spec's outputs may be missing from it.

    Raises:
        WeightsError, AssetError, UnknownNameError: as `build`.
    """
    source = _builder(spec)
    network = views.built(spec, source.trainable if isinstance(source, TrainableSource) else source.build)
    zoo.check(spec, network)
    return cast("FrozenNetwork", network)


def outline(spec: BackboneSpec) -> Network:
    """The network behind a spec on the meta device: shapes and no numbers, in kilobytes.

    Raises:
        WeightsError, UnknownNameError: as `build`.
    """
    import torch

    try:
        with torch.device("meta"):
            return build(spec)
    except NotImplementedError:  # numbers are needed to build it
        network = build(spec)
        assert isinstance(network, torch.nn.Module)  # noqa: S101 - narrows the type, the contract says so
        return network.to("meta")


def has_texts(name: str) -> bool:
    """Whether a backbone of that name may have a text tower, going by the name alone.

    >>> has_texts("open_clip:ViT-B-16/openai"), has_texts("mobilenetv2")
    (True, False)
    """
    base = name.partition("@")[0]
    entry = zoo.find(base)
    prefix, colon, _ = (base if entry is None else entry.reference).partition(":")
    return any(source.prefix == prefix + colon and isinstance(source, TextSource) for source in _SOURCES.values())


def tokenizer(spec: BackboneSpec) -> Mapping[str, Any]:
    """What determines the tokens of a text, as plain JSON for a key; nothing is built.

    Raises:
        WeightsError, AssetError: as `text_tower`.
    """
    return _text_source(spec).tokenizer(spec)


def text_tower(spec: BackboneSpec, device: str = "cpu") -> TextTower:
    """The text tower that belongs to an image tower, weights loaded strictly, float32.

    Raises:
        WeightsError: the backbone has none, or the checkpoint does not fit.
        AssetError: a file is not to be had, or no longer what was resolved.
    """
    return _text_source(spec).text_tower(spec, device)


def text_features(spec: BackboneSpec, texts: Sequence[str], *, batch_size: int = 256) -> NDArray[np.float32]:
    """Features of N texts in the space of ``embedding``, (N, E), of no particular length.

    Raises:
        WeightsError, AssetError: as `text_tower`.
        ValueError: no texts, or a single string.
    """
    return text_tower(spec).encode(texts, batch_size)


def logit_scale(spec: BackboneSpec) -> float:
    """What the model multiplies cosines of images and texts by before the softmax, exp of its parameter.

    Raises:
        WeightsError, AssetError: as `text_tower`.
    """
    return text_tower(spec).logit_scale


def describe(name: str) -> Mapping[str, object]:
    """Facts for people: parameters, dimension, licence, paper, where known.

    >>> describe("mocov3_vit_small")["heads"]
    '12'
    >>> describe("mobilenetv2")["dimension"]
    1280

    Raises:
        UnknownNameError: no such name.
    """
    name, _ = views.split_view(name)
    entry = zoo.find(name.partition("@")[0])
    return _source_of(name).describe(name) if entry is None else zoo.facts(entry)


def _builder(spec: BackboneSpec) -> Backbone:
    if spec.source not in _SOURCES:
        raise unknown_name("source of backbones", spec.source, _SOURCES)
    return _SOURCES[spec.source]


def _text_source(spec: BackboneSpec) -> TextSource:
    source = _SOURCES.get(spec.source)
    if not isinstance(source, TextSource):
        having = " or ".join(name for name, one in _SOURCES.items() if isinstance(one, TextSource))
        raise WeightsError(f"{spec.name}: expected a backbone of {having}, which has a text tower; found {spec.source}")
    return source


def _source_of(name: str) -> Backbone:
    base = name.partition("@")[0]
    prefix, colon, _ = base.partition(":")
    if not colon:
        own, packaged = _SOURCES["python"].names(), _SOURCES["packaged"].names()
        if base in packaged:
            return _SOURCES["packaged"]
        if base in own:
            return _SOURCES["python"]
        raise unknown_name("backbone", base, [*packaged, *own, *zoo.names()])
    for source in _SOURCES.values():
        if source.prefix == f"{prefix}:":
            return source
    known = [source.prefix for source in _SOURCES.values() if source.prefix]
    raise UnknownNameError(f"unknown backbone {name!r}; {unknown_name('prefix', f'{prefix}:', known)}")


_SOURCES["tuned"] = TunedSource(resolve, trainable)
