"""MATLAB files, looked through before SciPy allocates what they ask for.

A version 5 file is a header of 128 bytes and elements: a tag (type, number of bytes; 4 each, or both in 4) and a body.
A packed element unpacks to one element; a matrix is the elements flags, dimensions, name, and then its content, which
for a cell array or structure is one matrix a cell or field. SciPy makes room for as many cells as the dimensions say.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["read_mat"]

HEADER: Final = 128
UNPACKED_BYTES: Final = 1 << 26
"""All that a file unpacks to: the largest official one, Stanford Cars' annotations, has 13 MB."""
MATRICES: Final = 1 << 20
DEPTH: Final = 16
INT8, UINT8, INT32, UINT32, MATRIX, PACKED = 1, 2, 5, 6, 14, 15
CELL, STRUCT, CHAR = 1, 2, 4
NUMBERS: Final = range(6, 16)

Element = tuple[int, memoryview]
"""Type and body."""


def read_mat(content: bytes) -> dict[str, Any]:
    """The variables of a MATLAB file, structures as dicts, cells as lists or arrays.

    Raises:
        ValueError: it is none of version 5, is damaged, holds anything but numbers, text, cells and structures, or more
            of them than any list of images.
    """
    from scipy.io import loadmat  # type: ignore[import-untyped]

    _Check(content)
    found: dict[str, Any] = loadmat(io.BytesIO(content), simplify_cells=True)
    return found


class _Check:
    """Walks through all matrices of a file, and raises ValueError where one must not reach SciPy."""

    def __init__(self, content: bytes) -> None:
        endian = content[126:128]
        if endian not in {b"IM", b"MI"}:
            raise ValueError("no MATLAB 5 file: its header lacks MI or IM at byte 126; save it with -v7 or -v6")
        self._order = "<" if endian == b"IM" else ">"
        if content[124:126] != struct.pack(f"{self._order}H", 0x0100):
            raise ValueError(f"a version of {content[124:126].hex()}, expected MATLAB 5; save it with -v7 or -v6")
        self._room = UNPACKED_BYTES
        self._left = MATRICES
        for kind, body in self._elements(memoryview(content)[HEADER:]):
            if kind == PACKED:
                for inner, part in self._elements(self._unpacked(body)):
                    self._top(inner, part)
            else:
                self._top(kind, body)

    def _top(self, kind: int, body: memoryview) -> None:
        if kind == MATRIX:
            self._matrix(body, DEPTH)

    def _unpacked(self, body: memoryview) -> memoryview:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(body, self._room + 1)
        self._room -= len(content)
        if self._room < 0:
            raise ValueError(f"packed content of more than {UNPACKED_BYTES:,} bytes")
        if not unpacker.eof:
            raise ValueError("packed content that is cut short")
        return memoryview(content)

    def _elements(self, content: memoryview) -> Iterator[Element]:
        start = 0
        while start + 8 <= len(content):
            kind, size = struct.unpack_from(f"{self._order}II", content, start)
            first = start + 8
            if kind >> 16:  # Type and size in 4 bytes, the body in the next 4.
                kind, size, first, start = kind & 0xFFFF, kind >> 16, start + 4, start + 8
            else:
                start = first + (size if kind == PACKED else -(-size // 8) * 8)
            if first + size > len(content):
                raise ValueError(f"an element of {size:,} bytes where {len(content) - first:,} are left")
            yield kind, content[first : first + size]

    def _matrix(self, body: memoryview, depth: int) -> None:
        self._left -= 1
        if self._left < 0 or depth == 0:
            raise ValueError(f"more than {MATRICES:,} matrices, or cells nested deeper than {DEPTH}")
        if not body:
            return  # A cell without anything.
        parts = self._elements(body)
        flags, dimensions, _ = (self._next(parts, kind) for kind in ((UINT32,), (INT32,), (INT8, UINT8)))
        kind = flags[0] if self._order == "<" else flags[3] if len(flags) > 3 else 0
        cells = math.prod(struct.unpack(f"{self._order}{len(dimensions) // 4}i", dimensions))
        if kind in {CELL, STRUCT}:
            if kind == STRUCT:
                width = struct.unpack(f"{self._order}i", self._next(parts, (INT32,)))[0]
                cells *= max(1, len(self._next(parts, (INT8, UINT8))) // max(1, width))
            if not 0 <= cells <= len(body) // 8:
                raise ValueError(f"{cells:,} cells in {len(body):,} bytes")
            for inner, part in parts:
                if inner != MATRIX:
                    raise ValueError(f"an element of type {inner} where a cell should be")
                self._matrix(part, depth - 1)
        elif kind != CHAR and kind not in NUMBERS:
            raise ValueError(f"a matrix of class {kind}, expected numbers, text, cells or structures")

    @staticmethod
    def _next(parts: Iterator[Element], kinds: tuple[int, ...]) -> memoryview:
        kind, body = next(parts, (0, memoryview(b"")))
        if kind not in kinds or (len(body) % 4 and kinds != (INT8, UINT8)) or (kinds == (UINT32,) and len(body) < 4):
            raise ValueError(f"a matrix whose element of type {kinds[0]} is missing or damaged")
        return body
