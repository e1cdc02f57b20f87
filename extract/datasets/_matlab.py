"""MATLAB files of version 5, read within bounds: SciPy's reader crashes on damaged ones.

A file is a header of 128 bytes and elements: a tag (type, number of bytes; 4 each, or both in 4) and a body. A packed
element unpacks to one element; a matrix is the elements flags, dimensions, name, and then its content, which for a cell
array or structure is one matrix a cell or field.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

HEADER: Final = 128
UNPACKED_BYTES: Final = 1 << 26
"""All that a file unpacks to: the largest official one, Stanford Cars' annotations, has 13 MB."""
MATRICES: Final = 1 << 18
DIMENSIONS: Final = 32
DEPTH: Final = 16

INT8, UINT8, INT32, UINT32, MATRIX, PACKED = 1, 2, 5, 6, 14, 15
VALUES: Final = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CODECS: Final = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}

CELL, STRUCT, CHAR = 1, 2, 4
NUMBERS: Final = range(6, 16)
COMPLEX: Final = 0x0800

Element = tuple[int, memoryview]
"""Type and body."""


def read_mat(content: bytes) -> dict[str, Any]:
    """The variables of a MATLAB file: numbers and cells as arrays, text as ``str``, structures as dicts.

    Dimensions of 1 are left out, and an array of one cell, number or structure is that alone; several structures are a
    list. Numbers have the type in which they are stored.

    Raises:
        ValueError, zlib.error: it is none of version 5, is damaged, holds anything but numbers, text, cells and
            structures, or more of them than any list of images.
    """
    endian = content[126:128]
    if endian not in {b"IM", b"MI"}:
        raise ValueError("no MATLAB 5 file: its header lacks MI or IM at byte 126; save it with -v7 or -v6")
    reader = _Reader("<" if endian == b"IM" else ">")
    if content[124:126] != struct.pack(f"{reader.order}H", 0x0100):
        raise ValueError(f"a version of {content[124:126].hex()}, expected MATLAB 5; save it with -v7 or -v6")
    return dict(reader.variables(memoryview(content)[HEADER:]))


