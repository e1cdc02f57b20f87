"""Pillow's resampling as weights of source pixels, so that of a large resize only what is kept is computed.

Antialiased, weights in fixed point, 8 bits between the two passes. Pillow's C code (``Resample.c``, ``Geometry.c``) is
the reference, which tests compare with; it can resize to a box of the source, but not always to the same bytes.

Shapes: H, W of the source, C = 3 channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.preprocessing import Interpolation

__all__ = ["FRACTION", "Bands", "Placement", "bands", "fixed_point", "resampling", "resized_part", "source_pixels"]

FRACTION = 22
"""Bits of a weight behind the point."""

HAMMING = float(np.float32(0.54)), float(np.float32(0.46))
"""Of the window; Pillow has them in single precision."""

BLOCK = 1 << 20


class Placement(NamedTuple):
    """One axis of an image on its way: resized, then cut or given a border.

    Attributes:
        size: pixels after the resize.
        first: the first of them that is kept.
        border: pixels of border before it.
        kept: how many are kept.
    """

    size: int
    first: int
    border: int
    kept: int


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys, Cubic convolution interpolation for digital image processing, 1981, with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS: dict[Interpolation, tuple[float, Callable[[Any], Any]]] = {
    "box": (0.5, lambda x: np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)),
    "bilinear": (1.0, lambda x: np.maximum(1 - np.abs(x), 0.0)),
    "hamming": (
        1.0,
        lambda x: np.where(np.abs(x) < 1, np.sinc(x) * (HAMMING[0] + HAMMING[1] * np.cos(np.pi * x)), 0.0),
    ),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, lambda x: np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)),
}
"""How far a filter reaches, and its value, in units of the coarser of both grids."""


def resampling(
    length: int,
    size: int,
    interpolation: Interpolation,
    *,
    first: int = 0,
    kept: int | None = None,
    source: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """(kept, pixels of the source) weights that resize ``length`` pixels to ``size``, of which ``kept`` are wanted.

    Args:
        length: pixels along one axis.
        size: pixels after the resize.
        interpolation: the filter; widened by the factor of a reduction.
        first: the first pixel wanted.
        kept: how many are wanted; ``None`` for all that follow.
        source: the first and one past the last pixel of the source that have a weight, `source_pixels` or wider;
            ``None`` for all.

    >>> resampling(4, 2, "box")
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """
    return bands(length, size, interpolation, first=first, kept=kept).dense(*(source or (0, length)))


class Bands(NamedTuple):
    """Weights without the zeros of the pixels that none is of: a row for each wanted pixel.

    Attributes:
        first: (kept,) int64, the source pixel that a row begins with.
        stop: (kept,) int64, one past its last one.
        weights: (kept, width) float64; zeros behind the last one.
    """

    first: NDArray[np.int64]
    stop: NDArray[np.int64]
    weights: NDArray[np.float64]

    def dense(self, start: int, stop: int) -> NDArray[np.float64]:
        """(kept, pixels of the source) weights of the source from ``start`` to before ``stop``."""
        kept, width = self.weights.shape
        made = np.zeros((kept, stop - start + width))  # room for the zeros of rows that end with the source
        columns = (self.first - start)[:, None] + np.arange(width)
        np.put_along_axis(made, columns, self.weights, 1)
        return made[:, : stop - start]


def bands(length: int, size: int, interpolation: Interpolation, *, first: int = 0, kept: int | None = None) -> Bands:
    """The weights of `resampling`, the filter evaluated only where it is not zero: at some dozens of 4,000 pixels."""
    wanted = _wanted(length, size, interpolation, first, size - first if kept is None else kept)
    pixels = wanted.low[:, None] + np.arange(int((wanted.high - wanted.low).max()))
    weights = np.where(pixels < wanted.high[:, None], 1.0, 0.0)
    if interpolation != "nearest":
        _, value = _FILTERS[interpolation]
        wider = max(length / size, 1.0)
        weights *= value((pixels - wanted.centre[:, None] + 0.5) * (1 / wider))
        sums = weights.sum(1, keepdims=True)
        weights /= np.where(sums == 0, 1, sums)
    return Bands(wanted.low.astype(np.int64), wanted.high.astype(np.int64), weights)


def source_pixels(
    length: int, size: int, interpolation: Interpolation, *, first: int = 0, kept: int | None = None
) -> tuple[int, int]:
    """The first and one past the last pixel of the source that the wanted ones need; the arguments of `resampling`.

    >>> source_pixels(15_000, 3_840_000, "bilinear", first=1_920_000, kept=256)
    (7499, 7502)
    """
    wanted = _wanted(length, size, interpolation, first, size - first if kept is None else kept)
    return int(wanted.low.min()), int(wanted.high.max())


class _Wanted(NamedTuple):
    """Per wanted pixel: its centre in the source, and the source pixels from ``low`` to before ``high`` under it."""

    centre: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def _wanted(length: int, size: int, interpolation: Interpolation, first: int, kept: int) -> _Wanted:
    scale = length / size
    if interpolation == "nearest":
        low = np.floor(_running(scale, first, kept))
        return _Wanted(low, low, low + 1)
    centre = (np.arange(first, first + kept, dtype=np.float64) + 0.5) * scale
    reach = _FILTERS[interpolation][0] * max(scale, 1.0)
    low = np.floor(np.maximum(centre - reach + 0.5, 0))
    return _Wanted(centre, low, np.floor(np.minimum(centre + reach + 0.5, length)))


def _running(scale: float, first: int, kept: int) -> NDArray[np.float64]:
    """Half a step, and one step after another, with the errors of a running sum."""
    at = scale / 2
    for done in range(0, first, BLOCK):
        at = float(_sums(at, scale, min(BLOCK, first - done))[-1])
    return _sums(at, scale, kept - 1)


def _sums(at: float, scale: float, steps: int) -> NDArray[np.float64]:
    return np.cumsum(np.concatenate([[at], np.full(steps, scale)]))


def fixed_point(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole numbers of 2^-22, half away from zero."""
    exact = weights * (1 << FRACTION)
    return np.trunc(exact + np.copysign(0.5, exact))


