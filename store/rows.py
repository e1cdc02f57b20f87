"""Rows out of a feature set: batches of arrays, and a map-style dataset for a DataLoader. Needs no torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._records import Output
from featurebank.store._sealed import SealedFile
from featurebank.store.errors import InvalidInputError
from featurebank.store.requirements import advice

__all__ = ["LazyOutput", "RowDataset", "data_frame", "iterate_batches", "label_names", "plain_text"]


class RowDataset:
    """The ok rows of a feature set as a map-style dataset; made by `FeatureSet.to_torch`.

    Items are ``(features…, label)``: a fresh NumPy array per output and the label, an int or, multi-label, an int64
    array. ``__getitems__`` fetches a whole batch in one gather per output, which a DataLoader does by itself; with
    ``collate_fn=RowDataset.collate`` it also skips making tensors of single rows, which costs most of an epoch.
    Pickling sends the path, so that spawned workers open the file themselves.

    >>> import tempfile, torch
    >>> from featurebank.store import FeatureStore
    >>> fs = FeatureStore(tempfile.mkdtemp()).add("agnews/train", "minilm", np.eye(6, 8), labels=[0, 1, 2, 1, 0, 2])
    >>> rows = fs.to_torch("pooled")
    >>> for features, labels in torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=rows.collate):
    ...     print(tuple(features.shape), features.dtype, labels.tolist())
    (4, 8) torch.float16 [0, 1, 2, 1]
    (2, 8) torch.float16 [0, 2]

    Attributes:
        feature_set: Where the rows are.
        outputs: The names of the outputs, in the order of an item.
        rows: The row numbers of the items.
    """

    def __init__(self, feature_set: SealedFile, outputs: Sequence[str]) -> None:
        self.feature_set = feature_set
        self.outputs = tuple(outputs)
        self.rows: NDArray[np.intp] = np.flatnonzero(feature_set.ok)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        row = int(self.rows[index])
        features = (self.feature_set.load(name, slice(row, row + 1))[0] for name in self.outputs)
        return (*features, _plain(self.feature_set.labels[row]))

    def __getitems__(self, indices: Sequence[int]) -> Items:
        """The items of a batch, each as `__getitem__` gives it."""
        rows = self.rows[np.asarray(indices, np.intp)]
        return Items(*(self.feature_set.load(name, rows) for name in self.outputs), self.feature_set.labels[rows])

    @staticmethod
    def collate(items: Sequence[Any]) -> Any:
        """A batch of items as tensors ``(features…, labels)``, equal to those of torch's ``default_collate``."""
        torch = importlib.import_module("torch")
        if isinstance(items, Items):
            return [torch.from_numpy(array) for array in items.arrays]
        return torch.utils.data.default_collate(list(items))


class Items(Sequence[tuple[Any, ...]]):
    """Items of a batch, taken out of the arrays ``(features…, labels)`` when they are asked for."""

    def __init__(self, *arrays: NDArray[Any]) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays[-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Items(*(array[index] for array in self.arrays))
        *features, label = (array[index] for array in self.arrays)
        return (*features, _plain(label))


class LazyOutput:
    """An output that reads the rows it is indexed with: what `FeatureSet.to_dask` gives to dask."""

    def __init__(self, feature_set: SealedFile, output: Output) -> None:
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
    feature_set: SealedFile, outputs: Sequence[str], rows: NDArray[np.intp], batch_size: int
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


def label_names(feature_set: SealedFile, rows: slice = slice(None)) -> list[Any] | None:
    """The name of each row's class, ``None`` for a label without one; a list of names where a row has many labels.

    ``None`` instead of a list where the set has no class names, or not one for each place of its labels.
    """
    names, labels = feature_set.class_names, feature_set.labels
    if not names or (labels.ndim > 1 and len(names) != labels.shape[1]):
        return None
    if labels.ndim > 1:
        return [[names[place] for place in np.flatnonzero(row > 0)] for row in labels[rows]]
    return [names[label] if 0 <= label < len(names) else None for label in labels[rows].tolist()]


def data_frame(feature_set: SealedFile, outputs: Sequence[str]) -> Any:
    """What `FeatureSet.to_pandas` gives."""
    infos = [feature_set.info(name) for name in outputs]
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise InvalidInputError(f"a data frame {advice('pandas')}") from error
    labels, names = feature_set.labels, label_names(feature_set)
    records: dict[str, Any] = {"label": labels if labels.ndim == 1 else labels.tolist()}
    if names is not None:
        records["label_name"] = names
    records["ok"] = feature_set.ok
    records |= {f"column.{name}": plain_text(values) for name, values in feature_set.columns.items()}
    index = pandas.Index(plain_text(feature_set.ids), name="id")
    parts = [pandas.DataFrame(records, index=index)]
    for info in infos:
        values = feature_set.load(info.name).astype(np.float32).reshape(len(feature_set), -1)
        columns = [".".join([info.name, *map(str, place)]) for place in np.ndindex(*info.shape)]
        parts.append(pandas.DataFrame(values, index=index, columns=columns))
    return pandas.concat(parts, axis=1)


def _plain(label: Any) -> Any:
    return label.copy() if isinstance(label, np.ndarray) else int(label)
