"""The reader: a feature set, and what its rows are handed out as."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._packing import pack, unpack
from featurebank.store._sealed import SealedFile, Verification
from featurebank.store.addresses import Url
from featurebank.store.errors import InvalidInputError
from featurebank.store.rows import LazyOutput, RowDataset, data_frame, iterate_batches
from featurebank.store.verify import VerifyReport, verify

__all__ = ["FeatureSet", "Verification"]


class FeatureSet(SealedFile):
    """All outputs of one backbone on one split: a sealed file, opened.

    Opening checks the header's digest, which covers everything but the outputs and records, and the fingerprint;
    records are checked when first touched, outputs by `verify`. All views are of one shared, read-only mapping: any
    number of processes and threads may read, forked ones too, and pickling sends the path. Views stay valid after
    `close`. As with every mapped file, truncating it while it is open kills its readers.

    Of a packed file only the chunks that hold the rows asked for are read, each checked before it is decompressed; of
    a file on a server, only the rows asked for are fetched, and it must stay the file that was opened.

    As of a data frame, ``len`` counts the rows, while iteration and ``in`` are about the names of the outputs.

    Args:
        path: The file, or its URL, ``https://…``, ``s3://…``, which needs fsspec.
        verify: ``"first_touch"`` hashes each chunk before its values are handed out for the first time: all chunks of
            an output for ``feature_set[name]``, those of the rows asked for in `load`, `batches` and `to_torch`. From
            a server whole chunks are then fetched, and hashed each time. Packed chunks are always checked.
            ``"header"`` leaves the outputs' values to `verify`.
        within: The store's folder, where the file must lie in it whatever links lead to it.

    Attributes:
        path: The file.
        older: Fingerprints of sets with older contents of the dataset, which `FeatureStore.open` passed over.
        header: Its decoded header.
        table: The header's table: where everything lies in the file.

    Raises:
        NotFoundError: there is no such file.
        NotAFeatureSetError: it is something else.
        FormatVersionError: it is in another format version.
        NotSealedError: it is still being written.
        CorruptError: it is damaged.
    """

    older: tuple[str, ...] = ()

    @property
    def X(self) -> NDArray[Any]:  # noqa: N802 - as scikit-learn calls it
        """The features of the ok rows, (M, …), in the stored dtype: of ``pooled``, or of the only output.

        Raises:
            InvalidInputError: there are several outputs, none of them ``pooled``.

        With `y` what scikit-learn takes: ``LogisticRegression().fit(fs.X, fs.y)``.
        """
        if "pooled" not in self.outputs and len(self.outputs) > 1:
            raise InvalidInputError(
                f"X must be of pooled, or of the only output; found {', '.join(self.outputs)}; take fs[name]"
            )
        name = "pooled" if "pooled" in self.outputs else self.outputs[0]
        return self[name] if self.ok.all() else self[name][self.ok]

    @property
    def y(self) -> NDArray[np.int64]:
        """The labels of the ok rows, (M,) or (M, L), in the order of `X`; -1 where there is none."""
        return self.labels if self.ok.all() else self.labels[self.ok]

    def batches(
        self,
        batch_size: int,
        outputs: Sequence[str] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_failed: bool = True,
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Every row exactly once, in batches of fresh arrays: the outputs by name, ``labels``, and ``rows``.

        A shuffle is one uniform permutation of all rows, the same for the same seed. It reads rows at random, which is
        fast while the file fits into the page cache and as slow as the disk's random reads beyond.

        Args:
            batch_size: Rows per batch; the last may hold fewer.
            outputs: The outputs; all if None.
            shuffle: Permute the rows.
            seed: Of the permutation.
            drop_failed: Leave out rows without features.
        """
        if batch_size < 1:
            raise InvalidInputError(f"batch_size must be at least 1; found {batch_size}")
        names = self.outputs if outputs is None else tuple(outputs)
        for name in names:
            self._open_values(name)
        rows = np.flatnonzero(self.ok) if drop_failed else np.arange(self.n_rows)
        if shuffle:
            rows = np.random.default_rng(seed).permutation(rows)
        return iterate_batches(self, names, rows, batch_size)

    def to_torch(self, *outputs: str) -> RowDataset:
        """A map-style dataset for ``torch.utils.data.DataLoader`` over the ok rows: ``(features…, label)``.

        Args:
            outputs: The outputs, in the order of the items; all if none is named.
        """
        for name in outputs:
            self._entry(name)
        return RowDataset(self, outputs or self.outputs)

    def to_dask(self, name: str) -> Any:
        """A ``dask.array.Array`` of an output, (N, …), failed rows included: a block per chunk, read when computed.

        Blocks travel between processes as the path and their rows. Needs dask.
        """
        import dask.array

        info = self.info(name)
        # Equal content has an equal name, so that dask computes it once.
        return dask.array.from_array(  # type: ignore[no-untyped-call]
            LazyOutput(self, info),
            chunks=(self.chunk_rows(name), *info.shape),
            name=f"featurebank-{self.fingerprint}-{name}",
            asarray=False,
            inline_array=True,
        )

    def to_pandas(self, *outputs: str) -> Any:
        """A ``pandas.DataFrame`` of all rows by their ids: label, ``label_name`` where names are known, ok, columns.

        Columns of one's own are called ``column.NAME``; outputs have a float32 column a number, ``pooled.0`` … Needs
        pandas.

        Args:
            outputs: The outputs; none if none is named, for they are many columns.

        Raises:
            InvalidInputError: pandas is not installed.
        """
        return data_frame(self, outputs)

    def pack(self, path: str | os.PathLike[str]) -> FeatureSet:
        """Writes a compressed, verified copy that the same reader opens; smaller, and slower to read.

        Values are compressed losslessly in chunks of about 16 KiB by byte shuffle and Zstandard. Needs hdf5plugin;
        reading the copy needs backports.zstd before Python 3.14. Open this one with ``verify="first_touch"`` to pack
        nothing unverified.

        Raises:
            ExistsError: there is something at ``path``.
            InvalidInputError: it is packed already, or hdf5plugin is not installed.
        """
        pack(self, Path(path))
        return FeatureSet(path)

    def unpack(self, path: str | os.PathLike[str]) -> FeatureSet:
        """Writes the uncompressed feature set of a packed one: the same rows and key, the same bytes as before.

        The bytes are the same where HDF5 is of the same release and the provenance had its first size. What an earlier
        attempt that was cut short left behind is gone on with.

        Raises:
            ExistsError: there is something at ``path``.
            LockedError: another writer is making it.
            InvalidInputError: it is not packed.
        """
        unpack(self, Path(path))
        return FeatureSet(path)

    def verify(self) -> VerifyReport:
        """Hashes everything again, then compares the header with the HDF5 metadata.

        Raises:
            CorruptError: naming the output, chunk and rows, or the array, or what differs.
        """
        if isinstance(self.path, Url):
            raise InvalidInputError(f"{self.path} must be a local file to be verified; fetch it first")
        return verify(self.path)
