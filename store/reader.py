"""The reader: a sealed file as read-only NumPy views of its mapping. No HDF5 library is involved."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from featurebank.store._header import Array, OutputEntry
from featurebank.store._names import not_found
from featurebank.store._opening import open_sealed, string_in
from featurebank.store._records import Output, quantity
from featurebank.store.errors import CorruptError, InvalidInputError
from featurebank.store.rows import RowDataset, iterate_batches
from featurebank.store.verify import VerifyReport, verify

__all__ = ["FeatureSet"]

_CACHE_LINE = 64


class FeatureSet:
    """All outputs of one backbone on one split: a sealed file, opened.

    Opening checks the header's digest, which covers everything but the outputs and records, and the fingerprint;
    records are checked when first touched, outputs by `verify`. All views are of one shared, read-only mapping: any
    number of processes and threads may read, forked ones too, and pickling sends the path. Views stay valid after
    `close`. As with every mapped file, truncating it while it is open kills its readers.

    Args:
        path: The file.

    Attributes:
        path: The file.
        manifest: ``{"key": …, "provenance": …}``.

    Raises:
        NotFoundError: there is no such file.
        NotAFeatureSetError: it is something else.
        FormatVersionError: it is in another format version.
        NotSealedError: it is still being written.
        CorruptError: it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._disk, self._header, self.manifest = open_sealed(self.path)
        self._table = self._header.table
        self._bytes: NDArray[np.uint8] | None = np.frombuffer(
            mmap.mmap(self._disk.fd, self._header.file_size, access=mmap.ACCESS_READ), np.uint8
        )
        self._entries = {entry.name: entry for entry in self._table.outputs}
        self._checked: dict[str, NDArray[Any]] = {}

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key: 64 hex digits."""
        return self._table.fingerprint

    @property
    def key(self) -> dict[str, Any]:
        """Everything that determined the numbers."""
        return dict(self.manifest["key"])

    @property
    def provenance(self) -> dict[str, Any]:
        """What did not: versions, device, batch size, seconds."""
        return dict(self.manifest["provenance"])

    @property
    def dataset(self) -> str:
        """The dataset's name, from the key; empty if the key has none."""
        return string_in(self.key, "dataset", "name")

    @property
    def split(self) -> str:
        """The split's name, from the key; empty if the key has none."""
        return string_in(self.key, "dataset", "split")

    @property
    def backbone(self) -> str:
        """The backbone's name, from the key; empty if the key has none."""
        return string_in(self.key, "backbone", "name")

    @property
    def class_names(self) -> list[str]:
        """The dataset's class names, where the key or else the provenance has them; else empty."""
        places: list[Any] = [self.key.get("dataset"), self.key, self.provenance.get("dataset"), self.provenance]
        for place in places:
            names = place.get("class_names") if isinstance(place, dict) else None
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return list(names)
        return []

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(self._entries)

    @property
    def n_rows(self) -> int:
        """The number of records, failed ones included."""
        return self._table.n_rows

    @property
    def nbytes(self) -> int:
        """The size of the file in bytes."""
        return self._header.file_size

    def info(self, name: str) -> Output:
        """Name, row shape and dtype of an output."""
        values = self._entry(name).values
        return Output(name=name, shape=values.shape[1:], dtype=np.dtype(values.dtype).name)

    def chunk_rows(self, name: str) -> int:
        """Rows per chunk of an output."""
        return self._entry(name).chunk_rows

    def load(self, name: str, rows: ArrayLike | slice | None = None) -> NDArray[Any]:
        """A fresh, writable array of an output: all rows, read at the disk's speed, or the ones asked for.

        Args:
            name: The output.
            rows: Row numbers, a boolean mask or a slice.
        """
        values = self._entry(name).values
        if isinstance(rows, slice):
            return np.array(self[name][rows])
        if rows is not None:
            chosen = np.asarray(rows)
            # take gathers whole rows half as fast again as indexing does.
            return self[name].take(np.flatnonzero(chosen) if self._is_mask(chosen) else chosen, axis=0)
        self._mapping()
        loaded = _empty(values)
        self._disk.read_into(loaded, values.address)
        return loaded

    @property
    def ids(self) -> NDArray[np.str_]:
        """The records' ids (N,)."""
        return self._decoded(self._table.records["id"])

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels, int64 (N,) or (N, L)."""
        return self._record(self._table.records["label"])

    @property
    def content_hash(self) -> NDArray[np.uint8]:
        """The XXH3-128 of each record's content, uint8 (N, 16), big-endian."""
        return self._record(self._table.records["content_hash"])

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The extra columns, each (N,)."""
        return {
            name: self._decoded(array) if array.dtype.startswith("|S") else self._record(array)
            for name, array in self._table.columns.items()
        }

    @property
    def status(self) -> NDArray[np.uint8]:
        """Each row's status (N,): 1 ok, 2 failed."""
        return self._record(self._table.records["status"])

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(N,) True where a row has features."""
        mask: NDArray[np.bool_] = self.status == 1
        mask.flags.writeable = False
        return mask

    @property
    def reasons(self) -> dict[int, str]:
        """Why each failed row failed."""
        failed = np.flatnonzero(self.status != 1)
        reasons = self._record(self._table.records["reason"]) if failed.size else failed
        return {int(row): bytes(reasons[row]).decode("utf-8", "replace") for row in failed}

    @property
    def head(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """The classifier's weight (C, D) and bias (C,), or None for a backbone without one."""
        if not self._table.head:
            return None
        return self._record(self._table.head["weight"]), self._record(self._table.head["bias"])

    def batches(
        self,
        batch_size: int,
        outputs: Sequence[str] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_failed: bool = True,
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Every row exactly once, in batches of fresh arrays: the outputs by name, ``labels``, and ``rows``.

        A shuffle is one uniform permutation of all rows, the same for the same seed. It reads rows at random, which is
        fast while the file fits into the page cache and as slow as the disk's random reads beyond.

        Args:
            batch_size: Rows per batch; the last may hold fewer.
            outputs: The outputs; all if None.
            shuffle: Permute the rows.
            seed: Of the permutation.
            drop_failed: Leave out rows without features.
        """
        if batch_size < 1:
            raise InvalidInputError(f"batch_size must be at least 1; found {batch_size}")
        names = self.outputs if outputs is None else tuple(outputs)
        views = {name: self[name] for name in names}
        rows = np.flatnonzero(self.ok) if drop_failed else np.arange(self.n_rows)
        if shuffle:
            rows = np.random.default_rng(seed).permutation(rows)
        return iterate_batches(views, self.labels, rows, batch_size)

    def to_torch(self, *outputs: str) -> RowDataset:
        """A map-style dataset for ``torch.utils.data.DataLoader`` over the ok rows: ``(features…, label)``.

        Args:
            outputs: The outputs, in the order of the items; all if none is named.
        """
        for name in outputs:
            self._entry(name)
        return RowDataset(self, outputs or self.outputs)

    def verify(self) -> VerifyReport:
        """Hashes everything again, then compares the header with the HDF5 metadata.

        Raises:
            CorruptError: naming the output, chunk and rows, or the array, or what differs.
        """
        return verify(self.path)

    def close(self) -> None:
        """Lets go of the file; views taken before stay valid."""
        self._bytes = None
        self._checked = {}
        self._disk.close()

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._view(self._entry(name).values)

    def __len__(self) -> int:
        return self.n_rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[FeatureSet], tuple[Path]]:
        return type(self), (self.path.absolute(),)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name} {self._entries[name].values.shape[1:]}" for name in self._entries)
        where = f"{self.dataset}/{self.split}, {self.backbone}, " if self.dataset else ""
        return f"FeatureSet({where}{quantity(self.n_rows, 'row')}: {outputs}; {self.fingerprint[:16]})"

    def _entry(self, name: str) -> OutputEntry:
        try:
            return self._entries[name]
        except KeyError:
            raise not_found(str(self.path), "output", name, self._entries) from None

    def _is_mask(self, rows: NDArray[Any]) -> bool:
        if rows.dtype == np.bool_ and rows.shape != (self.n_rows,):
            raise InvalidInputError(f"{self.path}: a mask of rows must have shape ({self.n_rows},); found {rows.shape}")
        return rows.dtype == np.bool_

    def _mapping(self) -> NDArray[np.uint8]:
        if self._bytes is None:
            raise InvalidInputError(f"the feature set {self.path} is closed; open it again")
        return self._bytes

    def _view(self, array: Array) -> NDArray[Any]:
        return self._mapping()[array.address : array.end].view(array.dtype).reshape(array.shape)

    def _record(self, array: Array) -> NDArray[Any]:
        """A view of an array that has a digest of its own, checked at the first touch."""
        if (known := self._checked.get(array.path)) is None:
            known = self._view(array)
            slot = self._table.digested.index(array)
            if (found := xxhash.xxh3_128_digest(known.reshape(-1).view(np.uint8).data)) != self._header.digest(slot):
                raise CorruptError(
                    f"{self.path} is damaged: the digest of {array.path} must be {self._header.digest(slot).hex()}; "
                    f"found {found.hex()}; restore it from a copy or extract it again"
                )
            self._checked[array.path] = known
        return known

    def _decoded(self, array: Array) -> NDArray[np.str_]:
        cached = f"{array.path} decoded"
        if cached not in self._checked:
            try:
                decoded = np.strings.decode(self._record(array), "utf-8")
            except UnicodeDecodeError as error:
                raise CorruptError(f"{self.path} is damaged: {array.path} must be UTF-8; found {error}") from error
            decoded.flags.writeable = False
            self._checked[cached] = decoded
        return self._checked[cached]


def _empty(array: Array) -> NDArray[Any]:
    # On a cache line: the kernel copies into memory 16 bytes beside one, as malloc gives it, a third slower.
    spare = np.empty(array.nbytes + _CACHE_LINE, np.uint8)
    start = -spare.ctypes.data % _CACHE_LINE
    return spare[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
