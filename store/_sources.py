"""Features that are handed in: arrays, or blocks that come once, cast to what is stored and read by stretches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.store._claiming import hidden_file, make_folder
from featurebank.store._records import Output, checked_outputs, first_few, quantity
from featurebank.store.errors import InvalidInputError, NonFiniteError

Features: TypeAlias = ArrayLike | Mapping[str, ArrayLike] | Iterable[ArrayLike | Mapping[str, ArrayLike]]
_AT_ONCE = 8 << 20
# The bits of the exponent: all are set in infinity and NaN, none in zero and what is too small to have all its digits.
_EXPONENT = {"float16": np.uint16(0x7C00), "float32": np.uint32(0x7F800000)}


class Source:
    """Rows as they will be stored, read by stretches, more than once."""

    def __init__(self, outputs: Sequence[Output], n_rows: int) -> None:
        self.outputs = checked_outputs(outputs)
        self.n_rows = n_rows
        self.row_bytes = {o.name: math.prod(o.shape) * np.dtype(o.dtype).itemsize for o in self.outputs}

    def stretches(self) -> Iterator[tuple[int, int]]:
        """Beginnings and ends of rows of about 8 MiB."""
        step = max(1, _AT_ONCE // max(1, sum(self.row_bytes.values())))
        return ((start, min(start + step, self.n_rows)) for start in range(0, self.n_rows, step))

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of an output, in the stored dtype."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of what is no longer needed."""


class _Arrays(Source):
    """Arrays that are there, or whatever gives arrays for slices, such as a mapped file."""

    def __init__(self, arrays: Mapping[str, Any], dtype: str) -> None:
        self._arrays = arrays
        super().__init__(outputs_of(arrays, dtype), len(next(iter(arrays.values()))))

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        output = next(output for output in self.outputs if output.name == name)
        return stored(output, self._arrays[name][start:stop], start)


class _Spooled(Source):
    """Blocks that come once: kept in a file without a name until the key, which has their digest, is known."""

    def __init__(self, folder: Path, blocks: Iterator[Any], dtype: str, n_rows: int) -> None:
        first = named_arrays(next(blocks, {}))
        super().__init__(outputs_of(first, dtype), n_rows)
        make_folder(folder)
        self._disk = hidden_file(folder)
        self._disk.path.unlink()
        sizes = (self.row_bytes[output.name] * n_rows for output in self.outputs)
        self._begin = dict(zip(self.row_bytes, itertools.accumulate(sizes, initial=0), strict=False))
        try:
            self._fill(itertools.chain([first], map(named_arrays, blocks)))
        except BaseException:
            self.close()
            raise

    def _fill(self, blocks: Iterator[Mapping[str, Any]]) -> None:
        done = 0
        for block in blocks:
            check_outputs(outputs_of(block, "float16"), self.outputs, done)
            stop = done + len(next(iter(block.values())))
            for output in self.outputs if stop <= self.n_rows else ():
                values = stored(output, block[output.name], done)
                address = self._begin[output.name] + done * self.row_bytes[output.name]
                self._disk.write(address, values.reshape(-1).view(np.uint8))
            done = stop
            if done > self.n_rows:
                break
        if done != self.n_rows:
            found = "more" if done > self.n_rows else f"{done:,}"
            raise InvalidInputError(f"the blocks must have {quantity(self.n_rows, 'row')} together; found {found}")

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        output = next(output for output in self.outputs if output.name == name)
        size = self.row_bytes[name]
        data = self._disk.read(self._begin[name] + start * size, (stop - start) * size)
        return data.view(output.dtype).reshape(stop - start, *output.shape)

    def close(self) -> None:
        self._disk.close()


def source_of(folder: Path, features: Features, dtype: str, counts: Mapping[str, int | None]) -> Source:
    if dtype not in ("float16", "float32"):
        raise InvalidInputError(f"dtype must be float16 or float32; found {dtype!r}")
    known = {name: count for name, count in counts.items() if count is not None}
    source: Source | None = None
    if isinstance(features, Mapping) or not _is_blocks(features):
        source = _Arrays(named_arrays(features), dtype)
        known = {"features": source.n_rows, **known}
    if len(set(known.values())) > 1:
        found = ", ".join(f"{count:,} {name}" for name, count in known.items())
        raise InvalidInputError(f"all that is given of the rows must be of as many; found {found}")
    if source is not None:
        return source
    if not known:
        raise InvalidInputError(
            "of features that come in blocks the number of rows must be known before; found none; "
            "give n_rows, labels or ids"
        )
    return _Spooled(folder, iter(features), dtype, next(iter(known.values())))  # type: ignore[arg-type]


