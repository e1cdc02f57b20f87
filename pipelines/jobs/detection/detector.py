"""A detector: a backbone, frozen or trained, and what stands behind its maps.

Shapes: B images, S side of the canvas, n objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]

from featurebank.pipelines.jobs.detection.heads import Shape, proposals, region_heads
from featurebank.pipelines.jobs.maps.levels import Maps
from featurebank.pipelines.jobs.maps.network import MapNetwork
from featurebank.pipelines.jobs.maps.pyramids import Pyramid, SimplePyramid

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


class Detector(MapNetwork[Shape]):
    """A `MapNetwork` with a pyramid, proposals and heads; the background is no class of its own."""

    def build(self, shape: Shape, classes: int) -> None:
        """See `MapNetwork`."""
        plain = len(self.levels) == 1
        self.neck: Pyramid | SimplePyramid = (
            SimplePyramid(self.levels[0], shape.channels) if plain else Pyramid(self.levels, shape.channels)
        )
        style = shape.style(plain=plain)
        self.rpn = proposals(shape, self.neck.strides, style)
        self.heads = region_heads(shape, classes, len(self.neck.strides), style)

    def forward(self, inputs: Tensor | Maps, truth: Truth | None = None) -> Any:
        """Losses by name in training; else of each image ``boxes``, ``scores``, ``labels`` from 1, and ``masks``.

        Args:
            inputs: images, or their maps from the cache.
            truth: in training.
        """
        features = self.neck(self.maps(inputs))
        sizes = [(self.side, self.side)] * len(inputs)
        canvas = ImageList(torch.empty((len(inputs), 3, self.side, self.side), device="meta"), sizes)
        targets = None if truth is None else truth.images
        boxes, losses = self.rpn(canvas, features, targets)
        found, more = self.heads(features, boxes, sizes, targets)
        return {**losses, **more} if self.training else found
