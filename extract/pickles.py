"""Pickles of NumPy arrays and plain values, read by a machine of our own that knows nothing else.

Python's machine calls, fills and subscripts whatever a pickle names, and a class such as ``numpy.ndarray`` is powerful
enough to be turned against the process. Here names stand for nothing but themselves, what a pickle says of an array is
collected, and arrays are made of it at the end, from bytes whose number fits. Recursion, ``BUILD`` of anything but an
array or its dtype, persistent and extension identifiers, and the opcodes that make objects are refused.
"""

from __future__ import annotations

import codecs
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_pickle"]

MAX_OPERATIONS: Final = 1_000_000
"""CIFAR-100, the largest file in use, needs 300,000. An operation of one byte may cost a hundred bytes of memory."""
MAX_DEPTH: Final = 32
MAX_DIMENSIONS: Final = 32

DTYPE: Final = re.compile(r"b1|[iu][1248]|f[248]|c(?:8|16)")
QUOTED: Final = re.compile(rb"(['\"])((?:[^\\]++|\\x[0-9a-f]{2}|\\[\\'\"abfnrtv])*+)")
"""A line of Python 2's ``repr`` of a byte string."""


class _Name(Enum):
    """What a pickle of arrays refers to by module and name."""

    RECONSTRUCT = "_reconstruct"
    FROM_BUFFER = "_frombuffer"
    SCALAR = "scalar"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"
    BYTES = "bytes"


_NAMES: Final[Mapping[tuple[str, str], _Name]] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Name.RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Name.SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Name.FROM_BUFFER for core in ("core", "_core")},
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
    ("__builtin__", "bytes"): _Name.BYTES,
    ("builtins", "bytes"): _Name.BYTES,
}


@dataclass(slots=True, eq=False)
class _Dtype:
    text: str
    order: str = ""

    def made(self) -> np.dtype[Any]:
        return np.dtype(self.order.strip("|=") + self.text)


@dataclass(slots=True, eq=False)
class _Array:
    """What a pickle says of an array, or of a scalar (``shape`` is ``None``)."""

    shape: tuple[int, ...] | None = None
    dtype: _Dtype | None = None
    fortran: bool = False
    content: bytes | None = None


def read_pickle(content: bytes) -> Any:
    """What a pickle of arrays, numbers and strings in dicts, lists and tuples holds; Python 2's pickles too.

    Byte strings of Python 2 become text, a character for each byte. Keys of dicts are strings, bytes or integers.

    Args:
        content: the pickle.

    Raises:
        ValueError: it holds anything but arrays of numbers and plain values, more than a million operations or 32
            levels, or is damaged.

    >>> import pickle
    >>> read_pickle(pickle.dumps({"data": np.arange(3), "labels": [1, 2, 3]}))["data"].tolist()
    [0, 1, 2]
    >>> read_pickle(pickle.dumps(print))
    Traceback (most recent call last):
    ValueError: expected a pickle of arrays and plain values, found a reference to builtins.print; refused
    """
    try:
        return _Made(len(content)).of(_Machine(content).run(), MAX_DEPTH)
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        reason = str(error)[:200] or type(error).__name__
        raise ValueError(f"expected a pickle, found a damaged one: {reason}") from error


class _RefusedError(ValueError):
    def __init__(self, found: str) -> None:
        super().__init__(f"expected a pickle of arrays and plain values, found {found}; refused")


