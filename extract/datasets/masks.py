"""Masks of objects, as annotation files hold them: polygons, or runs of pixels; read as by COCO's own API, to the bit.

Shapes: H, W an image's size; h, w a part's; K points of a polygon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["RLE", "Mask", "Moved", "Polygons"]

PIXELS: Final = 178_956_970
"""The most that a mask has: as many as an image may have."""
FINENESS: Final = 5.0
"""Parts of a pixel to which COCO's API rounds the points of polygons."""
CHARACTERS: Final = 7
"""Of five bits each, that any run of pixels takes in COCO's compressed form."""


@runtime_checkable
class Mask(Protocol):
    """The pixels of one object. Coordinates are continuous, x to the right and y down: pixel (0, 0) is from 0 to 1."""

    def full(self, height: int, width: int) -> NDArray[np.bool_]:
        """(H, W): which pixels of its image belong to the object."""
        ...

    def inside(self, box: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask as a box shows it that is cut out and resized.

        Args:
            box: x1, y1, x2, y2, continuous; outside the image is no object, and a box without area shows none.
            shape: h, w of what comes back.
        """
        ...

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Mask:
        """The mask of the object in an image of which each x became ``x * scale[0] + shift[0]``, y likewise.

        A negative factor mirrors.
        """
        ...

    def bounds(self, box: ArrayLike) -> NDArray[np.float64] | None:
        """The smallest box, (4,), that holds all of the mask inside a box; ``None`` where none of it lies there."""
        ...


@dataclass(frozen=True, eq=False)
class Polygons:
    """The inside of one or more polygons, each (K, 2) of x and y.

    Raises:
        ValueError: no polygon, one of fewer than three points, or a coordinate that is no finite number of 32 bits.
    """

    points: Sequence[NDArray[np.float64]]

    def __post_init__(self) -> None:
        for polygon in self.points:
            if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
                raise ValueError(f"a polygon must be three points or more, (K, 2); found {polygon.shape}")
            if not (np.abs(polygon) < 1 << 28).all():
                raise ValueError("the points of a polygon must be finite and below 2 ** 28; found others")
        if not self.points:
            raise ValueError("a mask must have one polygon or more; found none")

    def full(self, height: int, width: int) -> NDArray[np.bool_]:
        """(H, W): which pixels of its image belong to the object, as pycocotools' ``frPyObjects`` has it."""
        return _union(self.points, height, width)

    def inside(self, box: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask as a box shows it: its points are moved and then filled, which is exact at every size."""
        low, high = np.asarray(box, np.float64).reshape(2, 2)
        if not (low < high).all():
            return np.zeros(shape, bool)
        scale = shape[::-1] / (high - low)
        return _union([(polygon - low) * scale for polygon in self.points], *shape)

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Polygons:
        """The polygons in an image of which each x became ``x * scale[0] + shift[0]``, y likewise."""
        return Polygons([polygon * scale + shift for polygon in self.points])

    def bounds(self, box: ArrayLike) -> NDArray[np.float64] | None:
        """The smallest box around the polygons inside a box, of their points and not of pixels."""
        clipped = [part for polygon in self.points if len(part := _clipped(polygon, np.asarray(box, np.float64)))]
        if not clipped:
            return None
        points = np.concatenate(clipped)
        return np.concatenate([points.min(0), points.max(0)])


@dataclass(frozen=True, eq=False)
class RLE:
    """Runs of pixels down the columns, which are not, are, are not … part of the object.

    Attributes:
        size: H, W.
        counts: (runs,) how many pixels each has; the first may be 0.

    Raises:
        ValueError: runs that are negative or do not add up to the image.
    """

    size: tuple[int, int]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        height, width = self.size
        if not (height > 0 and width > 0 and height * width <= PIXELS):
            raise ValueError(f"the size of a mask must be 1 to {PIXELS:,} pixels; found {height} x {width}")
        if self.counts.ndim != 1 or (self.counts < 0).any() or (self.counts > height * width).any():
            raise ValueError(f"runs must be 0 to {height * width:,} pixels; found {self.counts.shape} of others")
        if (total := int(self.counts.sum())) != height * width:
            raise ValueError(f"runs must add up to {height} x {width} = {height * width:,} pixels; found {total:,}")

    @classmethod
    def of(
        cls, mask: NDArray[np.bool_], *, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
    ) -> RLE:
        """The runs of (h, w) pixels that lie at ``corner``, y and x, of an image of ``size`` that shows nothing else.

        >>> RLE.of(np.array([[True, False], [True, True]])).counts.tolist()
        [0, 2, 1, 1]
        """
        height, width = mask.shape if size is None else size
        top, left = corner
        if min(corner) < 0 or top + mask.shape[0] > height or left + mask.shape[1] > width:
            raise ValueError(f"{mask.shape} pixels at {corner} must lie inside {height} x {width}; they do not")
        edges = np.zeros((mask.shape[1], mask.shape[0] + 2), np.int8)
        edges[:, 1:-1] = mask.T
        columns, rows = np.nonzero(np.diff(edges))
        places = (columns + left) * height + rows + top
        # A run that ends at the bottom of a column and one that begins at the top of the next are one run.
        again = np.flatnonzero(np.diff(places) == 0)
        places = np.delete(places, np.concatenate([again, again + 1]))
        ends = [height * width] if not len(places) or places[-1] < height * width else []
        stops = np.concatenate([places, ends]).astype(np.int64)
        return cls((height, width), stops - np.concatenate([[0], stops[:-1]]))

    @classmethod
    def parsed(cls, text: str | bytes, size: tuple[int, int]) -> RLE:
        """The runs of COCO's compressed form.

        Raises:
            ValueError: it is cut short, has other characters, or does not fit the size.
        """
        content = text.encode("ascii") if isinstance(text, str) else text
        codes = np.frombuffer(content, np.uint8).astype(np.int64) - 48
        if not len(codes) or (codes < 0).any() or (codes > 63).any() or codes[-1] & 32:
            raise ValueError("compressed runs must be whole and of the characters '0' to 'o'; found others")
        last = np.flatnonzero(codes & 32 == 0)
        first = np.concatenate([[0], last[:-1] + 1])
        lengths = last - first + 1
        if lengths.max() > CHARACTERS:
            raise ValueError(f"a compressed run must have at most {CHARACTERS} characters; found {lengths.max()}")
        within = np.arange(len(codes)) - np.repeat(first, lengths)
        counts = np.add.reduceat((codes & 31) << 5 * within, first)
        counts -= np.where(codes[last] & 16, np.int64(1) << 5 * lengths, 0)
        # From the fourth on, a run is what it differs by from the last but one.
        counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
        return cls(size, counts)

    @property
    def text(self) -> bytes:
        """The runs in COCO's compressed form, as pycocotools' ``encode`` gives them."""
        steps = self.counts.copy()
        steps[3:] -= self.counts[1:-2]
        places = np.arange(CHARACTERS)
        codes = (steps[:, None] >> 5 * places) & 31
        rest = steps[:, None] >> 5 * (places + 1)
        more = np.where(codes & 16, rest != -1, rest != 0)
        used = places <= np.argmin(more, axis=1)[:, None]
        characters: NDArray[np.uint8] = (codes + 32 * more + 48)[used].astype(np.uint8)
        return characters.tobytes()

    @property
    def area(self) -> int:
        """How many pixels the object has."""
        return int(self.counts[1::2].sum())

    def full(self, height: int, width: int) -> NDArray[np.bool_]:
        """(H, W): which pixels of its image belong to the object; resized where the image has another size."""
        if (height, width) != self.size:
            return self.inside((0, 0, self.size[1], self.size[0]), (height, width))
        return np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts).reshape(width, height).T

    def inside(self, box: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask as a box shows it: where at least half of the area that a pixel is made from is the object's."""
        x1, y1, x2, y2 = np.asarray(box, np.float64).tolist()
        if not (x1 < x2 and y1 < y2):
            return np.zeros(shape, bool)
        left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
        part = self.full(*self.size)[top : max(int(np.ceil(y2)), 0), left : max(int(np.ceil(x2)), 0)]
        if not part.any():
            return np.zeros(shape, bool)
        rows = _gathered(part.astype(np.float32), y1 - top, y2 - top, shape[0])
        covered = _gathered(rows.T, x1 - left, x2 - left, shape[1]).T
        inside: NDArray[np.bool_] = covered >= (0.5 - 1e-9) * (x2 - x1) * (y2 - y1) / (shape[0] * shape[1])
        return inside

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Moved:
        """The mask in an image of which each x became ``x * scale[0] + shift[0]``, y likewise."""
        return Moved(self, scale, shift)

    def bounds(self, box: ArrayLike) -> NDArray[np.float64] | None:
        """The smallest box around the pixels of the object, each cut off at the box."""
        low, high = np.asarray(box, np.float64).reshape(2, 2)
        first = np.clip(np.floor(low), 0, self.size[::-1]).astype(np.int64)
        part = self.full(*self.size)[first[1] : max(int(np.ceil(high[1])), 0), first[0] : max(int(np.ceil(high[0])), 0)]
        if not part.any():
            return None
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        corners = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]) + first
        return np.concatenate([np.maximum(corners[0], low), np.minimum(corners[1], high)])


