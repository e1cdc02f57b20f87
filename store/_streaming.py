"""Features that come in batches whose number nobody knows before: kept in files without names until all are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.store._sources import Spool
from featurebank.store.errors import InvalidInputError
from featurebank.store.reader import FeatureSet

_RECORDS = ("labels", "ids", "content_hash")


class BatchWriter:
    """Writes features of one's own batch by batch; made by `FeatureStore.writer`. Only `seal` makes a set of them.

    As a context manager it lets go of what was written, sealed or not. One batch at a time is in memory, and what is
    given of the rows beside their features.
    """

    def __init__(self, folder: Path, add: Callable[..., FeatureSet], dtype: str) -> None:
        self._folder, self._add, self._dtype = folder, add, dtype
        self._spool = Spool(folder, dtype)
        self._rest: dict[str, list[NDArray[Any]]] = {}

    @property
    def n_rows(self) -> int:
        """Rows that were written."""
        return self._spool.n_rows

    def write(
        self,
        features: ArrayLike | Mapping[str, ArrayLike],
        *,
        labels: ArrayLike | None = None,
        ids: Iterable[str] | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
        content_hash: ArrayLike | None = None,
    ) -> None:
        """Writes the next rows. What the first batch has every batch must have; each as `FeatureStore.add` takes it.

        Args:
            features: (B, …) called ``pooled``, or a mapping of names to such arrays.
            labels: (B,) or (B, L).
            ids: B strings, distinct in the whole set.
            columns: Name to B more values of each row.
            content_hash: uint8 (B, 16), or the B contents themselves.

        Raises:
            InvalidInputError: it does not fit the first batch, or cannot be stored; the batch then is not written.
            StorageError: the disk is full, failing, …
        """
        block = self._spool.ready(features)
        rest = {
            name: given for name, given in zip(_RECORDS, (labels, ids, content_hash), strict=True) if given is not None
        }
        rest |= {f"column {name}": values for name, values in (columns or {}).items()}
        arrays = {name: _array(values) for name, values in rest.items()}
        self._check(arrays, len(next(iter(block.values()))))
        self._spool.append(block)
        for name, array in arrays.items():
            self._rest.setdefault(name, []).append(array)

    def seal(self) -> FeatureSet:
        """Makes a feature set of all rows, as `FeatureStore.add` does, and opens it; the writer is done.

        Raises:
            InvalidInputError: nothing was written, or what `FeatureStore.add` refuses.
            ExistsError: a set of that key, ids, labels and content hashes is there with something else in it.
        """
        if not self.n_rows:
            raise InvalidInputError("a feature set must have at least one row; found none written")
        rest = {name: np.concatenate(arrays) for name, arrays in self._rest.items()}
        columns = {name.removeprefix("column "): rest.pop(name) for name in [*rest] if name not in _RECORDS}
        try:
            return self._add(self._spool, columns=columns, **rest)
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of what was written."""
        self._spool.close()
        self._spool, self._rest = Spool(self._folder, self._dtype), {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, arrays: Mapping[str, NDArray[Any]], n_rows: int) -> None:
        """Raises where a batch has not what the first one has, or of another number of rows."""
        if self.n_rows and arrays.keys() != self._rest.keys():
            raise InvalidInputError(
                f"every batch must have what the first has beside features, {', '.join(self._rest) or 'nothing'}; "
                f"found {', '.join(arrays) or 'nothing'} from row {self.n_rows} on"
            )
        counts = {"features": n_rows, **{name: len(array) for name, array in arrays.items()}}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            raise InvalidInputError(f"all that is given of a batch must be of as many rows; found {found}")


def _array(values: Any) -> NDArray[Any]:
    """Of one dimension or more; contents that are bytes stay whole."""
    given = values if hasattr(values, "dtype") else list(values)
    if isinstance(given, list) and given and all(isinstance(one, bytes) for one in given):
        kept = np.empty(len(given), object)
        kept[:] = given
        return kept
    return np.atleast_1d(np.asarray(given))
