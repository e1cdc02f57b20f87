"""The tidy table of results in a store's ``results/`` folder: one file per computation, one CSV of all of them.

A row is (backbone, dataset, task, metric, value, low, high, fingerprints, settings, result). A computation is named by
the hash of its task, settings and the fingerprints it read, so that one that is unchanged is found and not repeated.
Beside ``results/<task>/<name>.json`` lies ``<name>.npz`` with what was predicted for each row, for re-analysis.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store.fingerprint import canonical_json, fingerprint

__all__ = ["Computed", "Result", "Results", "Row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number.

    Attributes:
        backbone: name.
        dataset: what it is about, ``"fashion_mnist/test"``.
        task: ``"linear"`` …
        metric: ``"accuracy"`` …
        value: the number, in the metric's own unit (accuracy in 0..1).
        low: lower end of the 95 % interval; ``None`` where there is none.
        high: upper end.
        fingerprints: of the feature sets it was computed from.
        settings: of the task.
        result: name of the computation, 16 hex digits; given by `Results.once`.
    """

    backbone: str
    dataset: str
    task: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    fingerprints: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = None
    result: str = ""


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What a computation hands back: rows, per-row arrays to keep, and notes for people."""

    rows: Sequence[Row]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """A computation in the store.

    Attributes:
        name: 16 hex digits.
        rows: its rows.
        notes: what to know about them.
        known: whether it was there already.
    """

    name: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    known: bool = False


class Results:
    """The results of one store.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "results"

    def once(
        self, task: str, settings: Mapping[str, Any], fingerprints: Sequence[str], compute: Callable[[], Computed]
    ) -> Result:
        """The rows of a computation, computed only where they or their arrays are not there.

        Args:
            task: its name.
            settings: everything that determines the rows besides the features; plain JSON.
            fingerprints: of the feature sets it reads.
            compute: called where the store has no such result.

        Raises:
            ValueError: a value that is not finite, or an array of Python objects.
        """
        name = fingerprint({"task": task, "settings": dict(settings), "inputs": list(fingerprints)})[:16]
        path = self.folder / task / f"{name}.json"
        found = _read(path)
        if found is not None:
            return found
        computed = compute()
        rows = tuple(replace(row, result=name) for row in computed.rows)
        document = {"rows": [_plain(row) for row in rows], "notes": list(computed.notes), "arrays": [*computed.arrays]}
        text = canonical_json(document)
        if computed.arrays:
            _write(path.with_suffix(".npz"), _packed(computed.arrays))
        _write(path, text)
        return Result(name=name, rows=rows, notes=tuple(computed.notes))

    def rows(self) -> list[Row]:
        """Every row, ordered by task, dataset, backbone and metric."""
        found = (_read(path) for path in sorted(self.folder.glob("*/*.json")))
        rows = [row for result in found if result for row in result.rows]
        return sorted(rows, key=lambda r: (r.task, r.dataset, r.backbone, r.metric, r.fingerprints))

    def arrays(self, row: Row) -> dict[str, NDArray[Any]]:
        """What a row's computation kept for each test row, such as ``ids``, ``labels`` and ``predictions``, by name.

        >>> Results(Path("features")).rows()
        []

        Raises:
            ValueError: it kept nothing, or the file is damaged.
        """
        path = self.folder / row.task / f"{row.result}.npz"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                return {name: kept[name] for name in kept.files}
        except FileNotFoundError:
            raise ValueError(
                f"{path}: expected the predictions of {row.task}, found no file; compute it again"
            ) from None
        except (ValueError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path}: expected arrays without pickle, found {error}; remove the file") from error

    def write_table(self) -> None:
        """Writes all rows to ``results.csv``; called once, after the last computation."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        names = list(Row.__dataclass_fields__)
        table.writerow(names)
        for row in self.rows():
            values = _plain(row)
            values["fingerprints"] = " ".join(row.fingerprints)
            values["settings"] = canonical_json(dict(row.settings or {})).decode()
            table.writerow(["" if values[name] is None else values[name] for name in names])
        _write(self.folder / "results.csv", text.getvalue().encode())


def _plain(row: Row) -> dict[str, Any]:
    values = asdict(row)
    values["fingerprints"] = list(row.fingerprints)
    return values


def _read(path: Path) -> Result | None:
    """The result in a file; ``None`` where there is none, it is not one, or its arrays are gone: compute again."""
    try:
        data = json.loads(path.read_bytes())
        rows = tuple(Row(**{**row, "fingerprints": tuple(row["fingerprints"])}) for row in data["rows"])
        if data["arrays"] and not path.with_suffix(".npz").is_file():
            return None
        return Result(name=path.stem, rows=rows, notes=tuple(data["notes"]), known=True)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    if objects := [name for name, array in arrays.items() if array.dtype.hasobject]:
        raise ValueError(f"arrays to keep must be numbers or strings; found Python objects in {', '.join(objects)}")
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **dict(arrays))
    return file.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
