"""Pyramids of maps: over those of several strides, or of the one map of a plain transformer.

Shapes: B images, C channels of the pyramid, h, w a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork  # type: ignore[import-untyped]
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool  # type: ignore[import-untyped]

from featurebank.pipelines.jobs.maps.levels import Level, Maps

__all__ = ["Pyramid", "SimplePyramid"]


class Pyramid(nn.Module):
    """A feature pyramid over maps of several strides (Lin et al. 2017, arXiv:1612.03144), one level coarser than they.

    Args:
        levels: finest first.
        channels: C.

    Attributes:
        strides: of its levels.
    """

    def __init__(self, levels: Sequence[Level], channels: int) -> None:
        super().__init__()
        self.strides = (*(level.stride for level in levels), 2 * levels[-1].stride)
        self.network = FeaturePyramidNetwork([level.channels for level in levels], channels, LastLevelMaxPool())

    def forward(self, maps: Maps) -> dict[str, Tensor]:
        """(B, C, h, w) of each level, by its number."""
        named = {str(number): level for number, level in enumerate(maps)}
        return {str(number): level for number, level in enumerate(self.network(named).values())}


class SimplePyramid(nn.Module):
    """Levels at 4, 2, 1 and 1/2 times the one map of a plain backbone, and 1/4 (Li et al. 2022, arXiv:2203.16527).

    Args:
        level: the map.
        channels: C.

    Attributes:
        strides: of its levels.
    """

    def __init__(self, level: Level, channels: int) -> None:
        super().__init__()
        wide = level.channels
        double = partial(nn.ConvTranspose2d, kernel_size=2, stride=2)
        changed = [
            nn.Sequential(double(wide, wide // 2), LayerNorm2d(wide // 2), nn.GELU(), double(wide // 2, wide // 4)),
            nn.Sequential(double(wide, wide // 2)),
            nn.Identity(),
            nn.MaxPool2d(2),
        ]
        widths = (wide // 4, wide // 2, wide, wide)
        self.levels = nn.ModuleList(
            nn.Sequential(
                change,
                nn.Conv2d(width, channels, 1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels),
            )
            for change, width in zip(changed, widths, strict=True)
        )
        self.strides = tuple(round(level.stride * factor) for factor in (0.25, 0.5, 1, 2, 4))

    def forward(self, maps: Maps) -> dict[str, Tensor]:
        """(B, C, h, w) of each level, by its number."""
        (one,) = maps
        found = [level(one) for level in self.levels]
        found.append(nn.functional.max_pool2d(found[-1], 1, 2))
        return {str(number): level for number, level in enumerate(found)}
