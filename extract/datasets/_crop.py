"""Records that are parts of images: the box around a query, an image without its border."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._index import file_hashes
from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.datasets.contract import Columns, DatasetSpec
from featurebank.extract.errors import DatasetError, ImageError
from featurebank.store.fingerprint import content_hash


class CropSplit(FileSplit):
    """Files of which a part is read, decoded, as RGB. EXIF orientation is not applied: boxes know nothing of it.

    Args:
        boxes: (N, 4) integers, left, top, right, bottom; the last two exclusive, and counted from the image's end where
            they are 0 or less.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        ids: Sequence[str],
        labels: NDArray[np.integer],
        class_names: Sequence[str] = (),
        columns: Columns | None = None,
        *,
        notes: Sequence[str] = (),
        folder: Path,
        files: Sequence[str],
        boxes: NDArray[np.integer],
    ) -> None:
        super().__init__(spec, ids, labels, class_names, columns, notes=notes, folder=folder, files=files)
        if boxes.shape != (len(ids), 4) or (boxes[:, :2] < 0).any():
            raise DatasetError(f"{spec.name}: expected boxes of shape ({len(ids)}, 4) from 0, found {boxes.shape}")
        self._boxes = np.ascontiguousarray(boxes, dtype="<i8")

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The records at these rows, in this order."""
        part = super().take(rows)
        part._boxes = self._boxes[rows]
        return part

    def read(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]
        """The box's pixels, (H, W, 3).

        Raises:
            OSError: the file cannot be read or decoded, or the box holds no pixel of it.
        """
        return self._cut(index, super().read(index))

    def _hashed(self) -> NDArray[np.uint8]:
        # Of the pixels, decoded once, then remembered as files' hashes are.
        rows = range(len(self))
        digest = lambda row, file: content_hash(self._cut(row, file))  # noqa: E731
        return file_hashes(self._paths(rows), parts=self._parts(rows), digest=digest)

    def _parts(self, rows: Iterable[int]) -> list[str]:
        return [f"box {self._boxes[row].tolist()}" for row in rows]

    def _cut(self, index: int, content: bytes) -> NDArray[np.uint8]:
        from featurebank.extract.decode import decode
        from featurebank.extract.preprocessing import Decode

        try:
            pixels = np.asarray(decode(content, Decode(exif=False)))
        except ImageError as error:
            raise OSError(str(error)) from error
        left, top, right, bottom = self._boxes[index].tolist()
        height, width = pixels.shape[:2]
        right, bottom = (right if right > 0 else width + right), (bottom if bottom > 0 else height + bottom)
        part: NDArray[np.uint8] = np.ascontiguousarray(pixels[top:bottom, left:right])
        if part.size == 0:
            raise OSError(f"the box {left} {top} {right} {bottom} holds no pixel of {width} x {height}")
        return part
