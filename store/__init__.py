"""The feature store: one sealed HDF5 file per feature set, read at memory speed. See FORMAT.md.

>>> from featurebank.store import FeatureStore
>>> FeatureStore("features").ls()
[]
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
    "VerifyReport",
]
