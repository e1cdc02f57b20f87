"""The feature store: one sealed HDF5 file per feature set, read at memory speed. See FORMAT.md.

>>> import tempfile
>>> from featurebank.store import FeatureStore
>>> store = FeatureStore(tempfile.mkdtemp())
>>> features = [[0.5, 1.0], [0.25, 2.0]]
>>> fs = store.add("animals/train", "mine", features, labels=[0, 1], class_names=["cat", "dog"])
>>> store.open("animals/train", "mine")["pooled"].shape, len(store), "animals/train" in store
((2, 2), 1, True)
"""

from typing import TYPE_CHECKING

from featurebank._faces import lazy_names

if TYPE_CHECKING:
    from featurebank.store._collecting import Garbage as Garbage
    from featurebank.store._merging import Merged as Merged
    from featurebank.store._records import Output as Output
    from featurebank.store._records import Records as Records
    from featurebank.store._streaming import BatchWriter as BatchWriter
    from featurebank.store.catalogue import FeatureStore as FeatureStore
    from featurebank.store.entries import Entries as Entries
    from featurebank.store.entries import Entry as Entry
    from featurebank.store.errors import (
        AmbiguousError as AmbiguousError,
    )
    from featurebank.store.errors import (
        CorruptError as CorruptError,
    )
    from featurebank.store.errors import (
        ExistsError as ExistsError,
    )
    from featurebank.store.errors import (
        FormatVersionError as FormatVersionError,
    )
    from featurebank.store.errors import (
        IncompleteError as IncompleteError,
    )
    from featurebank.store.errors import (
        InvalidInputError as InvalidInputError,
    )
    from featurebank.store.errors import (
        LockedError as LockedError,
    )
    from featurebank.store.errors import (
        NonFiniteError as NonFiniteError,
    )
    from featurebank.store.errors import (
        NotAFeatureSetError as NotAFeatureSetError,
    )
    from featurebank.store.errors import (
        NotFoundError as NotFoundError,
    )
    from featurebank.store.errors import (
        NotSealedError as NotSealedError,
    )
    from featurebank.store.errors import (
        StorageError as StorageError,
    )
    from featurebank.store.errors import (
        StoreError as StoreError,
    )
    from featurebank.store.errors import (
        TooLargeError as TooLargeError,
    )
    from featurebank.store.errors import (
        UncheckedError as UncheckedError,
    )
    from featurebank.store.errors import (
        UnknownNameError as UnknownNameError,
    )
    from featurebank.store.reader import FeatureSet as FeatureSet
    from featurebank.store.rows import RowDataset as RowDataset
    from featurebank.store.verify import VerifyReport as VerifyReport
    from featurebank.store.writer import FeatureSetWriter as FeatureSetWriter
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "_collecting": "Garbage",
            "_merging": "Merged",
            "_records": "Output Records",
            "_streaming": "BatchWriter",
            "catalogue": "FeatureStore",
            "entries": "Entries Entry",
            "errors": (
                "AmbiguousError CorruptError ExistsError FormatVersionError IncompleteError "
                "InvalidInputError LockedError NonFiniteError NotAFeatureSetError NotFoundError "
                "NotSealedError StorageError StoreError TooLargeError UncheckedError UnknownNameError"
            ),
            "reader": "FeatureSet",
            "rows": "RowDataset",
            "verify": "VerifyReport",
            "writer": "FeatureSetWriter",
        },
    )
