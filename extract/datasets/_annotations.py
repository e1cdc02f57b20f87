"""The annotations of all images of a split: read once, cleaned once, held as a few arrays.

Shapes: N images, M objects of all images together.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.extract.datasets._reading import read_file
from featurebank.extract.datasets._records import ArraySplit, FileSplit, ReaderSplit, Records
from featurebank.extract.datasets.masks import RLE, Polygons
from featurebank.extract.datasets.objects import Objects
from featurebank.extract.errors import DatasetError, ImageError

MOST: Final = 10_000
"""Objects of one image; the most that sets of aerial images have are some thousands."""
LONGEST: Final = 1 << 28
"""Pixels of a side; more is no size."""
SLIGHT: Final = 1.0
"""Pixels by which boxes reach beyond their image in most sets, of which no note is made."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What N images show.

    Attributes:
        sizes: (N, 2) height and width as the annotations have them; 0 where nobody can tell.
        starts: (N + 1,) where each image's objects begin.
        boxes: (M, 4), sorted by image.
        labels: (M,).
        crowd: (M,).
        masks: M of them, or none.
        judged: of each image the classes that were looked for; or none at all, where all were.
        notes: what was dropped or clipped.
    """

    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    masks: Sequence[Polygons | RLE] = ()
    judged: Sequence[NDArray[np.int64]] = ()
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N,) how many objects each image has."""
        return np.diff(self.starts)

    def shown(self, n_classes: int) -> NDArray[np.int64]:
        """(N, L) of 0 and 1: which classes each image shows, in a crowd or not."""
        labels = np.zeros((len(self), n_classes), np.int64)
        labels[np.repeat(np.arange(len(self)), self.counts), self.labels] = 1
        return labels

    def digest(self) -> str:
        """Hex SHA-256 of all of it but the notes."""
        digest = hashlib.sha256()
        for values in (self.sizes, self.starts, self.boxes, self.labels, self.crowd, *self.judged):
            digest.update(repr(values.shape).encode() + values.tobytes())
        for mask in self.masks:
            parts = [mask.counts] if isinstance(mask, RLE) else mask.points
            digest.update(repr([type(mask).__name__, *(part.shape for part in parts)]).encode())
            for part in parts:
                digest.update(part.tobytes())
        return digest.hexdigest()

    def take(self, rows: NDArray[np.int64]) -> Annotations:
        """The images at these rows."""
        counts = self.counts[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        chosen = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return replace(
            self,
            sizes=self.sizes[rows],
            starts=starts,
            boxes=self.boxes[chosen],
            labels=self.labels[chosen],
            crowd=self.crowd[chosen],
            masks=[self.masks[row] for row in chosen] if self.masks else (),
            judged=[self.judged[row] for row in rows] if self.judged else (),
        )

    def of(self, index: int, size: tuple[int, int]) -> Objects:
        """One image's objects, given its height and width."""
        part = slice(int(self.starts[index]), int(self.starts[index + 1]))
        boxes = self.boxes[part]
        return Objects(
            height=size[0],
            width=size[1],
            boxes=boxes,
            labels=self.labels[part],
            crowd=self.crowd[part],
            masks=tuple(self.masks[part]),
            judged=self.judged[index] if self.judged else None,
        )


def gathered(
    where: object,
    images: Sequence[str],
    *,
    sizes: ArrayLike,
    rows: ArrayLike,
    boxes: ArrayLike,
    labels: ArrayLike,
    crowd: ArrayLike,
    masks: Sequence[Polygons | RLE] = (),
    passed: Counter[str] | None = None,
) -> Annotations:
    """The annotations of N images, of which only what an image can show is left; the rest is counted.

    Args:
        where: names the file or set in errors.
        images: N names, for errors.
        sizes: (N, 2) height and width.
        rows: (M,) the image of each object.
        boxes: (M, 4) x1, y1, x2, y2, whatever they are.
        labels: (M,).
        crowd: (M,).
        masks: M of them, or none.
        passed: what was dropped before, in words, with how many of each.

    Raises:
        DatasetError: an image has more than 10,000 objects: which.
    """
    size, image = np.asarray(sizes, np.int64).reshape(-1, 2), np.asarray(rows, np.int64)
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    counts = np.bincount(image, minlength=len(images))
    if len(counts) and counts.max() > MOST:
        worst = int(counts.argmax())
        raise DatasetError(
            f"{where}: an image must have at most {MOST:,} objects; found {counts[worst]:,} in {images[worst]}: "
            "cut it into tiles, or leave it out"
        )
    faults = Counter(passed or ())
    kept = np.ones(len(corners), bool)

    def drop(wrong: NDArray[np.bool_], words: str) -> None:
        if n := int((wrong & kept).sum()):
            faults[words] += n
            kept[wrong] = False

    limits = size[image][:, ::-1].astype(np.float64)
    limits[limits <= 0] = np.inf
    low, high = corners[:, :2], corners[:, 2:]
    drop(np.any(~np.isfinite(corners), 1), "dropped: a box that is no finite numbers")
    drop(np.any(high < low, 1), "dropped: a box that ends before it begins")
    drop(np.any(high == low, 1), "dropped: a box without area")
    drop(np.any((high <= 0) | (low >= limits), 1), "dropped: a box outside its image")
    clipped = np.concatenate([np.clip(low, 0, limits), np.clip(high, 0, limits)], 1)
    far = np.abs(clipped - corners).max(1, initial=0) > SLIGHT
    if n := int((far & kept).sum()):
        faults["clipped: a box that reaches beyond its image"] += n
    order = np.flatnonzero(kept)[np.argsort(image[kept], kind="stable")]
    return Annotations(
        sizes=size,
        starts=np.concatenate([[0], np.cumsum(np.bincount(image[order], minlength=len(images)))]),
        boxes=clipped[order],
        labels=np.asarray(labels, np.int64)[order],
        crowd=np.asarray(crowd, bool)[order],
        masks=[masks[row] for row in order] if len(masks) else (),
        notes=[f"{n:,} {'object' if n == 1 else 'objects'} {words}" for words, n in sorted(faults.items())],
    )


def completed(sizes: ArrayLike, root: Path, files: Sequence[str]) -> NDArray[np.int64]:
    """(N, 2) heights and widths; where annotations do not say (0), the image's own, or 0 if it cannot be read."""
    from featurebank.extract.decode import upright_size

    given = np.asarray(sizes, np.float64).reshape(-1, 2)
    known = np.where((given >= 1) & (given <= LONGEST), given, 0).astype(np.int64)
    for row in np.flatnonzero((known <= 0).any(1)).tolist():
        try:
            known[row] = upright_size(read_file(root / files[row]))[1]
        except (OSError, ImageError):  # Told when the image, or what it shows, is asked for.
            known[row] = 0
    return known


class _WithObjects(Records):
    """What splits with objects add to their kind of records."""

    _annotations: Annotations

    @property
    def object_notes(self) -> Sequence[str]:
        """What of the annotations was dropped, clipped or taken to mean what, with counts."""
        return self._annotations.notes

    def annotations_digest(self) -> str:
        """Hex SHA-256 of all objects as they are annotated."""
        return self._annotations.digest()

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The records at these rows, in this order."""
        part = super().take(rows)
        part._annotations = self._annotations.take(rows)
        return part


class AnnotatedFiles(_WithObjects, FileSplit):
    """Image files whose objects are known; the arguments are those of `FileSplit`."""

    def __init__(self, *arguments: Any, annotations: Annotations, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._annotations = annotations
        self._looked_at: set[str] = set()

    def objects(self, index: int) -> Objects:
        """What record ``index`` shows.

        Raises:
            DatasetError: the annotations are those of an image of another size.
            OSError: the file cannot be read.
        """
        from featurebank.extract.decode import upright_size

        height, width = self._annotations.sizes[index].tolist()
        path = self.path(index)
        if path not in self._looked_at:
            try:
                stored, upright = upright_size(self.read(index))
            except ImageError as error:
                raise OSError(f"{path}: {error}") from error
            if (height, width) != upright:
                raise DatasetError(_other_size(path, (height, width), stored, upright))
            self._looked_at.add(path)
        return self._annotations.of(index, (height, width))


class AnnotatedReader(_WithObjects, ReaderSplit):
    """Images that a function reads, whose objects are known; the arguments are those of `ReaderSplit`."""

    def __init__(self, *arguments: Any, annotations: Annotations, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._annotations = annotations

    def objects(self, index: int) -> Objects:
        """What record ``index`` shows."""
        height, width = self._annotations.sizes[index].tolist()
        return self._annotations.of(index, (height, width))


class AnnotatedArray(AnnotatedReader, ArraySplit):
    """Rows of an array whose objects are known; the arguments are those of `ArraySplit`."""


def _other_size(path: str, expected: tuple[int, ...], stored: tuple[int, int], upright: tuple[int, int]) -> str:
    height, width = expected
    if expected == stored:
        return (
            f"{path}: annotations must be those of the upright image, {upright[1]} x {upright[0]} pixels; found "
            f"{width} x {height}, the image as it lies before its EXIF orientation is applied: write the images anew "
            "without an EXIF orientation, or annotate them upright"
        )
    return (
        f"{path}: annotations must be those of this image, {upright[1]} x {upright[0]} pixels; found {width} x {height}"
        ": give the images that were annotated"
    )
