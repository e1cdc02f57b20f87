"""What all splits share: their records' checks, the subset, the digest, and the ways of holding images.

Shapes: N records, L labels a record, H, W an image's size.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.extract.datasets._columns import storable
from featurebank.extract.datasets._index import Stamps, file_hashes, remember, remembered, stamps
from featurebank.extract.datasets._labels import whole_labels
from featurebank.extract.datasets._reading import is_unicode, read_file, reason, shown
from featurebank.extract.datasets.contract import Columns, DatasetSpec, Split, Subset
from featurebank.extract.errors import DatasetError
from featurebank.store.fingerprint import content_hash, records_digest
from featurebank.store.limits import ALL_ID_BYTES, ID_BYTES

BLOCK = 16
"""Rows that a thread hashes at a time: few, because rows that lie together are unpacked together."""


class Records:
    """The records of a split without their images; checked when built.

    Args:
        spec: what was asked for; its subset is not yet taken (see `subset`).
        ids: N distinct non-empty strings.
        labels: (N,) or (N, L) whole numbers.
        class_names: K names, or none.
        columns: extra columns, each (N,); those that no store can hold are renamed or left out, and a note says so.
        notes: what the user should know of how the records were read.

    Raises:
        DatasetError: no records, ids that repeat, are empty, too long or hold NUL, labels of the wrong shape or out of
            range.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        ids: Sequence[str],
        labels: ArrayLike,
        class_names: Sequence[str] = (),
        columns: Columns | None = None,
        *,
        notes: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.ids: Sequence[str] = list(ids)
        self.labels = whole_labels(labels, _where(spec))
        self.class_names: Sequence[str] = list(class_names)
        kept, changes = storable(columns or {})
        self.columns: Columns = kept
        self.notes: Sequence[str] = (*notes, *changes)
        self._hashes: NDArray[np.uint8] | None = None
        _check(self)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.spec.name} {self.spec.split}: {len(self)} records>"

    def subset(self) -> Self:
        """The part that ``spec.subset`` asks for, in the split's order; itself where there is none.

        Raises:
            DatasetError: the subset is larger than the split.
        """
        if self.spec.subset is None:
            return self
        return self.take(subset_rows(self.labels, self.spec.subset, where=_where(self.spec)))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The records at these rows, in this order."""
        # Not copy.copy: it goes the way of pickling, which opens the split again.
        part = object.__new__(type(self))
        vars(part).update(vars(self))
        part.ids = [self.ids[row] for row in rows]
        part.labels = self.labels[rows]
        part.columns = {name: values[rows] for name, values in self.columns.items()}
        part._hashes = None if self._hashes is None else self._hashes[rows]
        return part

    def content_hashes(self) -> NDArray[np.uint8]:
        """(N, 16) XXH3-128 of what is read, made once in the life of this object; all zero where it cannot be read."""
        if self._hashes is None:
            self._hashes = self._hashed()
        return self._hashes

    def _hashed(self) -> NDArray[np.uint8]:
        raise NotImplementedError


class FileSplit(Records):
    """Records whose images are files.

    Args:
        folder: what relative paths are relative to.
        files: N paths.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        ids: Sequence[str],
        labels: ArrayLike,
        class_names: Sequence[str] = (),
        columns: Columns | None = None,
        *,
        notes: Sequence[str] = (),
        folder: Path,
        files: Sequence[str],
    ) -> None:
        super().__init__(spec, ids, labels, class_names, columns, notes=notes)
        self._folder = str(folder.absolute())
        self._files = files
        self._stamps: Stamps | None = None
        self._known = np.empty((0, 16), np.uint8), np.empty(0, np.bool_)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The records at these rows, in this order."""
        part = super().take(rows)
        part._files = [self._files[row] for row in rows]
        part._stamps = None
        return part

    def path(self, index: int) -> str:
        """Where record ``index`` lies."""
        return os.path.join(self._folder, self._files[index])  # noqa: PTH118 (called a million times)

    def read(self, index: int) -> bytes:
        """The encoded file's bytes."""
        return read_file(self.path(index))

    def known_hashes(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int64]]:
        """See `Stamped`."""
        rows = range(len(self))
        self._stamps = stamps(self._paths(rows), self._parts(rows))
        if self._hashes is not None:
            return self._hashes, np.ones(len(self), np.bool_), self._stamps.sizes
        self._known = remembered(self._stamps.keys)
        return *self._known, self._stamps.sizes

    def learn(self, rows: NDArray[np.int64], hashes: NDArray[np.uint8]) -> None:
        """See `Stamped`."""
        if (before := self._stamps) is None or self._hashes is not None:
            return
        self._known[0][rows], self._known[1][rows] = hashes, True
        if self._known[1].all():
            self._hashes = self._known[0]
        now = stamps(self._paths(rows), self._parts(rows))
        same = (now.keys == before.keys[rows]).all(axis=1) & before.settled[rows] & hashes.any(axis=1)
        remember(now.keys[same], hashes[same])

    def _hashed(self) -> NDArray[np.uint8]:
        # Files seen before and unchanged are not read again.
        return file_hashes(self._paths(range(len(self))))

    def _paths(self, rows: Iterable[int]) -> list[str]:
        # As `path`, for a million at once.
        files = [self._files[row] for row in rows]
        return [file if file.startswith("/") else f"{self._folder}/{file}" for file in files]

    def _parts(self, rows: Iterable[int]) -> list[str] | None:  # noqa: ARG002 (whole files)
        """What of each file is meant, in words; nothing for all of it."""
        return None


