"""Folders of Hugging Face's ``datasets``, read with pyarrow alone: ``hf:/data/birds``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._records import ReaderSplit
from featurebank.extract.datasets._tables import Table, open_table
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError, nearest

__all__ = ["HuggingFaceSource"]

SHARD = re.compile(r"-\d{5}-of-\d{5}$")
CHOICE = re.compile(r"@((?:image|label)=[^,@/]+(?:,(?:image|label)=[^,@/]+)*)$")


class HuggingFaceSource:
    """``hf:PATH``: a ``Dataset`` (split ``all``) or ``DatasetDict`` as ``save_to_disk`` writes it; or Parquet files.

    Parquet files are those called ``<split>-00000-of-00003.parquet``, anywhere below the folder, as the hub keeps them.
    The image is the one column of images. The label is the one ``ClassLabel``, else the whole numbers in ``label``;
    without either there is none (-1). Where there are several, one says which:
    ``hf:/data/cifar100@image=img,label=coarse_label``. Columns of numbers, booleans and strings become extra columns.
    Ids are ``<split>/<row>``.
    """

    prefix = "hf:"

    def names(self) -> Sequence[str]:
        """None: any path is a dataset."""
        return ()

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:
        """The splits that were saved, or that the files' names begin with."""
        return list(_split_files(_place(spec_name, root)[0]))

    def open(self, spec: DatasetSpec) -> Split:
        """The rows of one split.

        Raises:
            UnknownNameError: no such split or column.
            DatasetError: the folder is none of ``datasets``, is damaged, or has no column of images.
        """
        folder, chosen = _place(spec.name, spec.root)
        files = _split_files(folder)
        if spec.split not in files:
            raise nearest(f"split of {spec.name}", spec.split, files)
        table = open_table(files[spec.split])
        features = _features(table)
        image, label = _image(spec.name, table, features, chosen), _label(spec.name, table, features, chosen)
        n = len(table)
        return ReaderSplit(
            spec,
            [f"{spec.split}/{row:0{max(5, len(str(n - 1)))}d}" for row in range(n)],
            np.full(n, -1, np.int64) if label is None else _numbers(spec.name, label, table),
            features.get(label or "", {}).get("names") or (),
            {name: _plain(table, name) for name in table.schema.names if name != label and _is_plain(table, name)},
            read=lambda row: _content(table.cell(image, row), folder),
            reopen=_reopen,
        ).subset()


def _reopen(spec: DatasetSpec) -> Split:
    return HuggingFaceSource().open(spec)


def _place(name: str, root: Path | None) -> tuple[Path, dict[str, str]]:
    """The folder, and the columns chosen for image and label."""
    text = name.removeprefix(HuggingFaceSource.prefix)
    choice = CHOICE.search(text)
    path = Path(text[: choice.start()] if choice else text).expanduser()
    folder = (path if root is None else root / path).absolute()
    if not folder.is_dir():
        raise DatasetError(f"{folder}: expected a folder of Hugging Face's datasets, found none; check the path")
    return folder, dict(part.split("=", 1) for part in choice[1].split(",")) if choice else {}


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """Split to its files, in order."""
    if (folder / "dataset_dict.json").is_file():
        names = _json(folder / "dataset_dict.json")["splits"]
        return {str(name): _arrow_files(folder / str(name)) for name in names}
    if (folder / "state.json").is_file():
        return {"all": _arrow_files(folder)}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        found.setdefault(SHARD.sub("", path.stem), []).append(path)
    if not found:
        raise DatasetError(
            f"{folder}: expected dataset_dict.json or state.json of save_to_disk, or Parquet files, found none"
        )
    for split, paths in found.items():
        if len({path.parent for path in paths}) > 1:
            places = ", ".join(sorted({str(path.parent.relative_to(folder)) for path in paths}))
            raise DatasetError(f"{folder}: expected one configuration, found {split!r} in {places}; name one of them")
    return found


def _arrow_files(folder: Path) -> list[Path]:
    return [folder / str(entry["filename"]) for entry in _json(folder / "state.json")["_data_files"]]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected JSON that save_to_disk writes, found: {error}") from error


def _features(table: Table) -> Mapping[str, dict[str, Any]]:
    """What ``datasets`` says of the columns, from the schema's metadata."""
    text = (table.schema.metadata or {}).get(b"huggingface")
    return json.loads(text).get("info", {}).get("features") or {} if text else {}


def _image(name: str, table: Table, features: Mapping[str, dict[str, Any]], chosen: Mapping[str, str]) -> str:
    def is_image(column: str) -> bool:
        kind = table.schema.field(column).type
        parts = {kind.field(k).name for k in range(kind.num_fields)} if hasattr(kind, "num_fields") else set()
        return features.get(column, {}).get("_type") == "Image" or parts == {"bytes", "path"}

    return _one(name, "image", [column for column in table.schema.names if is_image(column)], table, chosen)


def _label(name: str, table: Table, features: Mapping[str, dict[str, Any]], chosen: Mapping[str, str]) -> str | None:
    columns = [column for column in table.schema.names if features.get(column, {}).get("_type") == "ClassLabel"]
    if not columns and "label" not in chosen and "label" not in table.schema.names:
        return None
    return _one(name, "label", columns or ["label"], table, chosen)


def _one(name: str, role: str, columns: Sequence[str], table: Table, chosen: Mapping[str, str]) -> str:
    if role in chosen:
        if chosen[role] not in table.schema.names:
            raise nearest(f"column of {name}", chosen[role], table.schema.names)
        return chosen[role]
    if len(columns) != 1:
        found = ", ".join(columns) or f"none among {', '.join(table.schema.names)}"
        raise DatasetError(f"{name}: expected one {role} column, found {found}; name it: {name}@{role}=COLUMN")
    return columns[0]


def _numbers(name: str, label: str, table: Table) -> NDArray[np.int64]:
    try:
        values = table.column(label).to_pylist()
        return np.array([-1 if value is None else _whole(value) for value in values], np.int64)
    except TypeError as error:
        raise DatasetError(f"{name}: expected whole numbers in the column {label!r}, found {error}") from error


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(repr(value))
    return value


def _is_plain(table: Table, name: str) -> bool:
    import pyarrow as pa  # type: ignore[import-untyped]

    kind, is_a = table.schema.field(name).type, pa.types
    return bool(is_a.is_integer(kind) or is_a.is_floating(kind) or is_a.is_boolean(kind) or is_a.is_string(kind))


def _plain(table: Table, name: str) -> NDArray[np.generic]:
    """A column of numbers (NaN where blank), booleans, or strings (empty where blank)."""
    import pyarrow as pa

    values, kind = table.column(name).to_pylist(), table.schema.field(name).type
    if pa.types.is_string(kind):
        return np.array(["" if value is None else value for value in values], np.str_)
    if None in values:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array(
        values, np.bool_ if pa.types.is_boolean(kind) else np.float64 if pa.types.is_floating(kind) else np.int64
    )


def _content(cell: Any, folder: Path) -> bytes:
    """An image's bytes, from the row or from the file below the folder that it names."""
    if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
        return bytes(cell["bytes"])
    path = folder / str(cell["path"]) if isinstance(cell, dict) and cell.get("path") else None
    if path is None or not path.resolve().is_relative_to(folder.resolve()):
        raise OSError(f"expected an image's bytes, or a file below {folder}, found {str(cell)[:80]}")
    return path.read_bytes()
