"""A detector: a backbone, frozen or trained, and what stands behind its maps.

Shapes: B images, S side of the canvas, n objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]

from featurebank.extract.backbones.network import FrozenNetwork
from featurebank.pipelines.jobs.detection.heads import Pyramid, Shape, SimplePyramid, proposals, region_heads
from featurebank.pipelines.jobs.detection.levels import Level, Maps, maps_of
from featurebank.pipelines.jobs.trunk import BatchNorm, Trunk

__all__ = ["Detector", "Truth"]


class Truth:
    """What images show, in pixels of the canvas: like one tensor, to what moves batches about.

    Args:
        images: of each the ``boxes`` (n, 4) float32, ``labels`` (n,) from 1, and where there are some the ``masks``
            (n, S, S) uint8.
    """

    def __init__(self, images: Sequence[dict[str, Tensor]]) -> None:
        self.images = list(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Truth:
        return Truth(self.images[rows])

    def to(self, *place: Any, **options: Any) -> Truth:
        """As `torch.Tensor.to`, of every tensor."""
        return Truth([{name: value.to(*place, **options) for name, value in one.items()} for one in self.images])


class Detector(Trunk):
    """A `Trunk`, a pyramid, proposals and heads.

    Args:
        network: with the levels as its outputs.
        levels: that it gives.
        shape: of what is behind it.
        classes: K, without the background.
        side: S, of the canvas.
        seed: of what the heads begin with.
        batch_norm: see `Trunk`.
        drop_path: see `Trunk`.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        levels: Sequence[Level],
        *,
        shape: Shape,
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
            plain = len(self.levels) == 1
            neck: Pyramid | SimplePyramid = (
                SimplePyramid(self.levels[0], shape.channels) if plain else Pyramid(self.levels, shape.channels)
            )
            style = shape.style(plain=plain)
            self.neck = neck
            self.rpn = proposals(shape, neck.strides, style)
            self.heads = region_heads(shape, classes, len(neck.strides), style)
        self.eval()

    def maps(self, images: Tensor) -> Maps:
        """(B, 3, S, S), normalised, to the maps of the backbone."""
        return maps_of(self.network, self.levels, images)

    def forward(self, inputs: Tensor | Maps, truth: Truth | None = None) -> Any:
        """Losses by name in training; else of each image ``boxes``, ``scores``, ``labels`` from 1, and ``masks``.

        Args:
            inputs: images, or their maps from the cache.
            truth: in training.
        """
        features = self.neck(inputs if isinstance(inputs, Maps) else self.maps(inputs))
        sizes = [(self.side, self.side)] * len(inputs)
        canvas = ImageList(torch.empty((len(inputs), 3, self.side, self.side), device="meta"), sizes)
        targets = None if truth is None else truth.images
        boxes, losses = self.rpn(canvas, features, targets)
        found, more = self.heads(features, boxes, sizes, targets)
        return {**losses, **more} if self.training else found
