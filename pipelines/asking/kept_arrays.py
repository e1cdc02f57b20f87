"""Arrays by name as the bytes of a ``.npz`` file, and back: no pickle, nothing larger than it says, nothing odd.

`numpy.load` believes an archive's headers, which may ask for any amount of memory; here sizes are held against the
archive's own directory and a limit before anything is allocated.
"""

from __future__ import annotations

import errno
import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

__all__ = ["LARGEST", "packed", "unpacked"]

LARGEST = 2 << 30  # bytes of all arrays of a result together
_KINDS = "biufUS"


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A compressed archive.

    Raises:
        ValueError: arrays of Python objects or other odd types.
        OSError: more than `LARGEST` bytes.
    """
    if odd := [name for name, array in arrays.items() if array.dtype.kind not in _KINDS]:
        what = "Python objects" if any(arrays[name].dtype.hasobject for name in odd) else "another type"
        raise ValueError(f"arrays to keep must be numbers or strings; found {what} in {', '.join(odd)}")
    if (size := sum(array.nbytes for array in arrays.values())) > LARGEST:
        raise OSError(errno.EFBIG, f"predictions of {size:,} bytes are more than {LARGEST:,}")
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **dict(arrays))
    return file.getvalue()


def unpacked(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an archive, read-only.

    >>> unpacked(packed({"ids": np.array(["a", "b"])}))
    {'ids': array(['a', 'b'], dtype='<U1')}

    Raises:
        ValueError: it is none, or not of numbers and strings, or larger than `LARGEST`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if (size := sum(member.file_size for member in members)) > LARGEST:
                raise ValueError(f"arrays of {size:,} bytes, more than {LARGEST:,}")
            return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}
    except Exception as error:  # zipfile, zlib and NumPy's headers raise a dozen kinds
        raise ValueError(f"expected arrays without pickle, found {error}") from error


def _array(data: bytes) -> NDArray[Any]:
    file = io.BytesIO(data)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, fortran, dtype = readers[npy.read_magic(file)](file)
    if dtype.kind not in _KINDS or dtype.itemsize * math.prod(shape) != len(data) - file.tell():
        raise ValueError(f"{dtype} of shape {shape} in {len(data):,} bytes")
    values = np.frombuffer(data, dtype, offset=file.tell()) if dtype.itemsize else np.empty(math.prod(shape), dtype)
    return values.reshape(shape, order="F" if fortran else "C")
