"""What a dataset is: an ordered list of records whose bytes can be read one at a time from any thread or process.

Shapes: N records, L labels a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns", "DatasetSource", "DatasetSpec", "Split", "Stamped", "Subset"]

Columns = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class Subset:
    """A fixed part of a split; part of the dataset's identity.

    Attributes:
        size: how many records are kept.
        stratified: the same share of every class (as equal as whole numbers allow), instead of a plain draw.
        seed: of the draw. Kept records stay in the split's order.
    """

    size: int
    stratified: bool = True
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A dataset and split by name.

    Attributes:
        name: ``"flowers102"``, ``"chexpert@views=all"``, ``"torchvision:CIFAR10"``, ``"folder:/data/pets"``,
            ``"manifest:/data/pets.csv"``, ``"list:/data/test.txt"``, ``"hf:/data/pets"``,
            ``"wds:/data/pets-{0..9}.tar"``, ``"coco:/data/instances.json"``.
        split: ``"train"``, ``"test"`` … as the source calls it.
        subset: a fixed part of it.
        label: what the store's folder is called, where the name would be a path; defaults to one derived from the name.
        root: where the files lie; never part of the key.
    """

    name: str
    split: str
    subset: Subset | None = None
    label: str = ""
    root: Path | None = field(default=None, compare=False)


@runtime_checkable
class Split(Protocol):
    """One split, opened: N records in a fixed order.

    Reading must be safe from several threads, and the object must survive pickling into a spawned process.
    """

    spec: DatasetSpec
    ids: Sequence[str]
    """N distinct non-empty strings, stable across machines (relative paths, not absolute ones)."""
    labels: NDArray[np.int64]
    """(N,) class indices, or (N, L) for multi-label; -1 where unlabelled."""
    class_names: Sequence[str]
    """K names, index = label; empty where unknown."""
    columns: Columns
    """Extra columns, each (N,): numbers, booleans or fixed-width strings."""
    notes: Sequence[str]
    """What the user should know of how the records were read: files passed over, columns left out. One line each."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """The encoded file's bytes, or the raw pixels: (H, W) grey or (H, W, 3) RGB, 8-bit.

        Raises:
            OSError: the file cannot be read. The engine records that row as failed.
        """
        ...

    def content_hashes(self) -> NDArray[np.uint8]:
        """(N, 16) XXH3-128 (big-endian) of each record's content, as ``content_hash`` of ``read(i)``.

        Files are hashed once and remembered by path, size, modification time and inode. A file that cannot be read
        has an all-zero hash.
        """
        ...


@runtime_checkable
class Stamped(Split, Protocol):
    """A split that can tell without reading which of its contents are known, and remembers those that were read."""

    def known_hashes(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int64]]:
        """(N, 16) content hashes, all zero where not known; (N,) which are known; (N,) bytes of the encoded files.

        Sizes are -1 for files that are not there. Contents are told by their files' stamps: nothing is read.
        """
        ...

    def learn(self, rows: NDArray[np.int64], hashes: NDArray[np.uint8]) -> None:
        """Remembers the content hashes (n, 16) of rows that were read since `known_hashes`.

        Those whose files' stamps are no longer what they were then are passed over.
        """
        ...


class DatasetSource(Protocol):
    """A source of datasets."""

    prefix: str

    def names(self) -> Sequence[str]:
        """Every dataset it knows by name; empty for sources that take a path."""
        ...

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:
        """The splits a dataset has."""
        ...

    def open(self, spec: DatasetSpec) -> Split:
        """The split with its subset taken.

        Raises:
            UnknownNameError: no such dataset or split; the nearest spellings are listed.
            DatasetError: empty, duplicate ids, labels out of range, files missing: which, and what to do.
            AssetError: data that should be fetched cannot be.
        """
        ...