class _Reader:
    def __init__(self, order: str) -> None:
        self.order = order
        self._room = UNPACKED_BYTES
        self._left = MATRICES

    def variables(self, content: memoryview, packed: bool = False) -> Iterator[tuple[str, Any]]:
        """Each name and value."""
        for kind, body in self._elements(content):
            if kind == PACKED and not packed:
                yield from self.variables(self._unpacked(body), packed=True)
            elif kind == MATRIX:
                yield self._matrix(body, DEPTH)
            else:
                raise ValueError(f"an element of type {kind} where a variable should be")

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
            kind, size = struct.unpack_from(f"{self.order}II", content, start)
            first = start + 8
            if kind >> 16:  # Type and size in 4 bytes, the body in the next 4.
                kind, size, first, start = kind & 0xFFFF, kind >> 16, start + 4, start + 8
                room = 4
            else:
                start = first + (size if kind == PACKED else -(-size // 8) * 8)
                room = len(content) - first
            if size > room:
                raise ValueError(f"an element of {size:,} bytes where {room:,} are left")
            yield kind, content[first : first + size]

    def _matrix(self, body: memoryview, depth: int) -> tuple[str, Any]:
        self._left -= 1
        if self._left < 0 or depth == 0:
            raise ValueError(f"more than {MATRICES:,} matrices, or cells nested deeper than {DEPTH}")
        if not body:
            return "", np.empty(0)  # A cell without anything.
        parts = self._elements(body)
        flags = self._integers(parts, UINT32)
        shape = self._integers(parts, INT32)
        name = bytes(self._next(parts, INT8, UINT8)).decode("latin-1")
        if not flags or len(shape) > DIMENSIONS or min(shape, default=0) < 0:
            raise ValueError(f"a matrix of {len(shape)} dimensions, or of less than nothing")
        kind = flags[0] & 0xFF
        if (kind not in {CELL, STRUCT, CHAR} and kind not in NUMBERS) or flags[0] & COMPLEX:
            raise ValueError(f"a matrix of class {kind}, expected real numbers, text, cells or structures")
        if math.prod(shape) > len(body):
            raise ValueError(f"{math.prod(shape):,} cells in {len(body):,} bytes")
        if kind == STRUCT:
            return name, self._structures(parts, math.prod(shape), depth)
        if kind == CHAR:
            return name, self._text(parts, shape)
        values = self._cells(parts, shape, depth) if kind == CELL else self._numbers(parts, shape)
        return name, values.reshape(shape, order="F").squeeze()[()]

    def _cells(self, parts: Iterator[Element], shape: tuple[int, ...], depth: int) -> Any:
        found = self._matrices(parts, math.prod(shape), depth)
        values = np.empty(len(found), object)
        for row, value in enumerate(found):
            values[row] = value
        return values

    def _structures(self, parts: Iterator[Element], count: int, depth: int) -> Any:
        (width,) = self._integers(parts, INT32)
        names = bytes(self._next(parts, INT8, UINT8))
        if width < 1 or len(names) % width:
            raise ValueError(f"names of {width} bytes each in {len(names)}")
        fields = [names[k : k + width].partition(b"\0")[0].decode("latin-1") for k in range(0, len(names), width)]
        values = iter(self._matrices(parts, count * len(fields), depth))
        rows = [{field: next(values) for field in fields} for _ in range(count if fields else 0)]
        return rows[0] if len(rows) == 1 else rows

    def _text(self, parts: Iterator[Element], shape: tuple[int, ...]) -> str | list[str]:
        """A line, or the lines of a matrix of characters, which stands column by column."""
        kind, body = next(parts, (0, memoryview(b"")))
        if kind not in CODECS:
            raise ValueError(f"text of type {kind}")
        codec = CODECS[kind] + ("" if kind in {1, 2, 16} else "-le" if self.order == "<" else "-be")
        text, lines = bytes(body).decode(codec), shape[0] if shape else 1
        if lines < 2:
            return text
        if len(text) != math.prod(shape):
            raise ValueError(f"{len(text):,} characters in a matrix of {math.prod(shape):,}")
        return [text[line::lines] for line in range(lines if text else 0)]

    def _numbers(self, parts: Iterator[Element], shape: tuple[int, ...]) -> Any:
        kind, body = next(parts, (0, memoryview(b"")))
        if kind not in VALUES:
            raise ValueError(f"numbers of type {kind}")
        values = np.frombuffer(body, np.dtype(f"{self.order}{VALUES[kind]}"))
        if len(values) != math.prod(shape):
            raise ValueError(f"{len(values):,} numbers in a matrix of {math.prod(shape):,}")
        return values

    def _matrices(self, parts: Iterator[Element], count: int, depth: int) -> list[Any]:
        found = []
        for kind, body in parts:
            if kind != MATRIX:
                raise ValueError(f"an element of type {kind} where a cell should be")
            found.append(self._matrix(body, depth - 1)[1])
        if len(found) != count:
            raise ValueError(f"{len(found):,} cells where {count:,} should be")
        return found

    def _integers(self, parts: Iterator[Element], kind: int) -> tuple[int, ...]:
        body = self._next(parts, kind)
        if len(body) > 4 * (DIMENSIONS + 1) or len(body) % 4:
            raise ValueError(f"{len(body):,} bytes of flags or dimensions")
        return struct.unpack(f"{self.order}{len(body) // 4}{'I' if kind == UINT32 else 'i'}", body)

    @staticmethod
    def _next(parts: Iterator[Element], *kinds: int) -> memoryview:
        kind, body = next(parts, (0, memoryview(b"")))
        if kind not in kinds:
            raise ValueError(f"a matrix whose element of type {kinds[0]} is missing or damaged")
        return body
