"""The table of a header: where every array lies, and what must hold of it. See FORMAT.md, "The table"."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from featurebank.store import limits
from featurebank.store._records import NAME, Output

FILE_DIGEST, DIGEST_END = 64, 80
LARGEST = 1 << 62
_DTYPE = re.compile(r"<f[248]|<[iu][248]|\|[iu]1|\|b1|\|S[1-9][0-9]{0,8}")


class Array(NamedTuple):
    """One array of the file: its HDF5 path, absolute byte address, shape and NumPy dtype string."""

    path: str
    address: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """The bytes of the array's values."""
        # Every dtype of the format ends in its bytes.
        return math.prod(self.shape) * int(self.dtype[2:])

    @property
    def end(self) -> int:
        """The address after the array's last byte."""
        return self.address + self.nbytes


@dataclass(frozen=True)
class OutputEntry:
    """One output: its values (N, …), the chunk grid, and the (chunks,) checksums.

    A packed output has its values in compressed chunks of ``packed_rows``; ``index`` (packed chunks, 3) has address,
    bytes and checksum of each.
    """

    name: str
    values: Array
    chunk_rows: int
    chunk_stride: int
    checksums: Array
    packed_rows: int = 0
    index: Array | None = None

    @property
    def n_chunks(self) -> int:
        """The number of chunks; the last may hold fewer rows."""
        return -(-self.values.shape[0] // self.chunk_rows)

    @property
    def extent(self) -> tuple[int, int]:
        """The addresses of the first byte and after the last byte of all chunks, the last one's padding included."""
        return self.values.address, self.values.address + self.n_chunks * self.chunk_stride

    def rows(self, index: int) -> tuple[int, int]:
        """The first row of a chunk and the row after its last."""
        return index * self.chunk_rows, min((index + 1) * self.chunk_rows, self.values.shape[0])


@dataclass(frozen=True)
class Table:
    """Everything in the file. ``digested`` is the order of the digest slots."""

    fingerprint: str
    n_rows: int
    outputs: tuple[OutputEntry, ...]
    records: dict[str, Array]
    columns: dict[str, Array]
    head: dict[str, Array]
    manifest: Array

    @property
    def digested(self) -> tuple[Array, ...]:
        """The arrays that have a digest slot: records, columns, head, each in the table's order."""
        return (*self.records.values(), *self.columns.values(), *self.head.values())

    def described(self) -> tuple[Output, ...]:
        """The outputs as the public sees them."""
        return tuple(
            Output(name=o.name, shape=o.values.shape[1:], dtype=np.dtype(o.values.dtype).name) for o in self.outputs
        )

    @property
    def version(self) -> int:
        """The format version that the file needs: packed outputs need the second."""
        return 2 if any(True for _ in self.indexes()) else 1

    def indexes(self) -> Iterator[Array]:
        """The indexes of the packed outputs."""
        yield from (output.index for output in self.outputs if output.index is not None)

    def small_arrays(self) -> Iterator[Array]:
        """Every array but the outputs' values."""
        return itertools.chain(self._undigested(), self.head.values(), self.records.values(), self.columns.values())

    def _undigested(self) -> list[Array]:
        """The small arrays that the file digest covers."""
        return [self.manifest, *(output.checksums for output in self.outputs), *self.indexes()]

    def arrays(self) -> Iterator[Array]:
        """Every array."""
        yield from self.small_arrays()
        yield from (output.values for output in self.outputs)

    def with_addresses(self, addresses: Mapping[str, int]) -> Table:
        """The same table with the address of each HDF5 path filled in."""

        def at(array: Array) -> Array:
            return array._replace(address=addresses[array.path])

        return replace(
            self,
            outputs=tuple(
                replace(o, checksums=at(o.checksums), values=at(o.values))
                if o.index is None
                else replace(o, checksums=at(o.checksums), index=at(o.index))
                for o in self.outputs
            ),
            records={name: at(array) for name, array in self.records.items()},
            columns={name: at(array) for name, array in self.columns.items()},
            head={name: at(array) for name, array in self.head.items()},
            manifest=at(self.manifest),
        )

    @functools.cached_property
    def extents(self) -> list[tuple[int, int, Array]]:
        """First and last byte of every array that lies in one piece, ascending: all but packed values."""
        found = [(*output.extent, output.values) for output in self.outputs if output.index is None]
        found += [(array.address, array.end, array) for array in self.small_arrays()]
        return sorted(found)

    def covered(self, file_size: int, packed: Sequence[tuple[int, int]] = ()) -> Iterator[tuple[int, int]]:
        """The ranges of the file that the file digest covers: all that has no digest or checksum of its own.

        ``packed`` is where the compressed chunks lie, first and last of each stretch.
        """
        start = DIGEST_END
        yield 0, FILE_DIGEST
        plain = {array.path for array in self._undigested()}
        extents = [(first, last) for first, last, array in self.extents if array.path not in plain]
        for first, last in sorted([*extents, *packed]) if packed else extents:
            yield start, first
            start = last
        yield start, file_size

    def check_limits(self) -> None:
        """Raises ValueError where something is larger than the format allows."""
        texts = [int(array.dtype[2:]) for array in self.columns.values() if array.dtype.startswith("|S")]
        all_texts = self.n_rows * sum(texts)
        ids, label, reason = (self.records[name] for name in ("id", "label", "reason"))
        outputs, n_rows = self.outputs, self.n_rows
        packed = [-(-n_rows // output.packed_rows) for output in outputs if output.packed_rows]
        unpacked = [output.chunk_stride // output.chunk_rows * output.packed_rows for output in outputs]
        head = [n for array in self.head.values() for n in array.shape]
        for what, most, found in (
            ("the rows", limits.ROWS, n_rows),
            ("the outputs", limits.OUTPUTS, len(outputs)),
            ("the columns", limits.COLUMNS, len(self.columns)),
            ("the dimensions of a row", limits.ROW_DIMENSIONS, max(len(o.values.shape) - 1 for o in outputs)),
            ("the bytes of a row or chunk", limits.CHUNK_BYTES, max(output.chunk_stride for output in outputs)),
            ("the bytes of a packed chunk, unpacked", limits.CHUNK_BYTES, max(unpacked)),
            ("the chunks of all outputs", limits.CHUNKS, sum(output.n_chunks for output in outputs)),
            ("the packed chunks of all outputs", limits.PACKED_CHUNKS, sum(packed)),
            ("the labels of a row", limits.LABELS, label.shape[-1] if len(label.shape) > 1 else 1),
            ("the classes or features of the head", limits.CLASSES, max(head, default=0)),
            ("the bytes of an id", limits.ID_BYTES, int(ids.dtype[2:])),
            ("the bytes of a reason", limits.REASON_BYTES, int(reason.dtype[2:])),
            ("the bytes of a text in a column", limits.TEXT_BYTES, max(texts, default=0)),
            ("the bytes of all ids, each as long as the longest,", limits.ALL_ID_BYTES, ids.nbytes),
            ("the bytes of all texts in columns, each as long as its longest,", limits.ALL_TEXT_BYTES, all_texts),
            ("the bytes of the manifest", limits.MANIFEST_BYTES, self.manifest.nbytes),
        ):
            if found > most:
                raise ValueError(f"{what} must be at most {most:,}; found {found:,}")

    def to_json(self) -> bytes:
        """The canonical JSON of the table."""
        tree = {
            "fingerprint": self.fingerprint,
            "rows": self.n_rows,
            "outputs": [
                {
                    "name": o.name,
                    "values": o.values._asdict(),
                    "chunk_rows": o.chunk_rows,
                    "chunk_stride": o.chunk_stride,
                    "alignment": math.gcd(o.chunk_stride, 4096),
                    "checksums": o.checksums._asdict(),
                    **({"packed_rows": o.packed_rows, "index": o.index._asdict()} if o.index is not None else {}),
                }
                for o in self.outputs
            ],
            **{
                group: [{"name": name, **array._asdict()} for name, array in getattr(self, group).items()]
                for group in ("records", "columns", "head")
            },
            "manifest": self.manifest._asdict(),
        }
        return json.dumps(tree, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8")


def decode_table(text: bytes) -> Table:
    """The table of canonical JSON.

    Raises:
        ValueError: something is larger than the format allows.
        Exception: it is none.
    """
    tree = json.loads(text)
    n_rows = _integer(tree["rows"], 1)
    table = Table(
        fingerprint=_text(tree["fingerprint"]),
        n_rows=n_rows,
        outputs=tuple(_output(entry, n_rows) for entry in tree["outputs"]),
        records=_arrays(tree["records"]),
        columns=_arrays(tree["columns"]),
        head=_arrays(tree["head"]),
        manifest=_array(tree["manifest"]),
    )
    _check_roles(table)
    table.check_limits()
    return table


def _output(entry: dict[str, Any], n_rows: int) -> OutputEntry:
    output = OutputEntry(
        _text(entry["name"]),
        _array(entry["values"]),
        _integer(entry["chunk_rows"], 1),
        _integer(entry["chunk_stride"], 1),
        _array(entry["checksums"]),
        _integer(entry.get("packed_rows", 0), 0),
        _array(entry["index"]) if "index" in entry else None,
    )
    values = output.values
    row_bytes = math.prod(values.shape[1:]) * int(values.dtype[2:])
    must_hold = {
        "float16 or float32": values.dtype in ("<f2", "<f4"),
        f"{n_rows} rows": values.shape[:1] == (n_rows,),
        "at most one chunk more than rows": output.chunk_rows <= n_rows,
        "chunks without gaps": output.chunk_stride == output.chunk_rows * row_bytes,
        "one checksum per chunk": (output.checksums.dtype, output.checksums.shape) == ("<u8", (output.n_chunks,)),
    }
    if output.index is not None and output.packed_rows:
        shape = (-(-n_rows // output.packed_rows), 3)
        must_hold["an index entry per packed chunk"] = (output.index.dtype, output.index.shape) == ("<u8", shape)
        must_hold["at most one packed chunk more than rows"] = output.packed_rows <= n_rows
    else:
        must_hold["packed rows and an index, or neither"] = output.index is None and not output.packed_rows
    if broken := [what for what, holds in must_hold.items() if not holds]:
        raise ValueError(f"output {output.name!r} must have {', '.join(broken)}")
    return output


def _check_roles(table: Table) -> None:
    n = table.n_rows
    records = {name: (array.dtype, array.shape) for name, array in table.records.items()}
    label = records.get("label", ("", ()))
    hashes, status = records.get("content_hash"), records.get("status")
    strings = [records.get(name, ("", ())) for name in ("id", "reason")]
    names = [*(output.name for output in table.outputs), *table.columns]
    head = [(array.dtype in ("<f2", "<f4"), array.shape) for array in table.head.values()]
    must_hold = {
        "outputs, distinct by name": len({o.name for o in table.outputs}) == len(table.outputs) > 0,
        "five record arrays": set(records) == {"id", "label", "content_hash", "status", "reason"},
        "ids and reasons of fixed width": all(d.startswith("|S") and s == (n,) for d, s in strings),
        "int64 labels": label[0] == "<i8" and label[1][:1] == (n,) and len(label[1]) in (1, 2),
        "content hashes of 16 bytes": hashes == ("|u1", (n, 16)),
        "one status byte a row": status == ("|u1", (n,)),
        "names of letters, digits, '.', '_' and '-'": all(NAME.fullmatch(name) for name in names),
        "arrays at the paths of their names": all(path == array.path for path, array in _paths(table)),
        "columns of one value a row": all(array.shape == (n,) for array in table.columns.values()),
        "no head, or its weight and bias": not head
        or (list(table.head) == ["weight", "bias"] and all(ok for ok, _ in head) and head[0][1][:1] == head[1][1]),
        "a fixed-width manifest": table.manifest.dtype.startswith("|S") and table.manifest.shape == (),
    }
    if broken := [what for what, holds in must_hold.items() if not holds]:
        raise ValueError(f"it must have {', '.join(broken)}")


def _paths(table: Table) -> Iterator[tuple[str, Array]]:
    yield "/manifest", table.manifest
    for output in table.outputs:
        yield f"/outputs/{output.name}", output.values
        yield f"/checksums/{output.name}", output.checksums
        if output.index is not None:
            yield f"/packed/{output.name}", output.index
    groups = {"/records": table.records, "/records/columns": table.columns, "/head": table.head}
    for group, arrays in groups.items():
        yield from ((f"{group}/{name}", array) for name, array in arrays.items())


def _arrays(entries: Sequence[dict[str, Any]]) -> dict[str, Array]:
    arrays = {_text(entry["name"]): _array(entry) for entry in entries}
    if len(arrays) != len(entries):
        raise ValueError("array names must be distinct")
    return arrays


def _array(entry: dict[str, Any]) -> Array:
    shape, dtype = tuple([_integer(n, 1) for n in entry["shape"]]), _text(entry["dtype"])
    if len(shape) > 8 or not _DTYPE.fullmatch(dtype):
        raise ValueError(f"shape {shape} or dtype {dtype!r} is not allowed")
    array = Array(_text(entry["path"]), _integer(entry["address"], 0), shape, dtype)
    if array.end > LARGEST:
        raise ValueError(f"{array.path} ends at {array.end}, beyond any file")
    return array


def _integer(value: object, least: int) -> int:
    if type(value) is not int or not least <= value <= LARGEST:
        raise ValueError(f"{value!r:.40} must be an integer of at least {least}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} must be a string")
    return value