class ReaderSplit(Records):
    """Records that a function reads.

    It pickles as its spec and a function that opens it again, so that no worker is sent what the reader holds.

    Args:
        read: row to the encoded bytes or the raw pixels; raises OSError where it cannot. Safe in threads.
        reopen: gives the same split from its spec; importable by name.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        ids: Sequence[str],
        labels: ArrayLike,
        class_names: Sequence[str] = (),
        columns: Columns | None = None,
        *,
        notes: Sequence[str] = (),
        read: Callable[[int], bytes | NDArray[np.uint8]],
        reopen: Callable[[DatasetSpec], Split],
    ) -> None:
        super().__init__(spec, ids, labels, class_names, columns, notes=notes)
        self._read = read
        self._reopen = reopen
        self._rows = np.arange(len(self), dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen, (self.spec,)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The records at these rows, in this order."""
        part = super().take(rows)
        part._rows = self._rows[rows]
        return part

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """The encoded file's bytes, or the raw pixels.

        Raises:
            OSError: they cannot be had, whatever the reason.
        """
        try:
            return self._read(int(self._rows[index]))
        except OSError:
            raise
        except Exception as error:
            raise OSError(reason(error)) from error

    def _hashed(self) -> NDArray[np.uint8]:
        blocks = [range(first, min(first + BLOCK, len(self))) for first in range(0, len(self), BLOCK)]
        with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1)), "hash") as pool:
            digests = b"".join(pool.map(self._digests, blocks))
        return np.frombuffer(digests, np.uint8).reshape(-1, 16)

    def _digests(self, rows: Sequence[int]) -> bytes:
        digests = []
        for row in rows:
            try:
                digests.append(content_hash(self.read(row)))
            except OSError:
                digests.append(bytes(16))
        return b"".join(digests)


