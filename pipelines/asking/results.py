"""The tidy table of results in a store's ``results/`` folder: one file per computation, one CSV of all of them.

A row is one number with a column for everything that it is about, see `Row`. A computation is named by the hash of its
key: the question's name and version, the options that are not at their default, and the fingerprints it read; so one
that is unchanged is found and not repeated. Whoever changes what a question answers to the same options gives it
another version. Beside ``results/<question>/<name>.json`` lies ``<name>.npz`` with what was predicted for each row.

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
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import xxhash
from numpy.typing import NDArray

from featurebank.pipelines.asking.kept_arrays import LARGEST, packed, unpacked
from featurebank.store import CorruptError
from featurebank.store.filing import Filing
from featurebank.store.fingerprint import canonical_json, fingerprint
from featurebank.store.text import csv_text

__all__ = ["COLUMNS", "Computed", "Result", "Results", "Row", "csv_of", "plain_row", "result_key"]

log = logging.getLogger("featurebank")

LARGEST_DOCUMENT = 64 << 20
LONGEST = 10_000  # characters of a name
TABLE = "results.csv"
_QUESTION, _NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}"), re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number.

    Attributes:
        question: what was asked: ``"linear"`` …
        backbone: its name in the store.
        label: what tells it apart from others of its name, where it has one.
        train: DATASET/SPLIT that was fitted on, or of the queries; empty where nothing was.
        test: DATASET/SPLIT that was scored, or searched.
        set: what the number is about, DATASET/SPLIT.
        score: the method, where the question has several.
        shots: number of labels: ``"10"`` of each class, ``"1%"``.
        group: of which rows.
        metric: ``"accuracy"`` …
        direction: which values are better, ``"higher"`` or ``"lower"``.
        primary: whether it is the question's main metric.
        value: the number, in the metric's own unit (accuracy in 0..1).
        low: lower end of the 95 % interval; ``None`` where there is none.
        high: upper end.
        interval: what the interval is over, and how it was made: ``"test rows, Wilson"``; empty where there is none.
        n: rows that it is over.
        seconds: that the computation took, shared among what it answered together.
        fingerprints: of the feature sets it was computed from.
        version: of the question.
        result: name of the computation, 16 hex digits; given by `Results.keep`.
        details: what else belongs to it, plain JSON.
    """

    question: str
    backbone: str
    label: str = ""
    train: str = ""
    test: str = ""
    set: str = ""
    score: str = ""
    shots: str = ""
    group: str = ""
    metric: str
    direction: str = "higher"
    primary: bool = False
    value: float
    low: float | None = None
    high: float | None = None
    interval: str = ""
    n: int | None = None
    seconds: float = 0.0
    fingerprints: tuple[str, ...] = ()
    version: int = 1
    result: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What a computation hands back.

    Attributes:
        rows: its numbers; none where it says why there are none.
        arrays: what was found for each row of features, to keep.
        notes: for people.
        settings: everything that determined the rows besides the features; plain JSON.
        chosen: what was chosen on validation rows; plain JSON.
    """

    rows: Sequence[Row]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A computation in the store.

    Attributes:
        question: its name.
        name: 16 hex digits.
        part: the method that it is about, where the question has several.
        rows: its rows.
        notes: what to know about them; also why it could not be kept.
        settings: as in `Computed`.
        chosen: likewise.
        known: whether it was there already.
        same: what all versions of it have in common.
        kept: whether it is there now.
        unkept: its arrays where it is not.
    """

    question: str
    name: str
    part: str = ""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    known: bool = False
    same: str = ""
    kept: bool = True
    unkept: Mapping[str, NDArray[Any]] = field(default_factory=dict, compare=False, repr=False)


COLUMNS = tuple(one.name for one in fields(Row))


