"""Resize, centre crop and mirroring of one image, pixel for pixel what torchvision and timm do with a PIL image.

Shapes: H, W the preprocessing's height and width.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.errors import ImageError
from featurebank.extract.preprocessing import Interpolation, Preprocessing
from featurebank.extract.resampling import Placement, resized_part

__all__ = ["Transform", "normalisation"]

WHOLE: Final = 1 << 24
"""Pixels up to which all of an image is resized by Pillow before the crop; of more, only what the crop keeps."""
LONGEST: Final = 100_000_000

_RESAMPLING: Final[dict[Interpolation, Image.Resampling]] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

_WORDS: Final[Mapping[str, Sequence[str]]] = {
    "interpolation": tuple(_RESAMPLING),
    "resize": ("shorter", "exact", "longer", "none"),
    "margins": ("round", "floor"),
    "channels": ("RGB", "BGR"),
}


class Transform:
    """Image to network input, up to the normalisation, which the engine does on whole batches.

    Equal, pixel by pixel, to torchvision's ``ImageClassification`` preset and timm's ``create_transform`` in evaluation
    (crop modes ``center``, ``squash`` and ``border``). One difference: timm fails on an image so narrow that a side
    would become 0 pixels long; here that side becomes 1.

    Args:
        preprocessing: what the weights expect.

    Raises:
        ValueError: a size below 1, or an unknown resize mode, interpolation, rounding of margins, order of channels or
            flip.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        p = preprocessing
        if min(p.height, p.width, p.resize_height, p.resize_width) < 1:
            raise ValueError(
                f"sizes must be at least 1, got crop {p.height}x{p.width}, resize {p.resize_height}x{p.resize_width}"
            )
        # Records are also read from files, where a word that is not known must not mean the other one of two.
        for field, known in _WORDS.items():
            if getattr(p, field) not in known:
                raise ValueError(f"{field} must be one of {', '.join(known)}, got {getattr(p, field)!r}")
        if not isinstance(p.flip, bool):
            raise ValueError(f"flip must be true or false, got {p.flip!r}")
        self.preprocessing = preprocessing
        self._resample = _RESAMPLING[p.interpolation]

    @property
    def geometry(self) -> Hashable:
        """What two records must agree on to share the pixels (`pixels`), besides how the image was decoded."""
        p = self.preprocessing
        resize = None if p.resize == "none" else (p.resize, p.resize_height, p.resize_width, p.interpolation)
        return (resize, p.height, p.width, p.margins, p.fill)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 in the record's channel order, mirrored if it says so, read-only or not, of an RGB image.

        Raises:
            ImageError: a side of the resized image would be longer than 100 million pixels.
        """
        return self.ordered(self.pixels(image))

    def ordered(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`pixels` in the record's channel order, mirrored where it says so."""
        p = self.preprocessing
        if p.flip:
            rgb = rgb[:, ::-1]
        return np.ascontiguousarray(rgb if p.channels == "RGB" else rgb[..., ::-1])

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """As calling it, always in RGB order and never mirrored: what all records of one `geometry` share."""
        rows, columns = self.placement(image.width, image.height)
        p = self.preprocessing
        if image.size == (columns.size, rows.size) or columns.size * rows.size <= WHOLE:
            kept = self._cropped(image, rows, columns)
        else:
            kept = resized_part(image, rows, columns, p.interpolation)
        if kept.shape[:2] == (p.height, p.width):
            return kept
        canvas = np.full((p.height, p.width, 3), p.fill, np.uint8)
        canvas[rows.border : rows.border + rows.kept, columns.border : columns.border + columns.kept] = kept
        return canvas

    def _cropped(self, image: Image.Image, rows: Placement, columns: Placement) -> NDArray[np.uint8]:
        if image.size != (columns.size, rows.size):
            image = image.resize((columns.size, rows.size), self._resample)
        if image.size != (columns.kept, rows.kept):
            image = image.crop((columns.first, rows.first, columns.first + columns.kept, rows.first + rows.kept))
        return np.asarray(image)

    def placement(self, width: int, height: int) -> tuple[Placement, Placement]:
        """What becomes of the rows, and of the columns, of an image of this size.

        Raises:
            ImageError: a side of the resized image would be longer than 100 million pixels.
        """
        p = self.preprocessing
        wide, high = self._resized_size(width, height)
        if max(wide, high) > max(width, height, LONGEST):
            raise ImageError(f"{width}x{height} pixels, resized to {wide}x{high}: more than {LONGEST} along a side")
        return Placement(high, *_centre(high, p.height, p.margins)), Placement(wide, *_centre(wide, p.width, p.margins))

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        p = self.preprocessing
        if p.resize == "none":
            return width, height
        if p.resize == "exact":
            return p.resize_width, p.resize_height
        if p.resize == "shorter" and p.resize_height == p.resize_width:
            short, long = sorted((width, height))
            # The quotient is taken of the product, and truncated: torchvision's order of operations.
            other = int(p.resize_height * long / short)
            return (p.resize_height, other) if width <= height else (other, p.resize_height)
        ratios = (height / p.resize_height, width / p.resize_width)
        ratio = min(ratios) if p.resize == "shorter" else max(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def _centre(size: int, crop: int, margins: str) -> tuple[int, int, int]:
    """Along one axis: first pixel kept, pixels of border before it, pixels kept.

    Python's round, to even, decides odd margins, as in torchvision, unless they are to be cut off.
    """
    if size < crop:
        return 0, (crop - size) // 2, size
    return (size - crop) // 2 if margins == "floor" else round((size - crop) / 2.0), 0, crop


def normalisation(preprocessing: Preprocessing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``scale`` and ``shift``, (3,) float32 in channel order: ``x * scale + shift == (x / 255 - mean) / std``.

    Raises:
        ValueError: not one value a channel, or a standard deviation that is not positive.

    >>> record = Preprocessing(height=1, width=1, resize_height=1, resize_width=1, interpolation="bilinear",
    ...                        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> scale, shift = normalisation(record)
    >>> np.array([0, 255], np.uint8) * scale[0] + shift[0]
    array([-1.,  1.], dtype=float32)
    """
    mean = np.asarray(preprocessing.mean, np.float64)
    std = np.asarray(preprocessing.std, np.float64)
    if mean.shape != (3,) or std.shape != (3,):
        raise ValueError(f"mean and std must be three numbers each, got {preprocessing.mean} and {preprocessing.std}")
    if not (std > 0).all():
        raise ValueError(f"std must be positive, got {preprocessing.std}")
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