@dataclass(frozen=True, eq=False)
class Moved:
    """A mask in another image: nothing is resized until somebody asks for pixels, and then from the first ones.

    Attributes:
        mask: as it was.
        scale: each x became ``x * scale[0] + shift[0]``, y likewise.
        shift: see ``scale``.
    """

    mask: Mask
    scale: tuple[float, float]
    shift: tuple[float, float]

    def full(self, height: int, width: int) -> NDArray[np.bool_]:
        """(H, W): which pixels of the new image belong to the object."""
        return self.inside((0, 0, width, height), (height, width))

    def inside(self, box: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask as a box of the new image shows it."""
        mask = self.mask.inside(self._before(box), shape)
        return mask[:: 1 if self.scale[1] > 0 else -1, :: 1 if self.scale[0] > 0 else -1]

    def moved(self, scale: tuple[float, float], shift: tuple[float, float]) -> Moved:
        """The mask after both movements, as one."""
        (sx, sy), (tx, ty) = scale, shift
        return Moved(
            self.mask,
            (self.scale[0] * sx, self.scale[1] * sy),
            (self.shift[0] * sx + tx, self.shift[1] * sy + ty),
        )

    def bounds(self, box: ArrayLike) -> NDArray[np.float64] | None:
        """The smallest box around the mask inside a box of the new image."""
        before = self.mask.bounds(self._before(box))
        if before is None:
            return None
        corners = before.reshape(2, 2) * self.scale + self.shift
        return np.concatenate([corners.min(0), corners.max(0)])

    def _before(self, box: ArrayLike) -> NDArray[np.float64]:
        corners = (np.asarray(box, np.float64).reshape(2, 2) - self.shift) / self.scale
        return np.concatenate([corners.min(0), corners.max(0)])


def _gathered(pixels: NDArray[np.floating], low: float, high: float, n: int) -> NDArray[np.float64]:
    """What of (P, …) values lies in each of n equal parts from low to high along the first axis; outside is nothing."""
    sums = np.concatenate([np.zeros((1, *pixels.shape[1:])), np.cumsum(pixels, 0, np.float64)])
    edges = np.clip(low + (high - low) * np.arange(n + 1) / n, 0, len(pixels))
    whole = np.minimum(edges.astype(np.int64), len(pixels) - 1)
    return np.diff(sums[whole] + (edges - whole)[:, None] * pixels[whole], axis=0)


def _union(polygons: Sequence[NDArray[np.float64]], height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        mask |= _filled(polygon, height, width)
    return mask


def _filled(polygon: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels inside a polygon by the rule of COCO's ``rleFrPoly``.

    Its border is drawn on a grid five times as fine, a point a step of each edge's longer side; where it passes the
    middle of a column of pixels, the column changes from outside to inside or back. Only those points are computed:
    the work grows with the columns of the image, not with how far the polygon reaches.
    """
    columns, v = _crossings(np.trunc(FINENESS * polygon + 0.5), width)
    rows = np.ceil(np.clip((v + 0.5) / FINENESS - 0.5, 0, height))
    places = np.sort(columns * height + rows.astype(np.int64))
    runs = np.diff(np.concatenate([[0], places, [height * width]]))
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _crossings(corners: NDArray[np.float64], width: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where a closed line on the fine grid passes the middle of columns: each column, and the upper point's v."""
    edges = np.stack([corners, np.roll(corners, -1, 0)], 1)
    dx, dy = np.abs(edges[:, 1] - edges[:, 0]).T
    backwards = np.where(dx >= dy, edges[:, 0, 0] > edges[:, 1, 0], edges[:, 0, 1] > edges[:, 1, 1])
    edges[backwards] = edges[backwards, ::-1]
    ends = np.sort(edges[:, :, 0], axis=1)
    # The middle of column x lies between u = 5 x + 2 and the next.
    first = np.clip(np.ceil((ends[:, 0] - 2) / FINENESS), 0, width).astype(np.int64)
    last = np.clip(np.floor((ends[:, 1] - 3) / FINENESS), -1, width - 1).astype(np.int64)
    n = np.maximum(last - first + 1, 0)
    edge = np.repeat(np.arange(len(edges)), n)
    column = np.arange(len(edge)) - np.repeat(np.cumsum(n) - n, n) + first[edge]
    u = column * FINENESS + 2
    (xs, ys), (xe, ye) = edges[edge, 0].T, edges[edge, 1].T
    flat = dx[edge] >= dy[edge]
    # Both slopes are finite where they are used: an edge that passes a column is no single point.
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(flat, (ye - ys) / (xe - xs), (xe - xs) / (ye - ys))
        along = np.floor((u + 0.5 - xs) / slope)
    level = np.minimum(np.trunc(ys + slope * (u - xs) + 0.5), np.trunc(ys + slope * (u + 1 - xs) + 0.5))
    # Rounding may put the step off by one: it is the last point that is not yet on the other side.
    steps = along - 1 + sum(_before(xs, slope, along + k, u) for k in (0, 1))
    return column, np.where(flat, level, ys + steps)


def _before(
    xs: NDArray[np.float64], slope: NDArray[np.float64], step: NDArray[np.float64], u: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether a steep edge's point at a step is still on the side of the column where the edge begins."""
    with np.errstate(invalid="ignore"):
        here = np.trunc(xs + slope * step + 0.5)
    return np.where(slope > 0, here <= u, here > u)


def _clipped(polygon: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """The polygon's part inside a box, side by side (Sutherland and Hodgman); no points where none is."""
    for axis, bound, sign in ((0, box[0], 1), (1, box[1], 1), (0, box[2], -1), (1, box[3], -1)):
        after = np.roll(polygon, -1, 0)
        depth, depth_after = sign * (polygon[:, axis] - bound), sign * (after[:, axis] - bound)
        crosses = (depth > 0) != (depth_after > 0)
        share = np.divide(depth, depth - depth_after, out=np.zeros_like(depth), where=crosses)
        between = polygon + share[:, None] * (after - polygon)
        between[:, axis] = bound
        both = np.stack([polygon, between], 1)
        polygon = both[np.stack([depth > 0, crosses], 1)]
    return polygon
