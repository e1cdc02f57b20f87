"""Rows out of a feature set: batches of arrays, and a map-style dataset for a DataLoader. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._records import Output

if TYPE_CHECKING:
    from featurebank.store.reader import FeatureSet

__all__ = ["LazyOutput", "RowDataset", "iterate_batches", "plain_text"]


class RowDataset:
    """The ok rows of a feature set as a map-style dataset; made by `FeatureSet.to_torch`.

    Items are ``(features…, label)``: a fresh NumPy array per output and the label, an int or, multi-label, an int64
    array. ``__getitems__`` fetches a whole batch in one gather per output, which a DataLoader does by itself. Pickling
    sends the path, so that spawned workers open the file themselves.

    Attributes:
        feature_set: Where the rows are.
        outputs: The names of the outputs, in the order of an item.
        rows: The row numbers of the items.
    """

    def __init__(self, feature_set: FeatureSet, outputs: Sequence[str]) -> None:
        self.feature_set = feature_set
        self.outputs = tuple(outputs)
        self.rows: NDArray[np.intp] = np.flatnonzero(feature_set.ok)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        row = self.rows[index]
        features = (self.feature_set.load(name, row[None])[0] for name in self.outputs)
        return (*features, _plain(self.feature_set.labels[row]))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        """The items of a batch, each as `__getitem__` gives it."""
        rows = self.rows[np.asarray(indices, np.intp)]
        features = [self.feature_set.load(name, rows) for name in self.outputs]
        labels = [_plain(label) for label in self.feature_set.labels[rows]]
        return list(zip(*features, labels, strict=True))


class LazyOutput:
    """An output that reads the rows it is indexed with: what `FeatureSet.to_dask` gives to dask."""

    def __init__(self, feature_set: FeatureSet, output: Output) -> None:
        self.feature_set = feature_set
        self.output = output
        self.shape = (len(feature_set), *output.shape)
        self.dtype = np.dtype(output.dtype)
        self.ndim = len(self.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        first, *others = index if isinstance(index, tuple) else (index,)
        return self.feature_set.load(self.output.name, first)[(slice(None), *others)]


def plain_text(strings: NDArray[Any]) -> NDArray[np.str_]:
    """Strings (N,) as ``str_``, also where a large set has them as ``StringDType``, which no file format knows."""
    if strings.dtype.kind != "T":
        return strings
    width = int(np.strings.str_len(strings).max()) if len(strings) else 1
    plain: NDArray[np.str_] = strings.astype(f"U{width}")
    return plain


def iterate_batches(
    feature_set: FeatureSet, outputs: Sequence[str], rows: NDArray[np.intp], batch_size: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yields the given rows in their order, ``batch_size`` at a time, as fresh arrays."""
    labels = feature_set.labels
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        yield {
            **{name: feature_set.load(name, chosen) for name in outputs},
            "labels": labels[chosen],
            "rows": chosen.copy(),
        }


def _plain(label: Any) -> Any:
    return label.copy() if isinstance(label, np.ndarray) else int(label)
