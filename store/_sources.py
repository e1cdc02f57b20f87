"""Features that are handed in: arrays, or blocks that come once, cast to what is stored and read by stretches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.store._claiming import hidden_file, make_folder
from featurebank.store._disk import Disk
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
        super().__init__(_outputs(arrays, dtype), len(next(iter(arrays.values()))))

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        output = next(output for output in self.outputs if output.name == name)
        return _stored(output, self._arrays[name][start:stop], start)


class Spool(Source):
    """Rows of blocks that come once: kept in a file without a name for each output, until their key is known.

    Args:
        folder: where the files are, made if need be.
        dtype: what is stored.
    """

    def __init__(self, folder: Path, dtype: str) -> None:
        self.outputs, self.n_rows, self.row_bytes = (), 0, {}
        self._folder, self._dtype = folder, dtype
        self._disks: dict[str, Disk] = {}

    def ready(self, features: Any) -> dict[str, NDArray[Any]]:
        """The next block, output to rows, as `append` takes it.

        Raises:
            InvalidInputError: it has other outputs than the first, or cannot be stored.
        """
        arrays = _named_arrays(features)
        outputs = _outputs(arrays, self._dtype)
        first = self.outputs or outputs
        if {o.name: o.shape for o in outputs} != {o.name: o.shape for o in first}:
            raise InvalidInputError(
                f"every block must have the outputs of the first, {_shapes(first)}; "
                f"found {_shapes(outputs)} from row {self.n_rows} on"
            )
        return {output.name: _stored(output, arrays[output.name], self.n_rows) for output in outputs}

    def append(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Writes the rows of a block.

        Raises:
            StorageError: the disk is full, failing, …
        """
        if not self.outputs:
            super().__init__(_outputs(block, self._dtype), 0)
            make_folder(self._folder)
            for name in block:
                self._disks[name] = hidden_file(self._folder)
                self._disks[name].path.unlink()
        for name, rows in block.items():
            self._disks[name].write(self.n_rows * self.row_bytes[name], rows.reshape(-1).view(np.uint8))
        self.n_rows += len(next(iter(block.values())))

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        output = next(output for output in self.outputs if output.name == name)
        size = self.row_bytes[name]
        data = self._disks[name].read(start * size, (stop - start) * size)
        return data.view(output.dtype).reshape(stop - start, *output.shape)

    def close(self) -> None:
        for disk in self._disks.values():
            disk.close()


def _spooled(folder: Path, blocks: Iterator[Any], dtype: str, n_rows: int) -> Spool:
    spool = Spool(folder, dtype)
    try:
        for features in blocks:
            block = spool.ready(features)
            if spool.n_rows + len(next(iter(block.values()))) > n_rows:
                raise InvalidInputError(f"the blocks must have {quantity(n_rows, 'row')} together; found more")
            spool.append(block)
        if not spool.outputs:
            spool.ready({})
        if spool.n_rows < n_rows:
            raise InvalidInputError(f"the blocks must have {quantity(n_rows, 'row')} together; found {spool.n_rows:,}")
    except BaseException:
        spool.close()
        raise
    return spool


def source_of(folder: Path, features: Features, dtype: str, counts: Mapping[str, int | None]) -> Source:
    if dtype not in ("float16", "float32"):
        raise InvalidInputError(f"dtype must be float16 or float32; found {dtype!r}")
    known = {name: count for name, count in counts.items() if count is not None}
    source = features if isinstance(features, Source) else None
    if source is None and (isinstance(features, Mapping) or not _is_blocks(features)):
        source = _Arrays(_named_arrays(features), dtype)
    if source is not None:
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
    return _spooled(folder, iter(features), dtype, next(iter(known.values())))  # type: ignore[arg-type]


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


def _named_arrays(features: Any) -> dict[str, Any]:
    """The arrays of features by the names of their outputs.

    Raises:
        InvalidInputError: there is none, or what NumPy makes no array of real numbers of.
    """
    given = dict(features) if isinstance(features, Mapping) else {"pooled": features}
    if not given:
        raise InvalidInputError("features must have at least one output and one row; found none")
    # What has a dtype and a shape is read by slices: it may be larger than the memory.
    return {n: v if hasattr(v, "dtype") and hasattr(v, "shape") else _asarray(n, v) for n, v in given.items()}


def _outputs(arrays: Mapping[str, Any], dtype: str) -> list[Output]:
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


def _stored(output: Output, given: Any, start: int) -> NDArray[Any]:
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