class _Machine:
    """The stack and the memo of one pickle; nothing on them is callable."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self._encoded = 0
        self._memo: dict[int, Any] = {}
        self._below: list[list[Any]] = []
        self.stack: list[Any] = []

    def run(self) -> Any:
        for _ in range(MAX_OPERATIONS):
            code = self.take(1)
            if code == b".":
                if len(self.stack) != 1 or self._below:
                    raise ValueError("it ends in the middle of a value")
                return self.stack[0]
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise _RefusedError(f"the opcode {code!r}")
            operation(self)
        raise _RefusedError(f"more than {MAX_OPERATIONS:,} operations")

    def take(self, count: int) -> bytes:
        first, self._at = self._at, self._at + count
        if count < 0 or self._at > len(self._content):
            raise ValueError("it ends early")
        return self._content[first : self._at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def sized(self, form: str) -> bytes:
        return self.take(self.number(form))

    def line(self) -> bytes:
        end = self._content.find(b"\n", self._at)
        if end < 0:
            raise ValueError("it ends early")
        return self.take(end + 1 - self._at)[:-1]

    def mark(self) -> None:
        self._below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        found, self.stack = self.stack, self._below.pop()
        return found

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("a value is missing")
        found = self.stack[-count:]
        del self.stack[-count:]
        return found

    def remember(self, key: int | None = None) -> None:
        # A dict, as a list up to a large key would fill the memory.
        self._memo[len(self._memo) if key is None else key] = self.stack[-1]

    def recall(self, key: int) -> None:
        if key not in self._memo:
            raise ValueError(f"nothing is remembered as {key}")
        self.stack.append(self._memo[key])

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _RefusedError("an append to what is no list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise _RefusedError("an item set in what is no dict")
        if len(values) % 2:
            raise ValueError("a value is missing")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, bytes, int):
                raise _RefusedError(f"a key of type {type(key).__name__}")
            target[key] = value

    def make_dict(self, values: list[Any]) -> None:
        self.stack.append({})
        self.set_items(values)

    def refer(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _RefusedError("a reference by something else than names")
        found = _NAMES.get((module, name))
        if found is None:
            raise _RefusedError(f"a reference to {module[:80]}.{name[:80]}")
        self.stack.append(found)

    def reduce(self) -> None:
        name, arguments = self.last(2)
        self.stack.append(self._reduced(name, arguments))

    def _reduced(self, name: object, arguments: object) -> Any:
        match name, arguments:
            case _Name.RECONSTRUCT, (_Name.NDARRAY, (0,), b"b" | "b"):
                return _Array()
            case _Name.DTYPE, (str(text), *_) if DTYPE.fullmatch(text):
                return _Dtype(text)
            case _Name.SCALAR, (_Dtype() as dtype, bytes() | str() as content):
                return _Array(dtype=dtype, content=self.encode(content))
            case _Name.FROM_BUFFER, (bytes(content), _Dtype() as dtype, tuple(shape), "C" | "F" as order):
                return _Array(shape=shape, dtype=dtype, fortran=order == "F", content=content)
            case _Name.ENCODE, (str(text), "latin1" | "latin-1"):
                return self.encode(text)
            case _Name.BYTES, ():
                return b""
        raise _RefusedError(f"a call of {_kind(name)}, or one with odd arguments")

    def build(self) -> None:
        target, state = self.last(2)
        match target, state:
            case _Array(dtype=None), (1, tuple(shape), _Dtype() as dtype, bool(fortran), bytes() | str() as content):
                target.shape, target.dtype, target.fortran = shape, dtype, fortran
                target.content = self.encode(content)
            case _Dtype(order=""), (3 | 4, "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, int()):
                target.order = order
            case _:
                raise _RefusedError(f"a state of {_kind(target)} that is not one of arrays of numbers")
        self.stack.append(target)

    def encode(self, text: bytes | str) -> bytes:
        """The bytes that Python 2 held, or Python 3 pickled for it, as text."""
        if isinstance(text, bytes):
            return text
        # Each text is written before it is encoded; one that is remembered and encoded again and again would grow.
        self._encoded += len(text)
        if self._encoded > len(self._content):
            raise _RefusedError("more bytes than it holds")
        return text.encode("latin1")


class _Made:
    """Arrays and plain values of what a machine collected, each container once, of at most ``budget`` bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._made: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in (str, bytes, int, float, bool, type(None)):
            return value
        if id(value) in self._made:
            return self._made[id(value)][1]
        if not depth:
            raise _RefusedError(f"more than {MAX_DEPTH} levels")
        made: Any
        if kind is list:
            value[:] = (self.of(item, depth - 1) for item in value)
            made = value
        elif kind is dict:
            for key, item in value.items():
                value[key] = self.of(item, depth - 1)
            made = value
        elif kind is tuple:
            made = tuple(self.of(item, depth - 1) for item in value)
        elif kind is _Array:
            made = self._array(value)
        else:
            raise _RefusedError(f"a {_kind(value)} as a value")
        self._made[id(value)] = value, made  # Both, so that no other value gets the same id.
        return made

    def _array(self, found: _Array) -> Any:
        if found.dtype is None or found.content is None:
            raise ValueError("an array without values")
        dtype, shape = found.dtype.made(), () if found.shape is None else found.shape
        if len(shape) > MAX_DIMENSIONS or any(type(length) is not int or length < 0 for length in shape):
            raise ValueError("an array of an impossible shape")
        if math.prod(shape) * dtype.itemsize != len(found.content):
            raise ValueError(f"an array {str(shape)[:80]} of {dtype} in {len(found.content)} bytes")
        self._budget -= len(found.content)
        if self._budget < 0:
            raise _RefusedError("more bytes than it holds")
        if not found.content:
            return np.empty(shape, dtype)
        values: NDArray[Any] = np.frombuffer(bytearray(found.content), dtype)
        if dtype.kind == "b" and values.view(np.uint8).max() > 1:
            raise ValueError("truth values beyond 0 and 1")
        return values[0] if found.shape is None else values.reshape(shape, order="F" if found.fortran else "C")


