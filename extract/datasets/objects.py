"""What images show, object by object: boxes, classes, masks; what detection and instance segmentation are about.

Shapes: n objects, H, W an image's size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets.contract import Split
from featurebank.extract.datasets.masks import RLE, Mask, Moved, Polygons
from featurebank.extract.errors import DatasetError

__all__ = ["RLE", "Annotated", "Mask", "Moved", "Objects", "Polygons", "annotated", "objects_digest"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """What one image shows.

    Coordinates are continuous: the first pixel is from 0 to 1, and a box over a whole image is 0, 0, W, H.

    Attributes:
        height: H, of the upright image as it is decoded.
        width: W.
        boxes: (n, 4) float64, x1, y1, x2, y2, within the image, x1 < x2 and y1 < y2.
        labels: (n,) int64, index into the split's ``class_names``.
        crowd: (n,) bool: what is no single object, or too hard to tell; out of training, and in evaluation neither
            missed where it is not found nor false where it is.
        masks: n of them; or none, where the set has boxes alone.
        judged: the classes that were looked for, where that was not done for all: of any other a detection is neither
            right nor wrong.

    Raises:
        ValueError: shapes that do not fit each other, or a box that is not as it must be.
    """

    height: int
    width: int
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    masks: tuple[Mask, ...] = ()
    judged: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.labels.shape != (n,) or self.crowd.shape != (n,):
            raise ValueError(
                f"boxes, labels and crowd must be (n, 4), (n,) and (n,); found {self.boxes.shape}, "
                f"{self.labels.shape} and {self.crowd.shape}"
            )
        if len(self.masks) not in {0, n}:
            raise ValueError(f"masks must be one an object ({n}) or none at all; found {len(self.masks)}")
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        # Written so that NaN fails.
        if not ((low >= 0) & (low < high) & (high <= (self.width, self.height))).all():
            raise ValueError(
                f"boxes must have x1 < x2 and y1 < y2 within {self.width} x {self.height}; found others: clip them"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Objects:
        """The objects at these rows, or where a mask of (n,) is true."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        masks = tuple([self.masks[row] for row in rows]) if self.masks else ()
        return replace(self, boxes=self.boxes[rows], labels=self.labels[rows], crowd=self.crowd[rows], masks=masks)


@runtime_checkable
class Annotated(Split, Protocol):
    """A split whose images' objects are known."""

    object_notes: Sequence[str]
    """What of the annotations was dropped, clipped or taken to mean what, with counts. One line each."""

    def objects(self, index: int) -> Objects:
        """What record ``index`` shows; an image without any object is as good as any.

        Raises:
            DatasetError: the annotations are those of an image of another size: one that lies on its side by its EXIF
                orientation, or was resized.
            OSError: the file cannot be read.
        """
        ...

    def annotations_digest(self) -> str:
        """Hex SHA-256 of all objects as they are annotated, in order; no image is read for it."""
        ...


def annotated(split: Any) -> Annotated:
    """A split whose objects are known.

    Raises:
        DatasetError: it has none.
    """
    if not hasattr(split, "objects"):
        raise DatasetError(
            f"{split.spec.name}/{split.spec.split} must have objects with boxes or masks; found none: give one "
            "such as coco:FILE.json, or of the kind detection or instance segmentation (featurebank datasets)"
        )
    own: Annotated = split
    return own


def objects_digest(split: Annotated) -> str:
    """Hex SHA-256 of a split's class names and of all its objects, in order: what results of detection depend on."""
    return hashlib.sha256("\0".join([*split.class_names, split.annotations_digest()]).encode()).hexdigest()
