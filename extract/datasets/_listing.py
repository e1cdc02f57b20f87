"""What a loader gives: files or pixels with labels, in an order that no file system decides.

Shapes: N records, L labels a record, H, W an image's size.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.extract.datasets._annotations import AnnotatedFiles, Annotations
from featurebank.extract.datasets._crop import CropSplit
from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.datasets.contract import Columns, DatasetSpec
from featurebank.extract.errors import DatasetError

NAMED = 10


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The records of a split whose images are files.

    Attributes:
        files: N paths below the dataset's root, with ``/``.
        labels: (N,) class indices, -1 for none; or (N, L) zeros and ones. Nothing: no record has a label.
        class_names: K names, index = label; none where the official files have none.
        columns: extra columns, each (N,): numbers, booleans or fixed-width strings.
        ids: N distinct names; the files by default.
        boxes: (N, 4) integers, left, top, right, bottom: the part of each image that is the record (see `CropSplit`).
        annotations: what the images show, object by object.
        seen: the files come from listing the folders just now, so nobody need look again.
    """

    files: Sequence[str]
    labels: ArrayLike | None = None
    class_names: Sequence[str] = ()
    columns: Columns = field(default_factory=dict)
    ids: Sequence[str] | None = None
    boxes: NDArray[np.int64] | None = None
    annotations: Annotations | None = None
    seen: bool = False

    def label_array(self) -> NDArray[Any]:
        """The labels as they are, -1 throughout where there are none."""
        return np.full(len(self.files), -1, np.int64) if self.labels is None else np.asarray(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Listing:
        """The records at these rows."""
        return replace(
            self,
            files=[self.files[row] for row in rows],
            labels=self.label_array()[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
            ids=None if self.ids is None else [self.ids[row] for row in rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            annotations=None if self.annotations is None else self.annotations.take(rows),
        )


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The records of a split whose images are rows of one array.

    Attributes:
        pixels: (N, H, W) grey or (N, H, W, 3) RGB, uint8.
        labels: (N,) class indices.
        class_names: K names, index = label.
    """

    pixels: NDArray[np.uint8]
    labels: ArrayLike
    class_names: Sequence[str] = ()


def absent(folder: Path, files: Sequence[str]) -> list[str]:
    """Those of the files that are not under ``folder``, in their order; each folder is listed once, no file is opened.

    >>> absent(Path("/"), ["nowhere/1.jpg"])
    ['nowhere/1.jpg']
    """
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for file in files:
        parent, _, name = file.rpartition("/")
        wanted[parent].add(name)
    lacking = {parent for parent, names in wanted.items() if not names <= _names(folder / parent)}
    if not lacking:
        return []
    return [file for file in files if file.rpartition("/")[0] in lacking and not (folder / file).is_file()]


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (names only, of folders with a million files)
    except OSError:
        return set()


def open_listing(
    spec: DatasetSpec, listing: Listing, folder: Path, *, advice: str, notes: Sequence[str] = ()
) -> FileSplit:
    """The split of a listing; its subset is not yet taken.

    Args:
        spec: what was asked for.
        listing: its records.
        folder: what the files are relative to.
        advice: what to do about files that are missing.
        notes: what the user should know.

    Raises:
        DatasetError: files are missing: how many, and the first of them by name; or records that do not hold together.
    """
    files = listing.files
    if not listing.seen and (missing := absent(folder, files)):
        raise DatasetError(
            f"{spec.name} {spec.split!r}: expected {len(files):,} images under {folder}, {len(missing):,} of "
            f"them missing: {', '.join(missing[:NAMED])}{', …' if len(missing) > NAMED else ''}; {advice}"
        )
    ids, labels = files if listing.ids is None else listing.ids, listing.label_array()
    records = (spec, ids, labels, listing.class_names, listing.columns)
    if listing.annotations is not None:
        return AnnotatedFiles(*records, notes=notes, folder=folder, files=files, annotations=listing.annotations)
    if listing.boxes is not None:
        return CropSplit(*records, notes=notes, folder=folder, files=files, boxes=listing.boxes)
    return FileSplit(*records, notes=notes, folder=folder, files=files)
