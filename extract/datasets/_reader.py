"""Records whose images a function gives: rows of Arrow tables, items that only a dataset itself can decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._records import Records
from featurebank.extract.datasets.contract import Columns, DatasetSpec, Split
from featurebank.store.fingerprint import content_hash

__all__ = ["ReaderSplit"]


class ReaderSplit(Records):
    """Records that a function reads.

    It pickles as its spec and a function that opens it again, so that no worker is sent what the reader holds.

    Args:
        read: row to the encoded bytes or the raw pixels; raises OSError where it cannot. Safe in threads.
        reopen: gives the same split from its spec; importable by name.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        ids: Sequence[str],
        labels: NDArray[np.integer],
        class_names: Sequence[str] = (),
        columns: Columns | None = None,
        *,
        read: Callable[[int], bytes | NDArray[np.uint8]],
        reopen: Callable[[DatasetSpec], Split],
    ) -> None:
        super().__init__(spec, ids, labels, class_names, columns)
        self._read = read
        self._reopen = reopen
        self._rows = np.arange(len(self), dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen, (self.spec,)

    def take(self, rows: NDArray[np.int64]) -> ReaderSplit:
        """The records at these rows, in this order."""
        part = super().take(rows)
        part._rows = self._rows[rows]
        return part

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """The encoded file's bytes, or the raw pixels."""
        return self._read(int(self._rows[index]))

    def content_hashes(self) -> NDArray[np.uint8]:
        """(N, 16) hashes of what is read; all zero where it cannot be."""
        digests = []
        for index in range(len(self)):
            try:
                digests.append(content_hash(self.read(index)))
            except OSError:
                digests.append(bytes(16))
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
