"""The images of a choice: which may decide, in which order, and which are set aside for the final number.

Ids decide, by their SHA-256, so another run, another machine and a grown folder divide alike. Rows that decide are
ordered so that every beginning of them has each class by its share: a rung is such a beginning.

Shapes: N rows of the folder, R rows that may decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from featurebank.extract import datasets
from featurebank.extract.datasets._columns import is_missing
from featurebank.extract.datasets._division import division
from featurebank.extract.datasets._records import FileSplit, ReaderSplit
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.extract.errors import DatasetError
from featurebank.pipelines.errors import ConfigError

__all__ = ["Images", "Pool", "look", "nested"]

LEAST = 5  # images of a class: four to decide, and one set aside
ASIDE = 1000
Images: TypeAlias = FileSplit | ReaderSplit
"""Records of which some can be taken."""

SPLITS = ("all", "train", "training", "trainval")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What was found.

    Attributes:
        images: all of them.
        order: (R,) rows that may decide; a rung is its beginning.
        aside: rows of the final number.
        classes: how many there are.
        notes: what to know about them.
    """

    images: Images
    order: NDArray[np.int64]
    aside: NDArray[np.int64]
    classes: int
    notes: Sequence[str]

    def rung(self, size: int) -> Images:
        """The first rows that may decide, as a split of its own."""
        return self.part(self.order[:size], f"first-{size}")

    def part(self, rows: NDArray[np.int64], name: str) -> Images:
        """Some rows, as a split of its own."""
        spec = replace(self.images.spec, split=f"{self.images.spec.split}-{name}")
        part = self.images.take(rows)
        part.spec = spec
        return part


def look(folder: str, label: str = "") -> Pool:
    """A folder with a sub-folder a class, or a dataset by name, divided.

    Args:
        folder: the images.
        label: a column of their records whose values are the classes, in place of their own.

    Raises:
        DatasetError, UnknownNameError: there are no images.
        ConfigError: there are no classes, or not two of five different images each, or no such column.
    """
    images = _opened(folder)
    if label:
        images = _classed(images, folder, label)
    if images.labels.ndim != 1:
        raise ConfigError(f"{folder} must have one class an image; found several: choose needs a single label")
    notes: list[str] = []
    usable = _usable(images, notes)
    known = usable[images.labels[usable] >= 0]
    if not len(known):
        raise ConfigError(
            f"{folder} must have a sub-folder of images for each class; found {len(usable):,} images and no class; "
            "sort them into sub-folders"
        )
    if len(known) < len(usable):
        notes.append(f"{len(usable) - len(known):,} images without a class are left out")
    classes, counts = np.unique(images.labels[known], return_counts=True)
    if len(classes) < 2:
        raise ConfigError(f"{folder} must have two classes or more; found one, of {counts[0]:,} images; add another")
    if (counts >= LEAST).sum() < 2:
        raise ConfigError(
            f"{folder} must have two classes of {LEAST} different images or more; found {len(classes):,} classes of "
            f"at most {counts.max():,}; add images{_other_classes(images, label)}"
        )
    ids, labels = [images.ids[row] for row in known], images.labels[known]
    ranks = np.array([int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in ids], np.uint64)
    parts = [known[division(part, ids, labels)] for part in ("train80", "test20")]
    of = dict(zip(known.tolist(), ranks.tolist(), strict=True))
    order, aside = (
        rows[nested(images.labels[rows], np.array([of[row] for row in rows.tolist()], np.uint64))] for rows in parts
    )
    few = int((counts < LEAST).sum())
    notes.append(f"{len(classes):,} classes of {counts.min():,} to {counts.max():,} images")
    if few:
        notes.append(f"{few:,} classes have fewer than {LEAST} images: none of them is set aside")
    return Pool(images=images, order=order, aside=aside[:ASIDE], classes=len(classes), notes=notes)


def nested(labels: NDArray[np.int64], ranks: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Rows in an order of which every beginning has each class by its share, as far as whole rows allow.

    >>> nested(np.array([0, 0, 0, 0, 1, 1]), np.arange(6, dtype=np.uint64)).tolist()
    [0, 4, 1, 2, 5, 3]

    Args:
        labels: (N,).
        ranks: (N,) what rows of one class are ordered by.
    """
    by_class = np.lexsort((ranks, labels))
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    within = np.arange(len(labels)) - np.repeat(starts, counts)
    shares = (within + 0.5) / np.repeat(counts, counts)
    return by_class[np.lexsort((ranks[by_class], shares))]


def _opened(folder: str) -> Images:
    name = f"folder:{Path(folder).expanduser().absolute()}" if Path(folder).expanduser().is_dir() else folder
    if name == folder and (folder in ("", ".") or "/" in folder) and ":" not in folder:
        raise DatasetError(f"{folder}: expected a folder of images, found nothing; check the path")
    known = datasets.splits(name)
    split = next((one for one in SPLITS if one in known), known[0])
    return cast("Images", datasets.open_split(DatasetSpec(name=name, split=split)))


def _classed(images: Images, folder: str, label: str) -> Images:
    """The images with the values of a column as their classes, as a split of its own; blank is none."""
    if label not in images.columns:
        there = f"there are {', '.join(images.columns)}" if images.columns else "there is none"
        raise ConfigError(f"--label must be a column of {folder}; found {label!r}; {there}")
    values = images.columns[label]
    if values.dtype.kind not in "Uiub":
        raise ConfigError(
            f"--label must be a column of texts or whole numbers; found {label!r}, of {values.dtype}; take another"
        )
    known = np.array([not is_missing(value) for value in values.tolist()])
    names, labels = np.unique(values[known], return_inverse=True)
    classed = images.take(np.arange(len(images)))
    classed.spec = replace(images.spec, split=f"{images.spec.split}-{label}")
    classed.labels = np.full(len(images), -1, np.int64)
    classed.labels[known] = labels
    classed.class_names = [str(name) for name in names.tolist()]
    return classed


def _other_classes(images: Images, label: str) -> str:
    """What else classes could be."""
    columns = [name for name, values in images.columns.items() if name != label and values.dtype.kind in "Uiub"]
    return f", or take the values of a column as classes: --label {' or '.join(columns)}" if columns else ""


def _usable(images: Images, notes: list[str]) -> NDArray[np.int64]:
    """Rows that can be read, one of each content: near duplicates are told by features, these by their bytes."""
    contents = np.ascontiguousarray(images.content_hashes()).view("S16").reshape(-1)
    readable = np.flatnonzero(images.content_hashes().any(1))
    _, firsts, inverse = np.unique(contents[readable], return_index=True, return_inverse=True)
    kept = np.sort(readable[firsts])
    if len(readable) < len(images):
        notes.append(f"{len(images) - len(readable):,} images cannot be read and are left out")
    if len(kept) < len(readable):
        labels = images.labels[readable]
        several = int((labels != labels[firsts][inverse]).sum())
        said = f", {several:,} of them under another class" if several else ""
        notes.append(f"{len(readable) - len(kept):,} images have the bytes of another{said}; one of each is kept")
    return kept.astype(np.int64)
