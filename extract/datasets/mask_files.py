"""Semantic masks that lie as files beside the images of a split: a class for every pixel, in a PNG an image.

Shapes: H, W an image's size, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._reading import read_file
from featurebank.extract.datasets.contract import Split
from featurebank.extract.datasets.objects import Objects
from featurebank.extract.errors import DatasetError, ImageError, fault

__all__ = ["BACKGROUND", "IGNORED", "MaskFiles"]

IGNORED: Final = 255
"""The value of pixels that do not count."""
BACKGROUND: Final = "background"
"""What the class of pixels of no object is called."""
STEM, WHOLE, SPLIT = "{stem}", "{id}", "{split}"


class MaskFiles:
    """A split with a mask of every image, an `Annotated` one without any object: all else is the split's own.

    Args:
        split: opened.
        template: of the masks' paths, with ``{stem}``, the last part of an image's id without its ending, or ``{id}``,
            all parts, in it, and ``{split}`` where that is wanted.
        names: of the values 0 … K - 1.

    Raises:
        DatasetError: every image would have the same mask; or no name, the same one twice, or too many.
    """

    object_notes: Sequence[str] = ()

    def __init__(self, split: Split, template: str, names: Sequence[str]) -> None:
        if STEM not in template and WHOLE not in template:
            raise DatasetError(f"a template of masks must have {STEM} or {WHOLE} in it; found {template}")
        if not 0 < len(set(names)) == len(names) <= IGNORED:
            raise DatasetError(f"masks must have 1 to {IGNORED} classes of different names; found {len(names)}")
        self.template, self.class_names = template, tuple(names)
        self.spec, self.ids, self.labels = split.spec, split.ids, split.labels
        self.columns, self.notes = split.columns, split.notes
        self.read, self.content_hashes = split.read, split.content_hashes

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, index: int) -> Path:
        """Where the mask of record ``index`` is."""
        whole = PurePosixPath(self.ids[index]).with_suffix("")
        place = self.template.replace(SPLIT, self.spec.split).replace(WHOLE, str(whole))
        return Path(place.replace(STEM, whole.name))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """(H, W) the class of every pixel of record ``index``, or `IGNORED`.

        Raises:
            DatasetError: no file, none of 8-bit numbers, or a number that is no class.
        """
        from PIL import Image

        from featurebank.extract.decode import quiet

        path = self.path(index)
        try:
            with quiet(), Image.open(BytesIO(read_file(path)), formats=["PNG"]) as image:
                if image.mode not in {"L", "P"}:
                    raise DatasetError(f"{path}: a mask must have one 8-bit number a pixel; found mode {image.mode}")
                mask = np.array(image, np.uint8)
        except DatasetError:
            raise
        except Exception as error:  # Damaged files make Pillow raise nearly every built-in exception.
            raise DatasetError(
                f"{path}: the mask of {self.ids[index]!r} must be a PNG; found: {fault(error)}"
            ) from error
        values = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=IGNORED + 1)[:IGNORED])
        if values.max(initial=0) >= len(self.class_names):
            raise DatasetError(
                f"{path}: a mask must have the numbers 0 to {len(self.class_names) - 1}, or {IGNORED} where a pixel "
                f"does not count; found {values.max()}: name all classes"
            )
        return mask

    def objects(self, index: int) -> Objects:
        """The size of record ``index``, and no object.

        Raises:
            DatasetError: its mask has another size, or cannot be read.
            OSError: it cannot be read itself.
        """
        from featurebank.extract.decode import upright_size

        mask, what = self.mask(index), self.ids[index]
        try:
            _, (height, width) = upright_size(self.read(index))
        except ImageError as error:
            raise OSError(f"{what}: {error}") from error
        if mask.shape != (height, width):
            raise DatasetError(
                f"{self.path(index)}: the mask of {what!r} must have its size, {width} x {height} once it is upright; "
                f"found {mask.shape[1]} x {mask.shape[0]}"
            )
        none = np.zeros(0)
        return Objects(
            height=height, width=width, boxes=none.reshape(0, 4), labels=none.astype(np.int64), crowd=none.astype(bool)
        )

    def annotations_digest(self) -> str:
        """Hex SHA-256 of all masks as they lie there, in order.

        Raises:
            DatasetError: one cannot be read.
        """
        digest = hashlib.sha256()
        for index in range(len(self)):
            try:
                digest.update(hashlib.sha256(read_file(self.path(index))).digest())
            except OSError as error:
                raise DatasetError(
                    f"{self.ids[index]!r} must have a mask; found none that can be read: {error}"
                ) from error
        return digest.hexdigest()