class Results:
    """The results of one store.

    Args:
        root: the store's folder.
        force: whether what is there is computed again, and replaced.

    Attributes:
        changed: whether something was kept since the table was written.
    """

    def __init__(self, root: Path, *, force: bool = False) -> None:
        self._filing = Filing(root, "results")
        self.force = force
        self.changed = False

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._filing.path

    def known(self, key: Mapping[str, Any]) -> Result | None:
        """The result of a key, see `result_key`, unless it is to be computed again."""
        return None if self.force else self._read(key["question"], fingerprint(key)[:16])

    def keep(self, key: Mapping[str, Any], computed: Computed) -> Result:
        """Writes a result; one that cannot be written is handed back all the same, with a note.

        Raises:
            ValueError: a value that is not finite, or an array of Python objects.
        """
        name = fingerprint(key)[:16]
        result = Result(
            question=key["question"],
            name=name,
            part=str(key["options"].get("part", "")),
            same=_same(key),
            rows=tuple(
                replace(row, question=key["question"], version=key["version"], result=name) for row in computed.rows
            ),
            notes=tuple(computed.notes),
            settings=dict(computed.settings),
            chosen=dict(computed.chosen),
        )
        try:
            self._write(key, result, computed)
        except (OSError, CorruptError) as error:
            notes = (*result.notes, f"not kept: {self._reason(error)}")
            return replace(result, notes=notes, kept=False, unkept=computed.arrays)
        self.changed = True
        return result

    def once(
        self,
        question: str,
        options: Mapping[str, Any],
        fingerprints: Sequence[str],
        compute: Callable[[], Computed],
        *,
        version: int,
    ) -> Result:
        """The result of a key, see `result_key`, computed only where it or its arrays are not there."""
        key = result_key(question, version, options, fingerprints)
        known = self.known(key)
        return self.keep(key, compute()) if known is None else known

    def rows(self) -> list[Row]:
        """Every row, of several versions of one question the latest; by question, set, backbone and metric."""
        rows = [row for result in self.latest() for row in result.rows]
        return sorted(rows, key=lambda r: (r.question, r.set, r.backbone, r.score, r.metric, r.fingerprints))

    def latest(self) -> list[Result]:
        """Every computation that has rows, of several versions of one question the latest."""
        latest: dict[str, Result] = {}
        for question in self._filing.names():
            for name in self._filing.names(question):
                result = self._read(question, name.removesuffix(".json"))
                if result is None or not result.rows:
                    continue
                before = latest.get(result.same)
                if before is None or before.rows[0].version < result.rows[0].version:
                    latest[result.same] = result
        return [*latest.values()]

    def arrays(self, of: Row | Result) -> dict[str, NDArray[Any]]:
        """What a computation kept for each test row, such as ``ids``, ``labels`` and ``predictions``, by name.

        >>> Results(Path("features")).rows()
        []

        Args:
            of: a row of it, or its result.

        Raises:
            ValueError: it kept nothing, or the file is damaged.
        """
        if isinstance(of, Result) and not of.kept:
            return dict(of.unkept)
        question, name = of.question, of.name if isinstance(of, Result) else of.result
        path = self.folder / question / f"{name}.npz"
        document = self._document(question, name)
        try:
            if document is None:
                raise FileNotFoundError
            data = self._filing.read(question, f"{name}.npz", limit=LARGEST)
        except OSError as error:
            found = "no file" if isinstance(error, FileNotFoundError) else error.strerror
            raise ValueError(
                f"{path}: expected the predictions of {question}, found {found}; compute it again"
            ) from None
        if xxhash.xxh3_128_hexdigest(data) != document["arrays"]:
            raise ValueError(f"{path}: expected arrays with the hash of their result, found others; use --force")
        try:
            return unpacked(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; remove the file") from error

    def write_table(self) -> None:
        """Writes all rows to ``results.csv``. Says why where it cannot."""
        try:
            self._filing.write(TABLE, data=csv_of(self.rows()).encode())
        except (OSError, CorruptError) as error:
            log.warning("%s not written: %s", TABLE, self._reason(error))
        self.changed = False

    def _write(self, key: Mapping[str, Any], result: Result, computed: Computed) -> None:
        arrays = packed(computed.arrays) if computed.arrays else b""
        document = {
            "key": key,
            "rows": [plain_row(row) for row in result.rows],
            "notes": list(computed.notes),
            "settings": result.settings,
            "chosen": result.chosen,
            "arrays": xxhash.xxh3_128_hexdigest(arrays) if arrays else None,
        }
        text = canonical_json(document)
        if len(text) > LARGEST_DOCUMENT:
            raise OSError(errno.EFBIG, f"rows of {len(text):,} bytes are more than {LARGEST_DOCUMENT:,}")
        if arrays:
            self._filing.write(key["question"], f"{result.name}.npz", data=arrays)
        self._filing.write(key["question"], f"{result.name}.json", data=text)

    def _read(self, question: str, name: str) -> Result | None:
        """The result of that name; ``None`` where there is none, or none that is whole: compute again."""
        document = self._document(question, name)
        if document is None or (document.pop("arrays") is not None and not self._filing.has(question, f"{name}.npz")):
            return None
        return Result(question=question, name=name, known=True, **document)

    def _document(self, question: str, name: str) -> dict[str, Any] | None:
        """A result's file, checked to be what `keep` writes under that name."""
        if not (_QUESTION.fullmatch(question) and _NAME.fullmatch(name)):
            return None
        try:
            data = self._filing.read(question, f"{name}.json", limit=LARGEST_DOCUMENT)
            document = json.loads(data)
            canonical_json(document)  # refuses what is not finite or no Unicode
            key, arrays = document["key"], document["arrays"]
            rows = tuple(map(_row, document["rows"]))
            if fingerprint(key)[:16] != name or {(row.question, row.version, row.result) for row in rows} - {
                (question, key["version"], name)
            }:
                return None
            if (part := key["options"].get("part")) and any(row.score != part for row in rows):
                return None
            return {
                "part": _checked("str", key["options"].get("part", "")),
                "same": _same(key),
                "rows": rows,
                "notes": tuple(_checked("str", note) for note in document["notes"]),
                "settings": _checked("Mapping[str, Any]", document["settings"]),
                "chosen": _checked("Mapping[str, Any]", document["chosen"]),
                "arrays": None if arrays is None else _checked("str", arrays),
            }
        except Exception:  # a stranger's file may break whatever reads it
            return None

    def _reason(self, error: Exception) -> str:
        return f"{self.folder}: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def result_key(
    question: str, version: int, options: Mapping[str, Any], fingerprints: Sequence[str], **more: Any
) -> dict[str, Any]:
    """What names a result: plain JSON, without what is at its default; another version is another result."""
    inputs = list(fingerprints)
    return {"question": question, "version": version, "options": dict(options), "inputs": inputs, **more}


def csv_of(rows: Sequence[Row]) -> str:
    """The rows as a table with a column for each attribute; ``details`` as JSON."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        values = plain_row(row) | {
            "fingerprints": " ".join(row.fingerprints),
            "details": canonical_json(dict(row.details)).decode() if row.details else "",
        }
        table.writerow([_cell(values[name]) for name in COLUMNS])
    return text.getvalue()


def plain_row(row: Row) -> dict[str, Any]:
    """A row as plain JSON."""
    return {name: getattr(row, name) for name in COLUMNS} | {"fingerprints": list(row.fingerprints)}


def _same(key: Mapping[str, Any]) -> str:
    return fingerprint({name: value for name, value in key.items() if name != "version"})


def _cell(value: Any) -> Any:
    return "" if value is None else csv_text(value) if isinstance(value, str) else value


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
    "int | None": lambda value: value is None or (isinstance(value, int) and not isinstance(value, bool)),
    "bool": lambda value: isinstance(value, bool),
    "Mapping[str, Any]": lambda value: isinstance(value, Mapping),
}


def _checked(kind: str, value: Any) -> Any:
    if not _CHECKS[kind](value):
        raise TypeError(f"expected {kind}, found {type(value).__name__}")
    return value
