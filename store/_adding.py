"""One's own features as a feature set: whatever made them, of whatever they are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.store._chunks import checked_chunk, checksum
from featurebank.store._disk import Disk, lock
from featurebank.store._names import partial_path
from featurebank.store._records import Records, checked_head, checked_records
from featurebank.store._sources import Features, Source, source_of
from featurebank.store.errors import ExistsError, InvalidInputError
from featurebank.store.fingerprint import content_hash, fingerprint, records_digest
from featurebank.store.reader import FeatureSet
from featurebank.store.writer import FeatureSetWriter

Place: TypeAlias = Callable[[str], Path]
_KEY_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Added:
    """What is added beside the features; see `FeatureStore.add`."""

    dataset: str
    split: str
    backbone: str
    labels: ArrayLike | None
    ids: Iterable[str] | None
    n_rows: int | None
    class_names: Sequence[str]
    columns: Mapping[str, ArrayLike]
    head: tuple[NDArray[Any], NDArray[Any]] | None
    dtype: str
    content_hash: ArrayLike | Sequence[bytes] | None
    key: Mapping[str, Any]
    provenance: Mapping[str, Any]


def add(place: Place, features: Features, added: Added) -> FeatureSet:
    """What `FeatureStore.add` does.

    Args:
        place: Where the set of a fingerprint belongs.
        features: The features.
        added: The rest.
    """
    ids: Any = added.ids if added.ids is None or isinstance(added.ids, np.ndarray) else list(added.ids)
    counts = {"n_rows": added.n_rows, "ids": None if ids is None else len(ids), "labels": _length(added.labels)}
    counts["content_hash"] = _length(added.content_hash)
    with contextlib.closing(source_of(place("0" * 64).parent, features, added.dtype, counts)) as source:
        outputs, n_rows = source.outputs, source.n_rows
        hashes = np.empty((n_rows, 16), np.uint8) if added.content_hash is None else _hashes(added.content_hash)
        # Read whole before anything is laid out: what cannot be stored is found while there is nothing to take back.
        for start, stop in source.stretches():
            stored = [source.read(name, start, stop) for name in sorted(source.row_bytes)]
            if added.content_hash is None:
                for row in range(stop - start):
                    content = b"".join(values[row].tobytes() for values in stored)
                    hashes[start + row] = np.frombuffer(content_hash(content), np.uint8)
        if ids is None:
            ids = np.arange(n_rows).astype(np.dtypes.StringDType())
        records = Records(
            ids=ids,
            labels=_labels(added, n_rows),
            content_hash=hashes,
            columns={name: np.asarray(values) for name, values in added.columns.items()},
        )
        arrays, columns = checked_records(records)
        key = {
            "version": _KEY_VERSION,
            "backbone": {"name": added.backbone, "source": "added"},
            "made_with": dict(added.key),
            "outputs": {output.name: list(output.shape) for output in outputs},
            "dtype": added.dtype,
            "dataset": {
                "name": added.dataset,
                "split": added.split,
                "digest": records_digest(records.ids, arrays["label"], arrays["content_hash"]),
            },
        }
        path = place(fingerprint(key))
        if not os.path.lexists(path):
            names = {"class_names": list(added.class_names)} if added.class_names else {}
            unknown = {"content": "unknown"} if added.content_hash is None else {}
            provenance = {"made_with": dict(added.provenance), **names, **unknown}
            try:
                return _write(path, source, key=key, records=records, head=added.head, provenance=provenance)
            except ExistsError:
                # Another process that adds the same may have been faster.
                if not path.is_file():
                    raise
        return _same(path, source, columns, added)


def _hashes(given: Any) -> NDArray[Any]:
    """Content hashes as they are given, or of the contents themselves."""
    contents = given.tolist() if isinstance(given, np.ndarray) and given.dtype.kind in "UTO" else given
    if isinstance(contents, np.ndarray) or not all(isinstance(content, str | bytes) for content in contents):
        return np.asarray(given)
    made = [content_hash(content.encode() if isinstance(content, str) else content) for content in contents]
    return np.frombuffer(b"".join(made), np.uint8).reshape(-1, 16)


def _length(values: Any) -> int | None:
    return (
        None if values is None else len(values) if isinstance(values, list) else len(np.atleast_1d(np.asarray(values)))
    )


def _labels(added: Added, n_rows: int) -> NDArray[np.int64]:
    names = added.class_names
    if isinstance(names, str) or not all(isinstance(name, str) for name in names) or len({*names}) != len(names):
        raise InvalidInputError(f"class_names must be distinct strings, one a class; found {names!r}"[:500])
    if added.labels is None:
        return np.full(n_rows, -1, np.int64)
    labels = np.asarray(np.ma.filled(added.labels, -1) if np.ma.isMaskedArray(added.labels) else added.labels)
    if labels.dtype.kind not in "iub":
        raise InvalidInputError(
            f"labels must be whole numbers, -1 where there is none, and names go into class_names; found "
            f"{labels.dtype}; np.unique(labels, return_inverse=True) gives both"
        )
    if names and labels.ndim == 2 and labels.shape[1] != len(names):
        raise InvalidInputError(
            f"labels (N, L) must have one of the {len(names)} class_names for each of L; found L = {labels.shape[1]}"
        )
    least, most = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    limit = len(names) if names and labels.ndim == 1 else 2**63
    if least < -1 or most >= limit:
        what = f"the {len(names)} class_names" if limit == len(names) else "int64"
        raise InvalidInputError(f"labels must be -1 or numbers of {what}; found {least} to {most}")
    return labels.astype(np.int64)


def _write(path: Path, source: Source, **contents: Any) -> FeatureSet:
    _clear(partial_path(path))
    writer = FeatureSetWriter.create(path, outputs=source.outputs, **contents)
    try:
        for output in source.outputs:
            rows = writer.chunk_rows(output.name)
            for index in range(writer.n_chunks(output.name)):
                start, stop = index * rows, min((index + 1) * rows, source.n_rows)
                writer.write_chunk(output.name, index, source.read(output.name, start, stop))
        writer.mark_ok(0, source.n_rows)
        return writer.seal()
    except BaseException:
        writer.partial_path.unlink(missing_ok=True)
        raise
    finally:
        writer.close()


def _clear(partial: Path) -> None:
    """Deletes what a process that was killed has left; all of it is at hand again."""
    if not os.path.lexists(partial):
        return
    with Disk(partial, writable=True) as disk:
        lock(disk)
        partial.unlink(missing_ok=True)


def _same(path: Path, source: Source, columns: Mapping[str, NDArray[Any]], added: Added) -> FeatureSet:
    """The set that is there, if it has all that was to be added.

    Raises:
        ExistsError: it has something else.
    """
    there = FeatureSet(path)
    try:
        differing = [
            what
            for what, differs in (
                ("columns", _differ(there, there.table.columns, columns)),
                ("a head", _differ(there, there.table.head, checked_head(added.head))),
                ("class names", there.class_names != list(added.class_names)),
                ("features", _features_differ(there, source)),
            )
            if differs
        ]
        if differing:
            raise ExistsError(
                f"{path} has the same key, ids, labels and contents with other {' and '.join(differing)}, and is kept; "
                f"say in `key` what made these different, or delete it first"
            )
    except BaseException:
        there.close()
        raise
    return there


def _differ(there: FeatureSet, stored: Mapping[str, Any], given: Mapping[str, NDArray[Any]]) -> bool:
    if list(stored) != list(given) and sorted(stored) != sorted(given):
        return True
    return any(
        stored[name].dtype != values.dtype.str
        or stored[name].shape != values.shape
        or not np.array_equal(there.raw(stored[name]), values.reshape(-1).view(np.uint8))
        for name, values in given.items()
    )


def _features_differ(there: FeatureSet, source: Source) -> bool:
    for entry in there.table.outputs:
        recorded = there.raw(entry.checksums).view("<u8")
        for index in range(entry.n_chunks):
            data = checked_chunk(Path(str(there.path)), entry, index, source.read(entry.name, *entry.rows(index)))
            if checksum(data) != recorded[index]:
                return True
    return False
