"""The IDX format of MNIST and its descendants, read with every field checked.

A big-endian header (two zero bytes, a type code, the number of dimensions, each dimension as 4 bytes) and the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.errors import AssetError

__all__ = ["parse_idx", "read_idx"]

UINT8 = 0x08


def read_idx(path: Path) -> bytes:
    """The bytes of an IDX file, unpacked where its name ends in ``.gz``.

    Raises:
        AssetError: the file cannot be read or unpacked.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise AssetError(f"{path}: expected a readable IDX file, found: {error}; fetch it again") from error


def parse_idx(content: bytes, *, where: str) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; a read-only view.

    Raises:
        AssetError: wrong magic number, type, or length.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), where="labels").tolist()
    [7, 9]
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UINT8 or not 1 <= content[3] <= 4:
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
