"""The tidy table of results in a store's ``results/`` folder: one file per computation, one CSV of all of them.

A row is (backbone, dataset, task, metric, value, low, high, interval, fingerprints, settings, version, result). A
computation is named by the hash of its key: the question's name and version, the options that are not at their
default, and the fingerprints it read; so one that is unchanged is found and not repeated. Whoever changes what a
question answers to the same options gives it another version.
Beside ``results/<task>/<name>.json`` lies ``<name>.npz`` with what was predicted for each row, for re-analysis.

The folder may have come with a stranger's store: what does not fit is as good as absent, and links are not followed.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import xxhash
from numpy.typing import NDArray

from featurebank.pipelines.kept_arrays import LARGEST, packed, unpacked
from featurebank.store import CorruptError
from featurebank.store.filing import Filing
from featurebank.store.fingerprint import canonical_json, fingerprint
from featurebank.store.text import csv_text

__all__ = ["Computed", "Result", "Results", "Row"]

log = logging.getLogger("featurebank")

LARGEST_DOCUMENT = 64 << 20
LONGEST = 10_000  # characters of a name
TABLE = "results.csv"
_TASK, _NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}"), re.compile(r"[0-9a-f]{16}")


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
        interval: what the interval is over, and how it was made: ``"test rows, Wilson"``; empty where there is none.
        fingerprints: of the feature sets it was computed from.
        settings: of the task.
        version: of the question; given by `Results.once`.
        result: name of the computation, 16 hex digits; given by `Results.once`.
    """

    backbone: str
    dataset: str
    task: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    interval: str = ""
    fingerprints: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = None
    version: int = 1
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
        notes: what to know about them; also why it could not be kept.
        known: whether it was there already.
        question: what all versions of it have in common.
        kept: whether it is there now.
        unkept: its arrays where it is not.
    """

    name: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    known: bool = False
    question: str = ""
    kept: bool = True
    unkept: Mapping[str, NDArray[Any]] = field(default_factory=dict, compare=False, repr=False)


class Results:
    """The results of one store.

    Args:
        root: the store's folder.
        force: whether what is there is computed again, and replaced.
    """

    def __init__(self, root: Path, *, force: bool = False) -> None:
        self._filing = Filing(root, "results")
        self.force = force

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._filing.path

    def once(
        self,
        task: str,
        settings: Mapping[str, Any],
        fingerprints: Sequence[str],
        compute: Callable[[], Computed],
        *,
        version: int,
        fits: Callable[[Sequence[Row]], bool] = bool,
    ) -> Result:
        """The rows of a computation, computed only where they or their arrays are not there.

        A result that cannot be written is handed back all the same, with a note.

        Args:
            task: its name.
            settings: everything that determines the rows besides the features, without what is at its default; plain
                JSON.
            fingerprints: of the feature sets it reads.
            compute: called where the store has no such result.
            version: of what is asked: another one is another result.
            fits: whether rows that were there have what is shown of them; raising means no.

        Raises:
            ValueError: a value that is not finite, or an array of Python objects.
        """
        key = {"task": task, "version": version, "settings": dict(settings), "inputs": list(fingerprints)}
        name = fingerprint(key)[:16]
        found = None if self.force else self._read(task, name)
        if found is not None and _holds(fits, found.rows):
            return found
        computed = compute()
        result = Result(
            name=name,
            question=_question(key),
            rows=tuple(replace(row, task=task, version=version, result=name) for row in computed.rows),
            notes=tuple(computed.notes),
        )
        try:
            self._write(key, result, computed)
        except (OSError, CorruptError) as error:
            notes = (*result.notes, f"not kept: {self._reason(error)}")
            return replace(result, notes=notes, kept=False, unkept=computed.arrays)
        return result

    def rows(self) -> list[Row]:
        """Every row, of several versions of one question the latest; by task, dataset, backbone and metric."""
        latest: dict[str, Result] = {}
        for task in self._filing.names():
            for name in self._filing.names(task):
                found = self._read(task, name.removesuffix(".json"))
                if found is None:
                    continue
                before = latest.get(found.question)
                if before is None or before.rows[0].version < found.rows[0].version:
                    latest[found.question] = found
        rows = [row for result in latest.values() for row in result.rows]
        return sorted(rows, key=lambda r: (r.task, r.dataset, r.backbone, r.metric, r.fingerprints))

    def arrays(self, of: Row | Result) -> dict[str, NDArray[Any]]:
        """What a computation kept for each test row, such as ``ids``, ``labels`` and ``predictions``, by name.

        >>> Results(Path("features")).rows()
        []

        Args:
            of: a row of it, or its result.

        Raises:
            ValueError: it kept nothing, or the file is damaged.
        """
        if isinstance(of, Result):
            if not of.kept:
                return dict(of.unkept)
            of = of.rows[0]
        path = self.folder / of.task / f"{of.result}.npz"
        document = self._document(of.task, of.result)
        try:
            if document is None:
                raise FileNotFoundError
            data = self._filing.read(of.task, f"{of.result}.npz", limit=LARGEST)
        except OSError as error:
            found = "no file" if isinstance(error, FileNotFoundError) else error.strerror
            raise ValueError(
                f"{path}: expected the predictions of {of.task}, found {found}; compute it again"
            ) from None
        if xxhash.xxh3_128_hexdigest(data) != document["arrays"]:
            raise ValueError(f"{path}: expected arrays with the hash of their result, found others; use --force")
        try:
            return unpacked(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; remove the file") from error

    def write_table(self) -> None:
        """Writes all rows to ``results.csv``; called once, after the last computation. Says why where it cannot."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        names = list(Row.__dataclass_fields__)
        table.writerow(names)
        for row in self.rows():
            values = _plain(row)
            values["fingerprints"] = " ".join(row.fingerprints)
            values["settings"] = canonical_json(dict(row.settings or {})).decode()
            table.writerow([_cell(values[name]) for name in names])
        try:
            self._filing.write(TABLE, data=text.getvalue().encode())
        except (OSError, CorruptError) as error:
            log.warning("%s not written: %s", TABLE, self._reason(error))

    def _write(self, key: Mapping[str, Any], result: Result, computed: Computed) -> None:
        arrays = packed(computed.arrays) if computed.arrays else b""
        document = {
            "key": key,
            "rows": [_plain(row) for row in result.rows],
            "notes": list(computed.notes),
            "arrays": xxhash.xxh3_128_hexdigest(arrays) if arrays else None,
        }
        text = canonical_json(document)
        if len(text) > LARGEST_DOCUMENT:
            raise OSError(errno.EFBIG, f"rows of {len(text):,} bytes are more than {LARGEST_DOCUMENT:,}")
        if arrays:
            self._filing.write(key["task"], f"{result.name}.npz", data=arrays)
        self._filing.write(key["task"], f"{result.name}.json", data=text)

    def _read(self, task: str, name: str) -> Result | None:
        """The result of that name; ``None`` where there is none, or none that is whole: compute again."""
        document = self._document(task, name)
        if document is None:
            return None
        if document["arrays"] is not None and not self._filing.has(task, f"{name}.npz"):
            return None
        question, rows, notes = document["question"], document["rows"], document["notes"]
        return Result(name=name, question=question, rows=rows, notes=notes, known=True)

    def _document(self, task: str, name: str) -> dict[str, Any] | None:
        """A result's file, checked to be what `once` writes under that name."""
        if not (_TASK.fullmatch(task) and _NAME.fullmatch(name)):
            return None
        try:
            data = self._filing.read(task, f"{name}.json", limit=LARGEST_DOCUMENT)
            document = json.loads(data)
            canonical_json(document)  # refuses what is not finite or no Unicode
            key, arrays = document["key"], document["arrays"]
            rows = tuple(map(_row, document["rows"]))
            notes = tuple(_checked("str", note) for note in document["notes"])
            named = {(row.task, row.version, row.result) for row in rows}
            if fingerprint(key)[:16] != name or named != {(task, key["version"], name)}:
                return None
            kept = None if arrays is None else _checked("str", arrays)
            return {"question": _question(key), "rows": rows, "notes": notes, "arrays": kept}
        except Exception:  # a stranger's file may break whatever reads it
            return None

    def _reason(self, error: Exception) -> str:
        return f"{self.folder}: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def _question(key: Mapping[str, Any]) -> str:
    return fingerprint({name: value for name, value in key.items() if name != "version"})


def _holds(fits: Callable[[Sequence[Row]], bool], rows: Sequence[Row]) -> bool:
    try:
        return fits(rows)
    except Exception:  # a stranger's settings may break whatever reads them
        return False


def _cell(value: Any) -> Any:
    return "" if value is None else csv_text(value) if isinstance(value, str) else value


def _plain(row: Row) -> dict[str, Any]:
    values = asdict(row)
    values["fingerprints"] = list(row.fingerprints)
    return values


def _row(values: Mapping[str, Any]) -> Row:
    given = {**values, "fingerprints": tuple(values["fingerprints"])}
    row = Row(**given)
    for one in fields(Row):
        _checked(str(one.type), getattr(row, one.name))
    return row


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "str": _is_text,
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "tuple[str, ...]": lambda value: isinstance(value, tuple) and all(map(_is_text, value)),
    "Mapping[str, Any] | None": lambda value: value is None or isinstance(value, Mapping),
}


def _checked(kind: str, value: Any) -> Any:
    if not _CHECKS[kind](value):
        raise TypeError(f"expected {kind}, found {type(value).__name__}")
    return value
