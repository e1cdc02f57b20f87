"""A sealed file, opened: what is in it, as read-only NumPy views of its mapping. No HDF5 library is involved."""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from featurebank.store._disk import Disk, enough_memory, storage_error
from featurebank.store._opening import manifest_of, open_sealed, string_in
from featurebank.store._packed import PackedValues
from featurebank.store._records import Output, decoded_strings, first_few, quantity
from featurebank.store._remote import CheckedRemoteValues, RemoteFile, RemoteValues
from featurebank.store._table import Array, OutputEntry
from featurebank.store._values import MappedValues, Values, view_of
from featurebank.store.addresses import Url, location
from featurebank.store.errors import InvalidInputError, damaged, unknown_name

Verification: TypeAlias = Literal["header", "first_touch"]
_VERIFICATIONS = get_args(Verification)


class SealedFile:
    """What `featurebank.store.FeatureSet` is made of: header, records and values of one sealed file."""

    def __init__(
        self, path: str | os.PathLike[str] | Url, verify: Verification = "header", within: Path | None = None
    ) -> None:
        if verify not in _VERIFICATIONS:
            raise InvalidInputError(f"verify must be one of {', '.join(_VERIFICATIONS)}; found {verify!r}")
        self.path = location(path)
        self._verification = verify
        self._within = within
        self._disk, self.header, self._manifest_text = open_sealed(self.path, within)
        self.table = self.header.table
        self._bytes = _mapped(self._disk, self.header.file_size) if isinstance(self._disk, Disk) else None
        self._entries = {entry.name: entry for entry in self.table.outputs}
        self._checked: dict[str, NDArray[Any]] = {}
        self._values: dict[str, Values] = {}
        self._closed = False

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """``{"key": …, "provenance": …}``."""
        return manifest_of(self.path, self.table, self._manifest_text)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key: 64 hex digits."""
        return self.table.fingerprint

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
    def records_digest(self) -> str:
        """XXH3-128 of the digests of records, columns and head, with the class names, 32 hex digits; reads no rows.

        Sets of one fingerprint may differ in them: which rows failed, what stands in a column, what a class is called.
        """
        state = xxhash.xxh3_128("\0".join((*self.table.columns, *self.class_names)).encode("utf-8", "surrogatepass"))
        for slot in range(len(self.table.digested)):
            state.update(self.header.digest(slot))
        return state.hexdigest()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(self._entries)

    @property
    def n_rows(self) -> int:
        """The number of records, failed ones included."""
        return self.table.n_rows

    @property
    def nbytes(self) -> int:
        """The size of the file in bytes."""
        return self.header.file_size

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
        with enough_memory(self.path):
            values = self._open_values(name)
            if rows is None:
                return values.fresh()
            if isinstance(rows, slice):
                return values.part(rows)
            chosen = np.asarray(rows)
            chosen = chosen if chosen.size else chosen.astype(np.intp)
            return values.take(np.flatnonzero(chosen) if self._is_mask(chosen) else chosen)

    @property
    def ids(self) -> NDArray[np.str_]:
        """The records' ids (N,): ``str_``, or NumPy's ``StringDType`` where that would take more than 256 MiB."""
        return self._decoded(self.table.records["id"])

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels, int64 (N,) or (N, L)."""
        return self._record(self.table.records["label"])

    @property
    def content_hash(self) -> NDArray[np.uint8]:
        """The XXH3-128 of each record's content, uint8 (N, 16), big-endian."""
        return self._record(self.table.records["content_hash"])

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The extra columns, each (N,)."""
        return {
            name: self._decoded(array) if array.dtype.startswith("|S") else self._record(array)
            for name, array in self.table.columns.items()
        }

    @property
    def status(self) -> NDArray[np.uint8]:
        """Each row's status (N,): 1 ok, 2 failed."""
        status = self._record(self.table.records["status"])
        if status.min() < 1 or status.max() > 2:
            raise damaged(self.path, "the status of each row", "1 or 2", f"{status.min()} to {status.max()}")
        return status

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(N,) True where a row has features."""
        mask: NDArray[np.bool_] = self.status == 1
        mask.flags.writeable = False
        return mask

    @property
    def reasons(self) -> dict[int, str]:
        """Why each failed row failed."""
        with enough_memory(self.path):
            failed = np.flatnonzero(self.status != 1)
            reasons = self._record(self.table.records["reason"]) if failed.size else failed
            return {int(row): bytes(reasons[row]).decode("utf-8", "replace") for row in failed}

    @property
    def head(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """The classifier's weight (C, D) and bias (C,), or None for a backbone without one."""
        if not self.table.head:
            return None
        return self._record(self.table.head["weight"]), self._record(self.table.head["bias"])

    def close(self) -> None:
        """Lets go of the file; views taken before stay valid."""
        self._closed = True
        self._bytes, self._checked, self._values = None, {}, {}
        self._disk.close()

    def __getitem__(self, name: str) -> NDArray[Any]:
        values = self._open_values(name)
        with enough_memory(self.path):
            return values.view()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return self.n_rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[SealedFile], tuple[Any, Verification, Path | None]]:
        path = self.path if isinstance(self.path, Url) else self.path.absolute()
        return type(self), (path, self._verification, self._within and self._within.absolute())

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name} {self._entries[name].values.shape[1:]}" for name in self._entries)
        where = f"{self.dataset}/{self.split}, {self.backbone}, " if self.dataset else ""
        return f"FeatureSet({where}{quantity(self.n_rows, 'row')}: {outputs}; {self.fingerprint[:16]})"

    def _entry(self, name: str) -> OutputEntry:
        try:
            return self._entries[name]
        except KeyError:
            raise unknown_name("output", name, self._entries, where=str(self.path)) from None

    def _is_mask(self, rows: NDArray[Any]) -> bool:
        if rows.dtype == np.bool_ and rows.shape != (self.n_rows,):
            raise InvalidInputError(f"{self.path}: a mask of rows must have shape ({self.n_rows},); found {rows.shape}")
        return rows.dtype == np.bool_

    def _open_values(self, name: str) -> Values:
        entry = self._entry(name)
        self._check_open()
        if name not in self._values:
            # Two threads may both make one: all keep to the first, which counts what was checked.
            self._values.setdefault(name, self._values_of(entry))
        return self._values[name]

    def _values_of(self, entry: OutputEntry) -> Values:
        if entry.index is not None:
            read = self._disk.read if self._bytes is None else functools.partial(_part, self._bytes)
            return PackedValues(self._disk.path, read, entry, self.header.indexes[entry.name])
        checked = self._verification == "first_touch"
        if isinstance(self._disk, RemoteFile):
            return CheckedRemoteValues(self._disk, entry) if checked else RemoteValues(self._disk, entry)
        assert self._bytes is not None and isinstance(self._disk, Disk)  # noqa: S101, PT018 - local files are mapped
        return MappedValues(self._disk, entry, self._bytes, checked=checked)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInputError(f"the feature set {self.path} is closed; open it again")

    def raw(self, array: Array) -> NDArray[np.uint8]:
        """The bytes of any array of the file but an output's values, as they are there."""
        self._check_open()
        known = self._record(array) if array in self.table.digested else self._view(array)
        return known.reshape(-1).view(np.uint8)

    def _view(self, array: Array) -> NDArray[Any]:
        self._check_open()
        if self._bytes is not None:
            return view_of(self._bytes, array)
        fetched = self._disk.read(array.address, array.nbytes).view(array.dtype).reshape(array.shape)
        fetched.flags.writeable = False
        return fetched

    def _record(self, array: Array) -> NDArray[Any]:
        """A view of an array that has a digest of its own, checked at the first touch."""
        if (known := self._checked.get(array.path)) is None:
            with enough_memory(self.path):
                known = self._view(array)
            slot = self.table.digested.index(array)
            if (found := xxhash.xxh3_128_digest(known.reshape(-1).view(np.uint8).data)) != self.header.digest(slot):
                raise damaged(self.path, f"the digest of {array.path}", self.header.digest(slot).hex(), found.hex())
            self._checked[array.path] = known
        return known

    def _decoded(self, array: Array) -> NDArray[np.str_]:
        cached = f"{array.path} decoded"
        if cached not in self._checked:
            encoded = self._record(array)
            if array == self.table.records["id"] and (empty := np.flatnonzero(encoded == b"")).size:
                raise damaged(self.path, "each id", "at least one byte", f"none in rows {first_few(empty)}")
            try:
                with enough_memory(self.path):
                    decoded = decoded_strings(encoded)
            except UnicodeDecodeError as error:
                raise damaged(self.path, array.path, "UTF-8", str(error)) from error
            decoded.flags.writeable = False
            self._checked[cached] = decoded
        return self._checked[cached]


def _part(mapping: NDArray[np.uint8], address: int, nbytes: int) -> NDArray[np.uint8]:
    return mapping[address : address + nbytes]


def _mapped(disk: Disk, size: int) -> NDArray[np.uint8]:
    try:
        with disk.descriptor() as fd:
            return np.frombuffer(mmap.mmap(fd, size, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:
        cause = error if isinstance(error, OSError) else OSError(None, str(error))
        raise storage_error(cause, disk.path, "map") from error