def _is_blocks(features: object) -> bool:
    """Whether it gives blocks of rows one after the other; else it is one array, or what NumPy makes one of."""
    if hasattr(features, "__array__") or (hasattr(features, "dtype") and hasattr(features, "shape")):
        return False
    if isinstance(features, list | tuple):
        return bool(features) and (isinstance(features[0], Mapping) or np.ndim(features[0]) > 1)
    if isinstance(features, str | bytes) or not isinstance(features, Iterable):
        raise InvalidInputError(
            f"features must be an array, a mapping of outputs, or blocks of them; found {type(features).__name__}"
        )
    return True


def check_outputs(outputs: Sequence[Output], first: Sequence[Output], done: int) -> None:
    """Raises InvalidInputError where a block after so many rows has other outputs than the first, in any order."""
    if {o.name: o.shape for o in outputs} != {o.name: o.shape for o in first}:
        raise InvalidInputError(
            f"every block must have the outputs of the first, {_shapes(first)}; "
            f"found {_shapes(outputs)} from row {done} on"
        )


def named_arrays(features: Any) -> dict[str, Any]:
    """The arrays of features by the names of their outputs.

    Raises:
        InvalidInputError: there is none, or what NumPy makes no array of real numbers of.
    """
    given = dict(features) if isinstance(features, Mapping) else {"pooled": features}
    if not given:
        raise InvalidInputError("features must have at least one output and one row; found none")
    # What has a dtype and a shape is read by slices: it may be larger than the memory.
    return {n: v if hasattr(v, "dtype") and hasattr(v, "shape") else _asarray(n, v) for n, v in given.items()}


def outputs_of(arrays: Mapping[str, Any], dtype: str) -> list[Output]:
    """What the arrays are as outputs.

    Raises:
        InvalidInputError: they are no rows, or not of as many.
    """
    shapes = {name: tuple(int(n) for n in values.shape) for name, values in arrays.items()}
    flat = [name for name, shape in shapes.items() if len(shape) < 2]
    if flat or len({shape[0] for shape in shapes.values()}) > 1:
        raise InvalidInputError(
            "features must be (rows, numbers, …), with as many rows in each output; found "
            + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        )
    return [Output(name=name, shape=shape[1:], dtype=dtype) for name, shape in shapes.items()]


def _shapes(outputs: Iterable[Output]) -> str:
    return ", ".join(f"{output.name} {output.shape}" for output in outputs)


def _asarray(name: str, values: Any) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except Exception as error:
        raise InvalidInputError(
            f"output {name!r} must be what NumPy makes an array of; found {type(values).__name__}: {error}"
        ) from error
    if np.ma.is_masked(values):
        raise InvalidInputError(f"output {name!r} must have a number everywhere; found masked ones; fill or drop them")
    if array.dtype.kind not in "fiub":
        raise InvalidInputError(f"output {name!r} must be real numbers; found {array.dtype}")
    return array


def stored(output: Output, given: Any, start: int) -> NDArray[Any]:
    """Rows in the stored dtype, C-contiguous.

    Raises:
        NonFiniteError: NaN or infinity, also after the cast.
        InvalidInputError: a row of numbers all so small that digits of each are lost.
    """
    values, dtype = _asarray(output.name, given), np.dtype(output.dtype).newbyteorder("<")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        kept = np.ascontiguousarray(values, dtype)
    flat = kept.reshape(len(kept), math.prod(output.shape))
    advice = "; add them with dtype='float32'" if output.dtype == "float16" else "; scale them"
    exponent = flat.view(f"<u{dtype.itemsize}") & _EXPONENT[output.dtype]
    if (bad := np.flatnonzero((exponent == _EXPONENT[output.dtype]).any(axis=1))).size:
        row = values[bad[0]].ravel()
        odd = row[~np.isfinite(flat[bad[0]])][0]
        advice = advice if np.isfinite(odd) else "; leave such rows out, or mend them"
        raise NonFiniteError(
            f"output {output.name!r} must be finite in {output.dtype}; found {odd:.6g} in "
            f"{quantity(len(bad), 'row')}: {first_few(start + bad)}{advice}"
        )
    small = np.flatnonzero(~exponent.any(axis=1))
    lost = small[values[small].reshape(len(small), flat.shape[1]).any(axis=1)]
    if lost.size:
        raise InvalidInputError(
            f"output {output.name!r} must keep its digits in {output.dtype}; found only numbers below "
            f"{np.finfo(output.dtype).smallest_normal:.2g} in {quantity(len(lost), 'row')}: "
            f"{first_few(start + lost)}{advice}"
        )
    return kept
