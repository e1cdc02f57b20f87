"""What a detector takes from a backbone: maps at several strides, or one that a pyramid is built of.

Shapes: B images, S side of the canvas, C channels, h, w a map.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from featurebank.extract import backbones
from featurebank.extract.backbones.network import probe
from featurebank.extract.backbones.views import split_view
from featurebank.pipelines.jobs.maps.geometry import bordered

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec
    from featurebank.extract.backbones.network import FrozenNetwork

__all__ = ["Level", "Maps", "as_map", "fitted", "levels_of", "maps_of", "mirrored", "with_levels"]

_STAGE = re.compile(r"(?:stages|vae|down|mid)\.\d+\.features")
_BLOCK = re.compile(r"blocks\.(\d+)\.tokens")


@dataclass(frozen=True, kw_only=True)
class Level:
    """One map of a backbone.

    Attributes:
        output: its name.
        stride: pixels of the canvas from one place of the map to the next.
        channels: C.
    """

    output: str
    stride: int
    channels: int


class Maps:
    """The maps of some images, finest first: like one tensor, to what moves batches about.

    Args:
        levels: (B, C, h, w) each.
    """

    ndim = 4

    def __init__(self, levels: Sequence[Tensor]) -> None:
        self.levels = tuple(levels)

    def __len__(self) -> int:
        return len(self.levels[0])

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.levels)

    def __getitem__(self, rows: slice) -> Maps:
        return Maps([level[rows] for level in self.levels])

    def to(self, *place: Any, **options: Any) -> Maps:
        """As `torch.Tensor.to`."""
        return Maps([level.to(*place, **options) for level in self.levels])


def fitted(spec: BackboneSpec, side: int, *, windowed: bool = False) -> BackboneSpec:
    """A backbone that takes whole images on a square canvas, with a border in the mean colour: zero once normalised.

    Args:
        spec: as it was resolved.
        side: of the canvas.
        windowed: whether blocks of a plain transformer attend within windows.
    """
    own = spec.preprocessing
    mean = own.mean if own.channels == "RGB" else own.mean[::-1]
    red, green, blue = (round(255 * value) for value in mean)
    name, view = split_view(spec.name)
    view = replace(view, px=side, windowed=windowed or view.windowed)
    return replace(spec, name=f"{name}{view}", preprocessing=replace(bordered(own, side), fill=(red, green, blue)))


def mirrored(spec: BackboneSpec) -> BackboneSpec:
    """A backbone that sees every image the other way round."""
    name, view = split_view(spec.name)
    view = replace(view, flip=not view.flip)
    return replace(spec, name=f"{name}{view}", preprocessing=replace(spec.preprocessing, flip=view.flip))


def with_levels(spec: BackboneSpec, levels: Sequence[Level]) -> BackboneSpec:
    """A backbone with the maps as its outputs."""
    return replace(spec, outputs=tuple(level.output for level in levels))


def levels_of(spec: BackboneSpec, strides: Sequence[int]) -> tuple[Level, ...]:
    """The last map of each stride that is asked for; of a plain transformer its last tokens, whatever their stride.

    Args:
        spec: on its canvas; it is built to be asked.
        strides: of maps that are wanted, such as 4, 8, 16, 32.

    Raises:
        ValueError: the backbone has no maps, or none of these strides.
    """
    network = backbones.trainable(replace(spec, outputs=("pooled",)))
    available = network.available()
    blocks = sorted((name for name in available if _BLOCK.fullmatch(name)), key=lambda name: int(name.split(".")[1]))
    names = [name for name in available if _STAGE.fullmatch(name)]
    single = not names
    if single:
        names = [name for name in (*blocks[-1:], "features", "tokens") if name in available][:1]
    if not names:
        raise ValueError(f"{spec.name} must have maps to detect on; found the outputs {', '.join(available)}")
    every = list(_measured(backbones.trainable(replace(spec, outputs=tuple(names))), names))
    if single:
        return tuple(every)
    last = {level.stride: level for level in every}
    wanted = [last[stride] for stride in strides if stride in last]
    if not wanted:
        raise ValueError(
            f"{spec.name} must have a map of stride {' or '.join(map(str, strides))}; found {', '.join(map(str, last))}"
        )
    return tuple(wanted)


def maps_of(network: FrozenNetwork, levels: Sequence[Level], images: Tensor) -> Maps:
    """The maps of images (B, 3, S, S)."""
    outputs = network(images)
    return Maps([as_map(outputs[level.output], images.shape[-2:]) for level in levels])


def as_map(output: Tensor, size: Sequence[int]) -> Tensor:
    """A map (B, C, h, w), or tokens (B, T, C) row by row, of images of that size, as a map at a power of two as stride.

    Boxes are looked up by such strides: maps of others, as of patches of 14 pixels, are resampled.
    """
    height, width = size
    if output.ndim == 3:
        batch, places, channels = output.shape
        output = output.transpose(1, 2).reshape(batch, channels, round((places * height / width) ** 0.5), -1)
    stride = _stride(output, width)
    places_of = (-(-height // stride), -(-width // stride))
    if output.shape[2:] == places_of:
        return output
    return nn.functional.interpolate(output, places_of, mode="bilinear", antialias=True)


def _stride(found: Tensor, width: int) -> int:
    return int(2 ** round(math.log2(width / found.shape[-1])))


def _measured(network: FrozenNetwork, names: Sequence[str]) -> Iterator[Level]:
    images = probe(network.spec, network)
    with torch.no_grad():
        outputs = network(images)
    for name in names:
        found = as_map(outputs[name], images.shape[-2:])
        yield Level(output=name, stride=_stride(found, images.shape[-1]), channels=found.shape[1])
