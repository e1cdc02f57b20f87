"""Manifests: a CSV or Parquet table with one row per image, ``manifest:/data/pets.csv``."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurebank.extract.datasets._columns import column
from featurebank.extract.datasets._labels import parse_labels
from featurebank.extract.datasets._reading import LIST_BYTES, is_inside, read_file, reading, shown
from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.datasets._tables import COLUMN_BYTES, check_rows, read_parquet
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError
from featurebank.extract.opening import open_regular
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded

Table = Mapping[str, Sequence[Any]]

RESERVED = ("path", "label", "split", "id")
PROBED = 16


class ManifestSource:
    """``manifest:PATH.csv`` or ``.parquet``, with the columns ``path``, ``label`` and, if wanted, ``split`` and ``id``.

    Paths are relative to the manifest's folder, or to ``root`` where one is given, and must stay inside it, also where
    they are absolute. Without ``id``, the path as written is the id. Labels are class indices if every one is a whole
    number (``2`` or ``2.0``), values to regress to if every one is a number and some have decimals (then they become
    the column ``label``), else class names, numbered in byte order over the *whole* manifest, so that splits agree;
    blank, ``NA`` and ``nan`` are no label (-1). Where any label holds ``|`` or is a list, all records have several:
    (N, L) zeros and ones. Further columns become extra columns: numbers where no cell's text loses anything by it
    (blank is NaN among floats), else strings.
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
            raise unknown_name(f"split of {spec.name}", spec.split, known)
        rows = list(range(len(table["path"])))
        if "split" in table:
            rows = [row for row in rows if _text(table["split"][row]) == spec.split]
        labels = parse_labels(table["label"], path).take(rows)
        folder = expanded(path.parent if spec.root is None else spec.root).absolute()
        files = [_text(table["path"][row]) for row in rows]
        _check_files(path, folder, files)
        ids = [_text(table["id"][row]) for row in rows] if "id" in table else files
        typed = path.suffix.lower() == ".parquet"
        columns = {name: column(cells, typed=typed)[rows] for name, cells in table.items() if name not in RESERVED}
        if labels.values is not None:
            columns["label"] = labels.values
        return FileSplit(
            spec, ids, labels.labels, labels.class_names, columns, notes=labels.notes, folder=folder, files=files
        ).subset()

    def _path(self, name: str) -> Path:
        path = expanded(name.removeprefix(self.prefix)).absolute()
        if path.suffix.lower() not in {".csv", ".parquet"}:
            raise DatasetError(f"{name!r}: expected manifest:PATH ending in .csv or .parquet, found {path.suffix!r}")
        return path


def _table(path: Path) -> Table:
    with reading(path, "a readable UTF-8 table" if path.suffix.lower() == ".csv" else "a Parquet file"):
        table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    if missing := [name for name in ("path", "label") if name not in table]:
        raise DatasetError(
            f"{path}: expected the columns path and label, found {', '.join(table) or 'none'}; "
            f"add {' and '.join(missing)}"
        )
    return table


def _read_csv(path: Path) -> Table:
    reader = csv.reader(io.StringIO(read_file(path, LIST_BYTES).decode("utf-8-sig"), newline=""), strict=True)
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
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    with open_regular(path, LIST_BYTES) as file:
        content = pq.ParquetFile(file)
        check_rows(content.metadata.num_rows, path.stat().st_size)
        table = read_parquet(content, COLUMN_BYTES)
    if len(set(table.column_names)) != len(table.column_names):
        raise ValueError(f"column names must be distinct, found {', '.join(table.column_names)}")
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _splits(table: Table) -> list[str]:
    return sorted({_text(value) for value in table["split"]} - {""}) if "split" in table else ["all"]


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _check_files(path: Path, folder: Path, files: Sequence[str]) -> None:
    below = f"{folder}/".replace("//", "/")
    for name in files:
        if not is_inside(name.removeprefix(below)):
            raise DatasetError(
                f"{path}: paths must lie inside {folder}, found {shown(name)}; give the root that all of them lie below"
            )
    # A wrong root is told at once; single missing images are recorded as failed, not fatal.
    if files and not any((folder / name).is_file() for name in files[:PROBED]):
        raise DatasetError(
            f"{path}: expected images at paths relative to {folder}, found none of the first {min(PROBED, len(files))} "
            f"({os.fspath(folder / files[0])} …); give the root they are relative to"
        )
