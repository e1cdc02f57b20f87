"""The feature store: one sealed HDF5 file per feature set, read at memory speed. See FORMAT.md.

>>> import tempfile
>>> from featurebank.store import FeatureStore
>>> store = FeatureStore(tempfile.mkdtemp())
>>> features = [[0.5, 1.0], [0.25, 2.0]]
>>> fs = store.add("animals/train", "mine", features, labels=[0, 1], class_names=["cat", "dog"])
>>> store.open("animals/train", "mine")["pooled"].shape, len(store), "animals/train" in store
((2, 2), 1, True)
"""

from featurebank.store._collecting import Garbage
from featurebank.store._merging import Merged
from featurebank.store._records import Output, Records
from featurebank.store.catalogue import FeatureStore
from featurebank.store.entries import Entry
from featurebank.store.errors import (
    AmbiguousError,
    CorruptError,
    ExistsError,
    FormatVersionError,
    IncompleteError,
    InvalidInputError,
    LockedError,
    NonFiniteError,
    NotAFeatureSetError,
    NotFoundError,
    NotSealedError,
    StorageError,
    StoreError,
    TooLargeError,
    UncheckedError,
    UnknownNameError,
)
from featurebank.store.reader import FeatureSet
from featurebank.store.rows import RowDataset
from featurebank.store.verify import VerifyReport
from featurebank.store.writer import FeatureSetWriter

__all__ = [
    "AmbiguousError",
    "CorruptError",
    "Entry",
    "ExistsError",
    "FeatureSet",
    "FeatureSetWriter",
    "FeatureStore",
    "FormatVersionError",
    "Garbage",
    "IncompleteError",
    "InvalidInputError",
    "LockedError",
    "Merged",
    "NonFiniteError",
    "NotAFeatureSetError",
    "NotFoundError",
    "NotSealedError",
    "Output",
    "Records",
    "RowDataset",
    "StorageError",
    "StoreError",
    "TooLargeError",
    "UncheckedError",
    "UnknownNameError",
    "VerifyReport",
]
