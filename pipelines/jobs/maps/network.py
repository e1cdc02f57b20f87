"""A backbone, frozen or trained, on a canvas, and what stands behind its maps: a detector, a segmenter.

Shapes: B images, S side of the canvas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from featurebank.extract.backbones.network import FrozenNetwork
from featurebank.pipelines.jobs.maps.levels import Level, Maps, maps_of
from featurebank.pipelines.jobs.trunk import BatchNorm, Trunk

__all__ = ["Built", "MapNetwork", "Shape"]


class Shape(Protocol):
    """What stands behind the backbone, as a frozen dataclass."""

    @property
    def head(self) -> str:
        """Its name."""
        ...

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the backbone's maps that are used."""
        ...


Built = TypeVar("Built", bound=Shape)


class MapNetwork(Trunk, ABC, Generic[Built]):
    """A `Trunk` and what is built behind its maps.

    Args:
        network: with the levels as its outputs.
        levels: that it gives, finest first.
        shape: of what is behind it.
        classes: how many.
        side: S, of the canvas.
        seed: of what is behind it, before its first step.
        batch_norm: see `Trunk`.
        drop_path: see `Trunk`.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        levels: Sequence[Level],
        *,
        shape: Built,
        classes: int,
        side: int,
        seed: int,
        batch_norm: BatchNorm = "eval",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(network, batch_norm=batch_norm, drop_path=drop_path)
        self.levels, self.side = tuple(levels), side
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(shape, classes)
        self.eval()

    @abstractmethod
    def build(self, shape: Built, classes: int) -> None:
        """Makes the modules behind the maps of ``levels``."""

    def maps(self, inputs: Tensor | Maps) -> Maps:
        """The maps of the backbone, of normalised images (B, 3, S, S); those of the cache as they are."""
        return inputs if isinstance(inputs, Maps) else maps_of(self.network, self.levels, inputs)
