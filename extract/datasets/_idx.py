"""The IDX format of MNIST and its descendants, read with every field checked.

A big-endian header (two zero bytes, a type code, the number of dimensions, each dimension as 4 bytes) and the values.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._reading import read_file, reason
from featurebank.extract.errors import AssetError

UINT8 = 0x08
DIMENSIONS = 4
LARGEST = 1 << 30


def read_idx(path: Path) -> bytes:
    """The bytes of an IDX file, unpacked where its name ends in ``.gz``: as many as its header says, and one more.

    Raises:
        AssetError: the file cannot be read or unpacked, or says that it is larger than any of its kind.
    """
    try:
        content = read_file(path)
        if path.suffix != ".gz":
            return content
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            head = file.read(4 + 4 * DIMENSIONS)
            size = _declared_bytes(head)
            return head + file.read(max(0, size + 1 - len(head)))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise AssetError(f"{path}: expected a readable IDX file, found: {reason(error)}; fetch it again") from error


def _declared_bytes(head: bytes) -> int:
    """The bytes of a whole file, by its header."""
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != UINT8 or not 1 <= head[3] <= DIMENSIONS:
        raise ValueError(f"the header {head[:4].hex(' ')!r}")
    start = 4 + 4 * head[3]
    size: int = start + math.prod(struct.unpack(f">{head[3]}I", head[4:start].ljust(start - 4, b"\0")))
    if size > LARGEST:
        raise ValueError(f"a header that asks for {size:,} bytes, more than {LARGEST:,}")
    return size


def parse_idx(content: bytes, *, where: str) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; a read-only view.

    Raises:
        AssetError: wrong magic number, type, or length.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), where="labels").tolist()
    [7, 9]
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UINT8 or not 1 <= content[3] <= DIMENSIONS:
        raise AssetError(
            f"{where}: expected an IDX file of unsigned bytes (00 00 08 01..04), found {content[:4].hex(' ')!r}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise AssetError(f"{where}: expected an IDX header of {start} bytes, found {len(content)} bytes in all")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise AssetError(f"{where}: expected {math.prod(shape)} values for shape {shape}, found {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