class ArraySplit(ReaderSplit):
    """Records whose images are rows of one array in memory or mapped.

    Args:
        pixels: (N, H, W) grey or (N, H, W, 3) RGB, uint8.
        reopen: gives the same split from its spec; importable by name.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        ids: Sequence[str],
        labels: ArrayLike,
        class_names: Sequence[str] = (),
        columns: Columns | None = None,
        *,
        notes: Sequence[str] = (),
        pixels: NDArray[np.uint8],
        reopen: Callable[[DatasetSpec], Split],
    ) -> None:
        if pixels.dtype != np.uint8 or len(pixels) != len(ids):
            raise DatasetError(
                f"{_where(spec)}: expected {len(ids)} images of uint8, found {len(pixels)} of {pixels.dtype}"
            )
        super().__init__(
            spec,
            ids,
            labels,
            class_names,
            columns,
            notes=notes,
            read=lambda row: np.asarray(pixels[row]),
            reopen=reopen,
        )


def subset_rows(labels: NDArray[np.int64], subset: Subset, *, where: str = "the dataset") -> NDArray[np.int64]:
    """The rows that a subset keeps, ascending.

    Stratified, every class gets the whole part of ``size * its count / N``, and the classes with the largest remainders
    (the lower label first among equals) one more. Records without a label (-1) count as a class of their own; where
    there are only such records, or several labels a record, the draw is plain. NumPy's PCG64 draws, seeded with
    ``seed``.

    Args:
        labels: (N,) or (N, L).
        subset: how many, which way.
        where: names the dataset in errors.

    Raises:
        DatasetError: ``size`` is below 1 or above N.

    >>> subset_rows(np.array([0, 0, 0, 0, 1, 1, 2, 2]), Subset(size=4)).shape
    (4,)
    """
    n = len(labels)
    if not 1 <= subset.size <= n:
        raise DatasetError(f"{where}: a subset must have 1 to {n} records, got size {subset.size}")
    generator = np.random.Generator(np.random.PCG64(subset.seed))
    if not subset.stratified or labels.ndim != 1 or (labels == labels[0]).all():
        return np.sort(generator.permutation(n)[: subset.size])
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # Whole-number arithmetic: a remainder must not depend on rounding.
    shares, remainders = np.divmod(subset.size * counts, n)
    largest = np.argsort(-remainders, kind="stable")[: subset.size - int(shares.sum())]
    shares[largest] += 1
    drawn = [generator.permutation(np.flatnonzero(inverse == k))[:share] for k, share in enumerate(shares)]
    return np.sort(np.concatenate(drawn))


def dataset_digest(split: Split) -> str:
    """Hex SHA-256 of a split's ordered ids, labels and contents; see `featurebank.store.fingerprint.records_digest`."""
    return records_digest(split.ids, split.labels, split.content_hashes())


def _where(spec: DatasetSpec) -> str:
    return f"{spec.name} {spec.split!r}"


def _check(records: Records) -> None:
    where, ids, labels = _where(records.spec), records.ids, records.labels
    if not ids:
        raise DatasetError(f"{where}: expected at least one record, found none; check the path and the split")
    if len(set(ids)) != len(ids):
        twice = [name for name, count in Counter(ids).items() if count > 1]
        raise DatasetError(f"{where}: ids must be distinct, found {len(twice)} more than once: {_some(twice)}")
    # One pass over one long string: a million separate checks take a second.
    joined = "".join(ids)
    if "" in ids or "\0" in joined or not is_unicode(joined):
        bad = [name for name in ids if not name or "\0" in name or not is_unicode(name)]
        raise DatasetError(f"{where}: ids must be non-empty UTF-8 without NUL, found {_some(bad)}; rename them")
    longest = max(len(name.encode()) for name in ids) if len(joined) > ID_BYTES else 0
    if longest > ID_BYTES or longest * len(ids) > ALL_ID_BYTES:
        raise DatasetError(
            f"{where}: ids must have at most {ID_BYTES:,} bytes, and all together, each as long as the longest, "
            f"{ALL_ID_BYTES:,}; found one of {longest:,} bytes among {len(ids):,}: {shown(max(ids, key=len))}"
        )
    if strangers := [name for name in records.class_names if "\0" in name or not is_unicode(name)]:
        raise DatasetError(f"{where}: class names must be UTF-8 without NUL, found {_some(strangers)}; rename them")
    if labels.ndim not in {1, 2} or len(labels) != len(ids) or 0 in labels.shape:
        raise DatasetError(f"{where}: expected labels of shape ({len(ids)},) or ({len(ids)}, L), found {labels.shape}")
    _check_labels(where, labels, len(records.class_names))
    for name, values in records.columns.items():
        if values.shape != (len(ids),):
            raise DatasetError(f"{where}: column {name!r} must have shape ({len(ids)},), found {values.shape}")


def _check_labels(where: str, labels: NDArray[np.int64], n_classes: int) -> None:
    if labels.ndim == 2:
        if not ((labels >= -1) & (labels <= 1)).all() or (n_classes and n_classes != labels.shape[1]):
            raise DatasetError(
                f"{where}: several labels a record must be 0, 1 or -1 for each of the {n_classes or 'L'} classes, "
                f"found shape {labels.shape}, values {labels.min()} to {labels.max()}"
            )
        return
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or (n_classes and high >= n_classes):
        upper = f"to {n_classes - 1} ({n_classes} class names)" if n_classes else "upwards"
        raise DatasetError(f"{where}: labels must be -1 (none) or 0 {upper}, found {low} to {high}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
