"""The catalogue: a directory of feature sets, found by dataset, split, backbone and fingerprint."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from featurebank.store._adding import Added, add
from featurebank.store._collecting import Garbage, leftovers, superseded
from featurebank.store._collecting import delete as remove
from featurebank.store._holdings import Holdings, parts
from featurebank.store._listing import Folder, is_inside
from featurebank.store._merging import Merged, merged
from featurebank.store._names import encode_component, partial_path
from featurebank.store._noted import note, noted
from featurebank.store._published import INDEX, index_of
from featurebank.store._sources import Features
from featurebank.store._streaming import BatchWriter
from featurebank.store.errors import InvalidInputError
from featurebank.store.filing import Filing
from featurebank.store.reader import FeatureSet
from featurebank.store.verify import VerifyReport

__all__ = ["FeatureStore"]


class FeatureStore(Holdings):
    """A directory of feature sets: ``<root>/<dataset>/<split>/<backbone>/<16 hex of the fingerprint>.h5``.

    ``len(store)`` is the number of sealed sets, iterating gives their entries in the order of `ls`, and
    ``"dataset/split" in store`` is whether there is one of that split, or with ``"dataset"`` of any;
    ``store["dataset/split", "backbone"]`` opens one.

    Args:
        root: The directory, by default the one that ``$FEATUREBANK_STORE`` names. Writing makes it; whatever lists,
            counts, opens, verifies or collects raises `NotFoundError` where there is none. `find` and `state`, which
            ask before something is written, do not. Or the URL of a store on a server, ``https://…``, ``s3://…``,
            where `index` has written what there is: its sets are listed and opened, each checked as it is read.
    """

    def path_for(self, dataset: str, split: str, backbone: str, fingerprint: str) -> Path:
        """Where the feature set with that fingerprint belongs.

        Raises:
            InvalidInputError: a name that cannot name a folder, or a path that would leave the store.

        >>> FeatureStore("features").path_for("cifar10", "test", "timm/resnet18", "0123456789abcdef" * 4).as_posix()
        'features/cifar10/test/timm%2Fresnet18/0123456789abcdef.h5'
        """
        if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
            raise InvalidInputError(f"a fingerprint must be 64 hex digits; found {fingerprint!r}")
        names = (("dataset", dataset), ("split", split), ("backbone", backbone))
        path = self.root.joinpath(*(encode_component(name, what) for what, name in names), f"{fingerprint[:16]}.h5")
        if not is_inside(self.root, path):
            raise InvalidInputError(
                f"{path} must lie within {self.root}; a link leads to {os.path.realpath(path)}; remove it"
            )
        return path

    def add(
        self,
        dataset: str,
        backbone: str,
        features: Features,
        *,
        labels: ArrayLike | None = None,
        ids: Iterable[str] | None = None,
        n_rows: int | None = None,
        class_names: Sequence[str] = (),
        columns: Mapping[str, ArrayLike] | None = None,
        head: tuple[NDArray[Any], NDArray[Any]] | None = None,
        dtype: Literal["float16", "float32"] = "float16",
        content_hash: ArrayLike | Sequence[bytes] | None = None,
        key: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> FeatureSet:
        """Adds features that were made elsewhere, of images, text, audio or anything else, and opens them.

        To add the same again does nothing and opens what is there; nothing is ever replaced. Where other features or
        records are added under the names and `key` of a set, they are a newer content of the dataset: `open` reads
        them from then on. Blocks go to a file without a name in the store first, so that one at a time is in memory.

        Args:
            dataset: ``"dataset/split"``.
            backbone: What made the features, by name.
            features: An array (N, …) called ``pooled``, a mapping of names to arrays, or an iterable of blocks of
                consecutive rows, each as either of these. What has ``dtype`` and ``shape`` is read by slices.
            labels: Whole numbers (N,), or (N, L) of several labels a row; -1 is none, which is so for all by default.
            ids: N distinct strings, of many best a NumPy array of ``StringDType``; ``"0"`` to ``"N-1"`` by default.
            n_rows: N; needed for blocks where there are neither labels nor ids.
            class_names: One for each number of a class, or for each of L.
            columns: Name to N more values of each row.
            head: The classifier's weight (K, D) and bias (K,), float16 or float32.
            dtype: What is stored, ``"float16"`` or ``"float32"``.
            content_hash: What tells the contents apart: the contents themselves, N texts or bytes, or uint8 (N, 16), as
                `featurebank.store.fingerprint.content_hash` makes it of bytes. By default the content is said to be
                unknown, and the hash is that of the features' bytes, as they are stored.
            key: What determined the numbers, such as name, version and settings: plain JSON, in the fingerprint.
                Sets of one backbone with different keys lie beside each other; `open` then needs a fingerprint.
            provenance: What did not: plain JSON.

        Raises:
            InvalidInputError: something that cannot be stored; features that are not finite, or too small for all
                their digits, once they are cast; counts of rows that differ.
            TypeError: ``key`` or ``provenance`` is no plain JSON.
            ExistsError: a set of that key, ids, labels and content hashes is there with something else in it.
            LockedError: another process is adding the same.
            StorageError: the disk is full, read-only, …; nothing is left behind.

        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> import numpy as np
        >>> made_by = {"name": "all-MiniLM-L6-v2", "version": 2}
        >>> fs = store.add("agnews/train", "minilm", np.eye(4, 8), labels=[0, 1, 2, 1], key=made_by)
        >>> fs["pooled"].shape, fs.ids.tolist(), fs.key["made_with"]["version"]
        ((4, 8), ['0', '1', '2', '3'], 2)
        >>> blocks = (np.full((2, 8), number) for number in range(3))
        >>> store.add("agnews/test", "minilm", blocks, n_rows=6, key=made_by)["pooled"][:, 0].tolist()
        [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
        """
        name, split = parts(dataset)
        added = Added(
            dataset=name,
            split=split,
            backbone=backbone,
            labels=labels,
            ids=ids,
            n_rows=n_rows,
            class_names=class_names,
            columns=columns or {},
            head=head,
            dtype=dtype,
            content_hash=content_hash,
            key=key or {},
            provenance=provenance or {},
        )
        return add(lambda fingerprint: self.path_for(name, split, backbone, fingerprint), features, added)

    def writer(
        self,
        dataset: str,
        backbone: str,
        *,
        class_names: Sequence[str] = (),
        head: tuple[NDArray[Any], NDArray[Any]] | None = None,
        dtype: Literal["float16", "float32"] = "float16",
        key: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> BatchWriter:
        """Adds features that are made elsewhere as batches come, with their labels, ids and columns.

        Where those are known before, or the number of rows is, `add` takes a generator of blocks.

        Args:
            dataset: ``"dataset/split"``.
            backbone: What makes the features, by name.
            class_names: As `add` takes them; so is what follows.
            head: The classifier.
            dtype: What is stored.
            key: What determines the numbers.
            provenance: What does not.

        >>> import tempfile
        >>> import numpy as np
        >>> with FeatureStore(tempfile.mkdtemp()).writer("songs/train", "wav2vec", key={"layer": 6}) as writer:
        ...     for number in range(3):
        ...         writer.write(np.full((2, 8), number), labels=[0, 1], ids=[f"{number}a", f"{number}b"])
        ...     fs = writer.seal()
        >>> fs.X.shape, fs.y.tolist(), str(fs.ids[-1])
        ((6, 8), [0, 1, 0, 1, 0, 1], '2b')
        """
        given: dict[str, Any] = {
            "class_names": class_names,
            "head": head,
            "dtype": dtype,
            "key": key,
            "provenance": provenance,
        }
        folder = self.path_for(*parts(dataset), backbone, "0" * 64).parent
        return BatchWriter(folder, functools.partial(self.add, dataset, backbone, **given), dtype)

    def state(
        self, dataset: str, split: str, backbone: str, fingerprint: str
    ) -> Literal["sealed", "partial", "absent"]:
        """Whether a feature set is there, going by its file's name alone."""
        path = self.path_for(dataset, split, backbone, fingerprint)
        if path.is_file():
            return "sealed"
        return "partial" if partial_path(path).is_file() else "absent"

    def verify(self) -> list[VerifyReport]:
        """Verifies every file that is not a partial; what is wrong with one is in its report and stops no other.

        Raises:
            NotFoundError: there is no such folder.
        """
        return [entry.verify() for entry in self.ls() if entry.path.suffix == ".h5"]

    def index(self) -> Path:
        """Writes ``index.json`` into the store's folder: the sealed sets, for those who read them from a server.

        Publish the folder without its ``.origin``, and write the index anew after each change.

        Raises:
            NotFoundError: there is no such folder.
        """
        Filing(self.root, ".").write(INDEX, data=index_of(self))
        return self.root / INDEX

    def merge(self, other: FeatureStore) -> list[Merged]:
        """Copies every sealed set of another store that this one has not, verified before and after.

        What is here is never replaced, and partials stay where they are. What cannot be copied is said in its
        `Merged` and stops no other; after an interruption, merging again goes on with the next.

        Raises:
            NotFoundError: there is no folder of the other store.
            InvalidInputError: it is on a server.
        """
        there = FeatureStore(other.root).ls()
        here = list(self) if self.root.is_dir() else []
        return [merged(entry, self.path_for, here) for entry in there if entry.path.suffix == ".h5"]

    def gc(self, *, delete: bool = False, hours: float = 24) -> list[Garbage]:
        """What the store can do without: leavings of dead runs, and sets that a later one supersedes.

        A partial or layout is one that no writer holds and nobody has written to for ``hours``. A sealed set is
        superseded by one that was sealed later, of the same key but for the dataset's content: the dataset has grown
        or changed. Sets are deleted only where this store has sealed both and the data did not give the earlier content
        when they were last looked at; others are listed, with the reason why they are kept.

        Args:
            delete: Delete what is found and not kept; else only list it.
            hours: How long nobody must have written to a partial.

        Raises:
            NotFoundError: there is no such folder.
        """
        Folder(self.root).check_there()
        found = [garbage for garbage in leftovers(self.root, hours) if is_inside(self.root, garbage.path)]
        found += superseded(list(self), noted(self.root))
        if not delete:
            return found
        return [garbage if garbage.kept else replace(garbage, deleted=remove(garbage.path)) for garbage in found]

    def note_content(self, source: str, dataset: Mapping[str, Any]) -> None:
        """Notes which content a source of data gives now, so that `gc` keeps the sets that have it.

        Args:
            source: Tells apart the sources that share a dataset's name, such as two folders; only its hash is kept.
            dataset: The dataset's part of the key: name, split, digest and whatever else is in it.
        """
        note(self.root, source, dataset)
