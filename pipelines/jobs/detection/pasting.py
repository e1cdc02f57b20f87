"""A small mask of a box becomes runs of pixels of its image, without an image of the whole size."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.extract.datasets.masks import RLE

__all__ = ["encode"]


def encode(mask: NDArray[np.floating], box: ArrayLike, height: int, width: int, *, threshold: float = 0.5) -> RLE:
    """The pixels of an image (H, W) where a mask over a box, resized, is above a threshold; as torchvision pastes it.

    The mask gets a border of zeros and is resized bilinearly to the whole pixels that the box, larger by that border,
    touches. What lies outside the image is cut off.

    Args:
        mask: (h, w) probabilities, such as 28 x 28.
        box: (4,) x1, y1, x2, y2, continuous.
        height: H.
        width: W.
        threshold: from 0 to 1, exclusive.

    Raises:
        ValueError: the box is not finite, or turned over.
    """
    import torch
    from torch.nn.functional import interpolate, pad

    # float32, as torchvision has its boxes: where an edge falls on a whole pixel, the last bit decides.
    x1, y1, x2, y2 = np.asarray(box, np.float32)
    if not (np.isfinite([x1, y1, x2, y2]).all() and x1 <= x2 and y1 <= y2):
        raise ValueError(f"a box must be finite, with x1 <= x2 and y1 <= y2; found {[x1, y1, x2, y2]}")
    (top, bottom), (left, right) = (
        _widened(low, high, pixels) for low, high, pixels in ((y1, y2, mask.shape[0]), (x1, x2, mask.shape[1]))
    )
    rows, columns = (slice(max(-low, 0), max(size - low, 0)) for low, size in ((top, height), (left, width)))
    small = pad(torch.from_numpy(np.ascontiguousarray(mask, np.float32)), (1, 1, 1, 1))
    size = (max(bottom - top + 1, 1), max(right - left + 1, 1))
    pixels = interpolate(small[None, None], size=size, mode="bilinear", align_corners=False)[0, 0, rows, columns]
    corner = (min(max(top, 0), height), min(max(left, 0), width))
    return RLE.of((pixels > threshold).numpy(), corner=corner, size=(height, width))


def _widened(low: np.float32, high: np.float32, pixels: int) -> tuple[int, int]:
    """The first and last pixel of an edge that is longer by one of ``pixels`` on both sides, toward zero."""
    middle, half = (high + low) * np.float32(0.5), (high - low) * np.float32(0.5) * np.float32((pixels + 2) / pixels)
    return int(middle - half), int(middle + half)
