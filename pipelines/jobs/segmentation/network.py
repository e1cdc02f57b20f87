"""A segmenter: a backbone, frozen or trained, and what makes a class of every place of its maps.

Shapes: B images, S side of the canvas, C channels, K classes with the background, h, w the finest map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everywhere)

from featurebank.pipelines.jobs.maps.levels import Level, Maps
from featurebank.pipelines.jobs.maps.network import MapNetwork
from featurebank.pipelines.jobs.maps.pyramids import Pyramid, SimplePyramid

__all__ = ["Head", "Segmenter", "Shape"]

Head = Literal["fcn", "upernet"]
BINS = (1, 2, 3, 6)
"""Sides of the grids that context is pooled to."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a segmenter is built; one for all backbones.

    Attributes:
        head: a fully convolutional network (Long et al. 2015, arXiv:1411.4038), or a light UPerNet (Xiao et al. 2018,
            arXiv:1807.10221).
        channels: C, behind the backbone.
        strides: of the backbone's maps that are used.
    """

    head: Head = "fcn"
    channels: int = 128
    strides: tuple[int, ...] = (4, 8, 16, 32)


class Segmenter(MapNetwork[Shape]):
    """A `MapNetwork` with a head; the background is a class."""

    def build(self, shape: Shape, classes: int) -> None:
        """See `MapNetwork`."""
        kind = FCN if shape.head == "fcn" else UPerNet
        self.head = kind(self.levels, shape.channels, classes)

    def forward(self, inputs: Tensor | Maps) -> Tensor:
        """(B, 3, S, S) normalised images, or their maps from the cache, to the logits (B, K, S, S)."""
        return _resized(self.head(self.maps(inputs)), (self.side, self.side))


class FCN(nn.Module):
    """Scores of each map's own convolution, summed at the finest map."""

    def __init__(self, levels: Sequence[Level], channels: int, classes: int) -> None:
        super().__init__()
        self.scores = nn.ModuleList(
            nn.Sequential(*_convolution(level.channels, channels), nn.Conv2d(channels, classes, 1)) for level in levels
        )

    def forward(self, maps: Maps) -> Tensor:
        """Maps to (B, K, h, w)."""
        scores = [score(level) for score, level in zip(self.scores, maps, strict=True)]
        return torch.stack([_resized(one, scores[0].shape[-2:]) for one in scores]).sum(0)


class UPerNet(nn.Module):
    """Context pooled from the coarsest map, a pyramid over all maps, and one convolution over its levels together.

    Of a backbone with one map alone the pyramid is the simple one of `SimplePyramid`.
    """

    def __init__(self, levels: Sequence[Level], channels: int, classes: int) -> None:
        super().__init__()
        self.context = Context(levels[-1].channels, channels)
        levels = [*levels[:-1], replace(levels[-1], channels=channels)]
        several = len(levels) > 1
        self.pyramid = Pyramid(levels, channels) if several else SimplePyramid(levels[0], channels)
        used = len(self.pyramid.strides) - 1  # the coarsest is for the proposals of detectors alone
        self.fuse = nn.Sequential(*_convolution(used * channels, channels))
        self.score = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Maps) -> Tensor:
        """Maps to (B, K, h, w) of the finest level of the pyramid."""
        *finer, coarsest = maps
        levels = list(self.pyramid(Maps([*finer, self.context(coarsest)])).values())[:-1]
        together = torch.cat([_resized(level, levels[0].shape[-2:]) for level in levels], 1)
        scores: Tensor = self.score(self.fuse(together))
        return scores


class Context(nn.Module):
    """A map beside what grids of several sizes pool of it (Zhao et al. 2017, arXiv:1612.01105)."""

    def __init__(self, wide: int, channels: int) -> None:
        super().__init__()
        part = max(1, channels // len(BINS))
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), *_convolution(wide, part, kernel=1)) for side in BINS
        )
        self.join = nn.Sequential(*_convolution(wide + part * len(BINS), channels))

    def forward(self, level: Tensor) -> Tensor:
        """(B, wide, h, w) to (B, C, h, w)."""
        pooled = [_resized(pool(level), level.shape[-2:]) for pool in self.pools]
        joined: Tensor = self.join(torch.cat([level, *pooled], 1))
        return joined


def _convolution(before: int, after: int, *, kernel: int = 3) -> list[nn.Module]:
    """A convolution, a norm over the channels of each place, which no other image of a batch changes, and ReLU."""
    return [nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), LayerNorm2d(after), nn.ReLU()]


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