def _kind(value: object) -> str:
    return value.value if isinstance(value, _Name) else type(value).__name__.strip("_").lower()


def _text_int(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else _int64(int(line.removesuffix(b"L")))


def _int64(value: int) -> int:
    if not -(2**63) <= value < 2**64:
        raise ValueError("an integer of more than 64 bits")
    return value


def _quoted(line: bytes) -> str:
    found = QUOTED.match(line)
    if found is None or line[found.end() - 1 :] != found[1] or len(found[2]) < 1:
        raise ValueError("a string without its quotes")
    return codecs.escape_decode(found[2][:-1])[0].decode("latin1")


_Operation = Callable[[_Machine], object]


def _pushed(read: Callable[[_Machine], Any]) -> _Operation:
    def push(machine: _Machine) -> None:
        value = read(machine)  # Before the stack is looked at: what ends at a mark is the whole stack.
        machine.stack.append(value)

    return push


def _new(make: Callable[[], Any]) -> _Operation:
    return lambda machine: machine.stack.append(make())


_OPERATIONS: Final[Mapping[bytes, _Operation]] = {
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    b"(": _Machine.mark,
    b"N": _new(lambda: None),
    b"\x88": _new(lambda: True),
    b"\x89": _new(lambda: False),
    b"I": _pushed(lambda m: _text_int(m.line())),
    b"L": _pushed(lambda m: _text_int(m.line())),
    b"J": _pushed(lambda m: m.number("<i")),
    b"K": _pushed(lambda m: m.number("<B")),
    b"M": _pushed(lambda m: m.number("<H")),
    b"\x8a": _pushed(lambda m: _int64(int.from_bytes(m.sized("<B"), "little", signed=True))),
    b"F": _pushed(lambda m: float(m.line())),
    b"G": _pushed(lambda m: m.number(">d")),
    b"S": _pushed(lambda m: _quoted(m.line())),
    b"T": _pushed(lambda m: m.sized("<i").decode("latin1")),
    b"U": _pushed(lambda m: m.sized("<B").decode("latin1")),
    b"B": _pushed(lambda m: m.sized("<I")),
    b"C": _pushed(lambda m: m.sized("<B")),
    b"\x8e": _pushed(lambda m: m.sized("<Q")),
    b"\x96": _pushed(lambda m: m.sized("<Q")),
    b"V": _pushed(lambda m: m.line().decode("raw-unicode-escape")),
    b"\x8c": _pushed(lambda m: m.sized("<B").decode()),
    b"X": _pushed(lambda m: m.sized("<I").decode()),
    b"\x8d": _pushed(lambda m: m.sized("<Q").decode()),
    b"]": _new(list),
    b"l": _pushed(_Machine.since_mark),
    b"a": lambda m: m.append(m.last(1)),
    b"e": lambda m: m.append(m.since_mark()),
    b")": _new(tuple),
    b"t": _pushed(lambda m: tuple(m.since_mark())),
    b"\x85": _pushed(lambda m: tuple(m.last(1))),
    b"\x86": _pushed(lambda m: tuple(m.last(2))),
    b"\x87": _pushed(lambda m: tuple(m.last(3))),
    b"}": _new(dict),
    b"d": lambda m: m.make_dict(m.since_mark()),
    b"s": lambda m: m.set_items(m.last(2)),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"p": lambda m: m.remember(int(m.line())),
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": _Machine.remember,
    b"g": lambda m: m.recall(int(m.line())),
    b"h": lambda m: m.recall(m.number("<B")),
    b"j": lambda m: m.recall(m.number("<I")),
    b"c": lambda m: m.refer(m.line().decode(), m.line().decode()),
    b"\x93": lambda m: m.refer(*m.last(2)),
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
"""By the byte of the opcode; `pickletools` describes them."""
