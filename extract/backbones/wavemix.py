"""WaveMix (Jeevan et al. 2022, arXiv:2205.14375), under the names of tensors of its published weights.

The package ``wavemix`` keeps its wavelet filters outside the network, on whichever device it finds when imported; here
a level of the Haar transform is four sums of every fourth pixel, wherever the network is.

Shapes: B batch, C channels, H, W size, both divisible by 8 where blocks work.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["WaveMix", "haar"]


def haar(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One level of the two-dimensional Haar transform.

    Args:
        x: (B, C, H, W), H and W even.

    Returns:
        the coarse half (B, C, H/2, W/2), and its three details of each channel, one after the other
        (B, 3 C, H/2, W/2): low along rows and high along columns, high and low, high and high.

    >>> coarse, details = haar(torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]]))
    >>> coarse.flatten().tolist(), details.flatten().tolist()
    ([5.5], [-2.5, -1.5, 0.5])
    """
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    details = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=2) / 2
    return (a + b + c + d) / 2, details.flatten(1, 2)


class _Block(nn.Module):
    """Three levels of the transform, mixed from the coarsest to the finest; (B, C, H, W) to the same."""

    def __init__(self, channels: int, mult: int, ff_channels: int) -> None:
        super().__init__()

        def mix(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, channels * mult, 1),
                nn.GELU(),
                nn.Dropout(0.5),
                nn.Conv2d(channels * mult, ff_channels, 1),
                nn.ConvTranspose2d(ff_channels, outputs, 4, stride=2, padding=1),
                nn.BatchNorm2d(outputs),
            )

        half = channels // 2
        self.feedforward1 = mix(channels + half, channels)
        self.feedforward2 = mix(channels + half, half)
        self.feedforward3 = mix(channels, half)
        self.reduction = nn.Conv2d(channels, channels // 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        levels, coarse = [], self.reduction(x)
        for _ in range(3):
            coarse, details = haar(coarse)
            levels.append(torch.cat((coarse, details), dim=1))
        mixed = self.feedforward3(levels[2])
        mixed = self.feedforward2(torch.cat((levels[1], mixed), dim=1))
        return self.feedforward1(torch.cat((levels[0], mixed), dim=1))  # type: ignore[no-any-return]


class WaveMix(nn.Module):
    """WaveMix for classification: patches, residual blocks, the mean of the positions, one linear layer.

    Args:
        channels: of all blocks.
        depth: how many blocks.
        mult: width of a block's first layer in units of ``channels``.
        classes: outputs of the last layer.
    """

    def __init__(self, *, channels: int = 192, depth: int = 16, mult: int = 2, classes: int = 1000) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Block(channels, mult, channels) for _ in range(depth)])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
        self.conv = nn.Sequential(
            nn.Conv2d(3, channels // 4, 3, 1, 1),
            nn.Conv2d(channels // 4, channels // 2, 3, 1, 1),
            nn.Conv2d(channels // 2, channels, 4, 4),
            nn.GELU(),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), H and W divisible by 32, to (B, classes)."""
        x = self.conv(images)
        for layer in self.layers:
            x = layer(x) + x
        return self.pool(x)  # type: ignore[no-any-return]
