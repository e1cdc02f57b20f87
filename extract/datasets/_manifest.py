"""Manifests: a CSV or Parquet table with one row per image, ``manifest:/data/pets.csv``."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError, nearest

__all__ = ["ManifestSource"]

Table = Mapping[str, Sequence[Any]]

RESERVED = ("path", "label", "split", "id")
SEPARATOR = "|"
PROBED = 16


class ManifestSource:
    """``manifest:PATH.csv`` or ``.parquet``, with the columns ``path``, ``label`` and, if wanted, ``split`` and ``id``.

    Paths are relative to the manifest's folder, or to ``root`` where one is given, and must stay inside it; absolute
    paths are taken as they are. Without ``id``, the path as written is the id. Labels are class indices if every one is
    a whole number, else class names, numbered in byte order over the *whole* manifest, so that splits agree; blank is
    no label (-1). Where any label holds ``|`` or is a list, all records have several: (N, L) zeros and ones. Further
    columns become extra columns: booleans, whole numbers, numbers (blank is NaN) or strings.
    """

    prefix = "manifest:"

    def names(self) -> Sequence[str]:
        """None: any path is a dataset."""
        return ()

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:  # noqa: ARG002 (the contract's signature)
        """The distinct values of the column ``split``, or ``all`` where there is none."""
        path = self._path(spec_name)
        return _splits(_table(path))

    def open(self, spec: DatasetSpec) -> Split:
        """The rows of one split.

        Raises:
            UnknownNameError: no such split.
            DatasetError: the file cannot be read, columns or images are missing, labels do not fit each other.
        """
        path = self._path(spec.name)
        table = _table(path)
        known = _splits(table)
        if spec.split not in known:
            raise nearest(f"split of {spec.name}", spec.split, known)
        rows = list(range(len(table["path"])))
        if "split" in table:
            rows = [row for row in rows if _text(table["split"][row]) == spec.split]
        labels, class_names = _labels(path, table["label"])
        files = [_text(table["path"][row]) for row in rows]
        folder = path.parent if spec.root is None else spec.root
        _check_files(path, folder, files)
        ids = [_text(table["id"][row]) for row in rows] if "id" in table else files
        columns = {name: _column(values)[rows] for name, values in table.items() if name not in RESERVED}
        return FileSplit(spec, ids, labels[rows], class_names, columns, folder=folder, files=files).subset()

    def _path(self, name: str) -> Path:
        path = Path(name.removeprefix(self.prefix)).expanduser().absolute()
        if path.suffix.lower() not in {".csv", ".parquet"}:
            raise DatasetError(f"{name!r}: expected manifest:PATH ending in .csv or .parquet, found {path.suffix!r}")
        return path


def _table(path: Path) -> Table:
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: expected a readable UTF-8 table, found: {error}; check the file") from error
    if missing := [name for name in ("path", "label") if name not in table]:
        raise DatasetError(
            f"{path}: expected the columns path and label, found {', '.join(table) or 'none'}; "
            f"add {' and '.join(missing)}"
        )
    return table


def _read_csv(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        rows = []
        for row in reader:
            if len(row) != len(header) and row:
                raise DatasetError(
                    f"{path}, line {reader.line_num}: expected {len(header)} fields as in the header, found {len(row)}"
                )
            if row:
                rows.append(row)
    if len(set(header)) != len(header):
        raise DatasetError(f"{path}: column names must be distinct, found {', '.join(header)}")
    return dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise DatasetError(f"{path}: expected a Parquet file, found: {str(error).splitlines()[0]}") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _splits(table: Table) -> list[str]:
    return sorted({_text(value) for value in table["split"]} - {""}) if "split" in table else ["all"]


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _labels(path: Path, cells: Sequence[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """(N,) or (N, L) labels of all rows, and the class names (none where labels are indices)."""
    several = any(isinstance(cell, list | tuple) or (isinstance(cell, str) and SEPARATOR in cell) for cell in cells)
    parts = [_parts(cell, several) for cell in cells]
    values = {value for part in parts for value in part}
    if all(_whole(value) for value in values):
        class_names: list[str] = []
        index = {value: int(value) for value in values}
        width = max(index.values(), default=-1) + 1
    else:
        class_names = sorted(values)
        index = {value: k for k, value in enumerate(class_names)}
        width = len(class_names)
    if not several:
        return np.array([index[part[0]] if part else -1 for part in parts], np.int64), class_names
    if min(index.values(), default=0) < 0 or width == 0:
        raise DatasetError(f"{path}: where records have several labels, each must be 0 or more, found {min(values)}")
    labels = np.zeros((len(parts), width), np.int64)
    for row, part in enumerate(parts):
        labels[row, [index[value] for value in part]] = 1
    return labels, class_names


def _parts(cell: object, several: bool) -> list[str]:
    values = cell if isinstance(cell, list | tuple) else _text(cell).split(SEPARATOR) if several else [cell]
    return [text for value in values if (text := _text(value).strip())]


def _whole(text: str) -> bool:
    """Whether a text is how a whole number is written: class names such as ``007`` are not."""
    return text.lstrip("-").isdecimal() and text.isascii() and str(int(text)) == text


def _check_files(path: Path, folder: Path, files: Sequence[str]) -> None:
    for name in files:
        if "\0" in name or not name or (".." in PurePosixPath(name).parts and not name.startswith("/")):
            raise DatasetError(f"{path}: paths must lie inside {folder} or be absolute, found {name!r}")
    # A wrong root is told at once; single missing images are recorded as failed, not fatal.
    if files and not any((folder / name).is_file() for name in files[:PROBED]):
        raise DatasetError(
            f"{path}: expected images at paths relative to {folder}, found none of the first {min(PROBED, len(files))} "
            f"({os.fspath(folder / files[0])} …); give the root they are relative to"
        )


def _column(cells: Sequence[Any]) -> NDArray[np.generic]:
    """The narrowest of bool, int64, float64 and fixed-width string that holds every cell."""
    texts = [_text(cell).strip() for cell in cells]
    lowered = {text.lower() for text in texts}
    if lowered <= {"true", "false"}:
        return np.array([text.lower() == "true" for text in texts], np.bool_)
    kinds: list[tuple[Callable[[str], object], type[np.generic]]] = [
        (int, np.int64),
        (lambda text: float(text) if text else float("nan"), np.float64),
    ]
    for parse, dtype in kinds:
        try:
            return np.array([parse(text) for text in texts], dtype)
        except (ValueError, OverflowError):
            continue
    return np.array(texts, np.str_)
