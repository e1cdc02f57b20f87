"""The tidy table of results in a store's ``results/`` folder: one file per computation, one CSV of all of them.

A row is (backbone, dataset, task, metric, value, low, high, fingerprints, settings). A computation is named by the
hash of its task, settings and the fingerprints it read, so that one that is unchanged is found and not repeated.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featurebank.store.fingerprint import canonical_json, fingerprint

__all__ = ["Results", "Row"]


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


class Results:
    """The results of one store.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "results"

    def once(
        self, task: str, settings: Mapping[str, Any], fingerprints: Sequence[str], compute: Callable[[], list[Row]]
    ) -> tuple[list[Row], bool]:
        """The rows of a computation, and whether they were there already.

        Args:
            task: its name.
            settings: everything that determines the rows besides the features; plain JSON.
            fingerprints: of the feature sets it reads.
            compute: called where the store has no such result.
        """
        name = fingerprint({"task": task, "settings": dict(settings), "inputs": list(fingerprints)})[:16]
        path = self.folder / task / f"{name}.json"
        found = _read(path)
        if found is not None:
            return found, True
        rows = compute()
        _write(path, canonical_json([_plain(row) for row in rows]))
        self._write_table()
        return rows, False

    def rows(self) -> list[Row]:
        """Every row, ordered by task, dataset, backbone and metric."""
        rows = [row for path in sorted(self.folder.glob("*/*.json")) for row in _read(path) or []]
        return sorted(rows, key=lambda r: (r.task, r.dataset, r.backbone, r.metric, r.fingerprints))

    def _write_table(self) -> None:
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


def _read(path: Path) -> list[Row] | None:
    """The rows of a file; ``None`` where there is none or it is not one, which means: compute again."""
    try:
        data = json.loads(path.read_bytes())
        return [Row(**{**row, "fingerprints": tuple(row["fingerprints"])}) for row in data]
    except (OSError, ValueError, TypeError, KeyError):
        return None


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
