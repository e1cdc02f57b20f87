"""How images and their objects come onto a canvas of fixed size, and boxes back from it.

All of it is a factor and a shift of each axis, so that boxes and masks follow exactly and come back exactly. The pixels
are those of extraction: the same code resizes, cuts and borders.

Shapes: H, W of the canvas; n objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.datasets.objects import Objects
from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.resampling import Placement
from featurebank.extract.transform import Transform

__all__ = ["Placing", "bordered", "jittered", "mirrored", "placed"]

LEAST: Final = 1.0
"""Pixels of the canvas that a side of an object must have to stay on it."""


@dataclass(frozen=True, kw_only=True)
class Placing:
    """Where an image of one size lies on a canvas.

    Attributes:
        preprocessing: its height and width are the canvas's; interpolation, border, mirroring and order of channels.
        height: of the upright image.
        width: of the upright image.
        rows: what becomes of the image's rows, before all of the canvas is mirrored.
        columns: what becomes of its columns.
    """

    preprocessing: Preprocessing
    height: int
    width: int
    rows: Placement
    columns: Placement

    @property
    def scale(self) -> tuple[float, float]:
        """Each x of the image becomes ``x * scale[0] + shift[0]``, y likewise; negative where it is mirrored."""
        across = self.columns.size / self.width
        return (-across if self.preprocessing.flip else across), self.rows.size / self.height

    @property
    def shift(self) -> tuple[float, float]:
        """See `scale`."""
        left, top = (float(axis.border - axis.first) for axis in (self.columns, self.rows))
        return (self.preprocessing.width - left if self.preprocessing.flip else left), top

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 of an upright RGB image, in the order of channels that the backbone takes.

        Raises:
            ValueError: the image has another size.
        """
        if image.size != (self.width, self.height):
            raise ValueError(
                f"an image must have the size of its annotations, {self.width} x {self.height}, once it is upright; "
                f"found {image.width} x {image.height}"
            )
        return _At(self)(image)

    def boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 4) boxes of the image on the canvas, not cut off at its sides."""
        return _ordered(boxes.reshape(-1, 2, 2) * self.scale + self.shift)

    def back(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, 4) boxes of the canvas in the image, cut off at its sides."""
        corners = (np.asarray(boxes, np.float64).reshape(-1, 2, 2) - self.shift) / self.scale
        return _ordered(np.clip(corners, 0, (self.width, self.height)))

    def objects(self, shown: Objects, *, least: float = LEAST) -> Objects:
        """What of the image's objects the canvas shows: each box cut off at its sides, and each mask moved.

        A box that is cut off and has a mask becomes the smallest around what is left of that. Where a side is shorter
        than ``least`` pixels of the canvas, the object is gone.

        Raises:
            ValueError: they are the objects of an image of another size.
        """
        if (shown.height, shown.width) != (self.height, self.width):
            raise ValueError(
                f"objects must be those of an image of {self.width} x {self.height}; found {shown.width} "
                f"x {shown.height}"
            )
        canvas = (self.preprocessing.width, self.preprocessing.height)
        whole = self.boxes(shown.boxes)
        boxes = np.clip(whole, 0, [*canvas, *canvas])
        masks = [mask.moved(self.scale, self.shift) for mask in shown.masks]
        for row in np.flatnonzero((boxes != whole).any(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)) if masks else ():
            left = masks[row].bounds(boxes[row])
            boxes[row] = 0 if left is None else np.clip(left, boxes[row, [0, 1, 0, 1]], boxes[row, [2, 3, 2, 3]])
        kept = np.flatnonzero(((boxes[:, 2:] - boxes[:, :2]) >= least).all(1))
        return Objects(
            height=canvas[1],
            width=canvas[0],
            boxes=boxes[kept],
            labels=shown.labels[kept],
            crowd=shown.crowd[kept],
            masks=tuple([masks[row] for row in kept]) if masks else (),
        )


class _At(Transform):
    """Extraction's own transform, told where to place the image."""

    def __init__(self, placing: Placing) -> None:
        super().__init__(placing.preprocessing)
        self._axes = placing.rows, placing.columns

    def placement(self, width: int, height: int) -> tuple[Placement, Placement]:  # noqa: ARG002 (decided already)
        return self._axes


def bordered(preprocessing: Preprocessing, canvas: int) -> Preprocessing:
    """The record that brings whole images onto a square canvas: the longer side fills it, borders on both sides alike.

    As timm's crop mode ``border``; extraction with this record sees the very pixels that `placed` gives.
    """
    return replace(
        preprocessing, resize="longer", height=canvas, width=canvas, resize_height=canvas, resize_width=canvas
    )


def placed(preprocessing: Preprocessing, height: int, width: int) -> Placing:
    """Where extraction places an image of this size."""
    rows, columns = Transform(preprocessing).placement(width, height)
    return Placing(preprocessing=preprocessing, height=height, width=width, rows=rows, columns=columns)


def mirrored(placing: Placing) -> Placing:
    """The same canvas, left to right."""
    record = placing.preprocessing
    return replace(placing, preprocessing=replace(record, flip=not record.flip))


def jittered(
    preprocessing: Preprocessing,
    height: int,
    width: int,
    generator: np.random.Generator,
    *,
    least: float,
    most: float,
) -> Placing:
    """The image's largest size on the canvas times a factor, anywhere on it; what is larger is cut, else has a border.

    From .1 to 2 it is large-scale jitter (Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method for
    Instance Segmentation, CVPR 2021), from .6 to 1 training at several scales.

    Args:
        preprocessing: its height and width are the canvas's.
        height: of the upright image.
        width: of the upright image.
        generator: three numbers are drawn from it, whatever they decide.
        least: the smallest factor.
        most: the largest factor.
    """
    factor, *place = generator.random(3).tolist()
    scale = min(preprocessing.height / height, preprocessing.width / width) * (least + (most - least) * factor)
    rows = _axis(round(height * scale), preprocessing.height, place[0])
    columns = _axis(round(width * scale), preprocessing.width, place[1])
    return Placing(preprocessing=preprocessing, height=height, width=width, rows=rows, columns=columns)


def _axis(size: int, canvas: int, place: float) -> Placement:
    """Of what is left over on an axis, or too much, this share lies before the image."""
    size = max(1, size)
    before = round((canvas - size) * place)
    return Placement(size, max(0, -before), max(0, before), min(size, canvas))


def _ordered(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2, 2) opposite corners as (n, 4) boxes."""
    return np.concatenate([corners.min(1), corners.max(1)], 1)
