"""The limits of the format: one table, which writer and reader both enforce. See FORMAT.md, "Limits".

The reader checks them before it reads or allocates what they bound: what a file says of itself, and what a disk of
holes makes of a few kilobytes, must never decide how much memory is taken. The writer refuses what no reader opens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurebank.store._table import Table

__all__ = ["check"]

HEADER_BYTES = 1 << 20
COVERED_BYTES = 256 << 20
MANIFEST_BYTES = 16 << 20
MANIFEST_MARKS = 1 << 18
MANIFEST_DEPTH = 64
ROWS = 1 << 28
OUTPUTS = 256
COLUMNS = 1024
NAME_BYTES = 100
ROW_DIMENSIONS = 7
LABELS = 1 << 16
CLASSES = 1 << 20
ID_BYTES = 1024
TEXT_BYTES = 4096
REASON_BYTES = 96
ALL_ID_BYTES = 512 << 20
ALL_TEXT_BYTES = 1 << 30
CHUNK_BYTES = 64 << 20
CHUNKS = 1 << 22
PACKED_CHUNKS = 1 << 21
PACKED_STRETCHES = 1 << 16


def check(table: Table) -> None:
    """Raises ValueError where something that a table describes is larger than the format allows."""
    widths = [int(array.dtype[2:]) for array in table.columns.values() if array.dtype.startswith("|S")]
    ids, label, reason = (table.records[name] for name in ("id", "label", "reason"))
    packed = [output for output in table.outputs if output.index is not None]
    row_bytes = [output.chunk_stride // output.chunk_rows for output in table.outputs]
    unpacked = [size * output.packed_rows for size, output in zip(row_bytes, table.outputs, strict=True)]
    head = [n for array in table.head.values() for n in array.shape]
    for what, most, found in (
        ("the rows", ROWS, table.n_rows),
        ("the outputs", OUTPUTS, len(table.outputs)),
        ("the columns", COLUMNS, len(table.columns)),
        ("the dimensions of a row", ROW_DIMENSIONS, max(len(output.values.shape) - 1 for output in table.outputs)),
        ("the bytes of a row or chunk", CHUNK_BYTES, max(output.chunk_stride for output in table.outputs)),
        ("the bytes of a packed chunk, unpacked", CHUNK_BYTES, max(unpacked)),
        ("the chunks of all outputs", CHUNKS, sum(output.n_chunks for output in table.outputs)),
        ("the packed chunks of all outputs", PACKED_CHUNKS, sum(-(-table.n_rows // o.packed_rows) for o in packed)),
        ("the labels of a row", LABELS, label.shape[-1] if len(label.shape) > 1 else 1),
        ("the classes or features of the head", CLASSES, max(head, default=0)),
        ("the bytes of an id", ID_BYTES, int(ids.dtype[2:])),
        ("the bytes of a reason", REASON_BYTES, int(reason.dtype[2:])),
        ("the bytes of a text in a column", TEXT_BYTES, max(widths, default=0)),
        ("the bytes of all ids, each as long as the longest,", ALL_ID_BYTES, ids.nbytes),
        ("the bytes of all texts in columns, each as long as its longest,", ALL_TEXT_BYTES, sum(widths) * table.n_rows),
        ("the bytes of the manifest", MANIFEST_BYTES, table.manifest.nbytes),
    ):
        if found > most:
            raise ValueError(f"{what} must be at most {most:,}; found {found:,}")
