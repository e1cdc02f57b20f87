"""Pickles of NumPy arrays and plain values, read without running anything that they ask for."""

from __future__ import annotations

import io
import pickle
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_pickle"]

MULTIARRAY: Final = frozenset({"numpy.core.multiarray", "numpy._core.multiarray"})
NUMERIC: Final = frozenset({"numpy.core.numeric", "numpy._core.numeric"})


def read_pickle(content: bytes, *, encoding: str = "latin1") -> Any:
    """What a pickle of arrays, numbers and strings in dicts, lists and tuples holds; Python 2's pickles too.

    Args:
        content: the pickle.
        encoding: of Python 2's byte strings.

    Raises:
        ValueError: it refers to anything but arrays, or is damaged.

    >>> import pickle
    >>> read_pickle(pickle.dumps({"data": np.arange(3), "labels": [1, 2, 3]}))["data"].tolist()
    [0, 1, 2]
    >>> read_pickle(pickle.dumps(print))
    Traceback (most recent call last):
    ValueError: expected a pickle of arrays and plain values, found a reference to builtins.print; refused
    """
    try:
        return _ArraysOnly(io.BytesIO(content), encoding=encoding).load()
    except ValueError:
        raise
    except Exception as error:  # A damaged pickle raises nearly every built-in exception.
        raise ValueError(f"expected a pickle, found a damaged one: {str(error) or type(error).__name__}") from error


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The few names that arrays are pickled with; each has a stand-in that does no more than that."""
        if module in MULTIARRAY and name in {"_reconstruct", "scalar"}:
            return _empty_array if name == "_reconstruct" else _scalar
        if module in NUMERIC and name == "_frombuffer":
            return _from_buffer
        if module == "numpy" and name in {"ndarray", "dtype"}:
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) in {("__builtin__", "bytes"), ("builtins", "bytes")}:
            return _no_bytes
        raise ValueError(f"expected a pickle of arrays and plain values, found a reference to {module}.{name}; refused")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes | str) -> NDArray[Any]:
    if kind is not np.ndarray or shape != (0,):
        raise ValueError(f"expected a pickle of arrays, found one of {kind} of shape {shape}; refused")
    return np.ndarray(shape, dtype.decode() if isinstance(dtype, bytes) else dtype)


def _from_buffer(
    buffer: bytes | bytearray, dtype: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"]
) -> NDArray[Any]:
    """How arrays are pickled by protocol 5."""
    if dtype.hasobject:
        raise ValueError("expected a pickle of numbers, found one of objects; refused")
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _scalar(dtype: np.dtype[Any], content: bytes | str) -> Any:
    if dtype.hasobject:
        raise ValueError("expected a pickle of numbers, found one of objects; refused")
    return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype)[0]


def _no_bytes() -> bytes:
    """How bytes of length 0 are pickled for Python 2."""
    return b""


def _latin1(text: str, codec: str) -> bytes:
    """How bytes are pickled for Python 2."""
    if codec not in {"latin1", "latin-1"}:
        raise ValueError(f"expected bytes in latin1, found the codec {codec!r}; refused")
    return text.encode("latin1")