def resized_part(
    image: Image.Image, rows: Placement, columns: Placement, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """(rows kept, columns kept, 3) uint8: the same pixels as resizing the whole image and cutting them out.

    Memory grows with what is kept and what it needs of the source, not with the size of the resize.

    Args:
        image: RGB.
        rows: what becomes of them; ``border`` is left out.
        columns: as ``rows``.
        interpolation: the filter.
    """
    vertical, horizontal = (
        _Pass(axis, length, to, interpolation)
        for axis, (length, to) in enumerate([(image.height, rows), (image.width, columns)])
    )
    (top, bottom), (left, right) = vertical.source, horizontal.source
    pixels = np.asarray(image.crop((left, top, right, bottom)))
    if _rows_first(image, rows.size, columns.size):
        return horizontal(vertical(pixels))
    return vertical(horizontal(pixels))


def _rows_first(image: Image.Image, height: int, width: int) -> bool:
    """Whether Pillow's first pass is the vertical one: where it takes away much more than the horizontal one."""
    return image.height - height > max(0, 2 * (image.width - width))


class _Pass(NamedTuple):
    """A resize along one axis, from ``length`` pixels, cut out."""

    axis: int
    length: int
    to: Placement
    interpolation: Interpolation

    @property
    def source(self) -> tuple[int, int]:
        """The first and one past the last pixel of the source that it needs."""
        to = self.to
        if to.size == self.length:
            return to.first, to.first + to.kept
        return source_pixels(self.length, to.size, self.interpolation, first=to.first, kept=to.kept)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8, which is ``source`` along the axis, resized along it."""
        to = self.to
        if to.size == self.length:
            return pixels
        made = bands(self.length, to.size, self.interpolation, first=to.first, kept=to.kept)
        weights = made._replace(weights=fixed_point(made.weights)).dense(*self.source)
        # Whole numbers below 2^53: exact in whatever order they are added up.
        sums = np.tensordot(weights, pixels.astype(np.float64), (1, self.axis)).astype(np.int64)
        rounded = np.clip((sums + (1 << (FRACTION - 1))) >> FRACTION, 0, 255).astype(np.uint8)
        return np.moveaxis(rounded, 0, self.axis)
