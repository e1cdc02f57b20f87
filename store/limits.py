"""The limits of the format: one table, which writer and reader both enforce. See FORMAT.md, "Limits".

The reader checks them before it reads or allocates what they bound: what a file says of itself, and what a disk of
holes makes of a few kilobytes, must never decide how much memory is taken. The writer refuses what no reader opens.
"""

from __future__ import annotations

from typing import Final

HEADER_BYTES: Final = 1 << 20
COVERED_BYTES: Final = 256 << 20
MANIFEST_BYTES: Final = 16 << 20
MANIFEST_MARKS: Final = 1 << 18
MANIFEST_DEPTH: Final = 64
INDEX_BYTES: Final = 64 << 20
INDEX_MARKS: Final = 1 << 22
ROWS: Final = 1 << 28
OUTPUTS: Final = 256
COLUMNS: Final = 1024
NAME_BYTES: Final = 100
ROW_DIMENSIONS: Final = 7
LABELS: Final = 1 << 16
CLASSES: Final = 1 << 20
ID_BYTES: Final = 1024
TEXT_BYTES: Final = 4096
REASON_BYTES: Final = 96
ALL_ID_BYTES: Final = 512 << 20
ALL_TEXT_BYTES: Final = 1 << 30
CHUNK_BYTES: Final = 64 << 20
CHUNKS: Final = 1 << 22
PACKED_CHUNKS: Final = 1 << 21
PACKED_STRETCHES: Final = 1 << 16
