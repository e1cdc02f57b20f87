"""Folders of Hugging Face's ``datasets``, read with pyarrow alone: ``hf:/data/birds``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurebank.extract.datasets._columns import column
from featurebank.extract.datasets._labels import Labels, class_index, parse_labels
from featurebank.extract.datasets._reading import (
    LIST_BYTES,
    is_inside,
    parse_json,
    read_file,
    reading,
    shown,
)
from featurebank.extract.datasets._records import ReaderSplit
from featurebank.extract.datasets._tables import Table, open_table
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded

SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
CHOICE = re.compile(r"@((?:image|label)=[^,@/]+(?:,(?:image|label)=[^,@/]+)*)$")


class HuggingFaceSource:
    """``hf:PATH``: a ``Dataset`` (split ``all``) or ``DatasetDict`` as ``save_to_disk`` writes it; or Parquet files.

    Parquet files are those called ``<split>-00000-of-00003.parquet``, anywhere below the folder, as the hub keeps them.
    All shards of a split must be there. The image is the one column of images. The label is the one ``ClassLabel``,
    else the numbers in ``label``: whole ones are class indices, decimals become the column ``label``, to regress to;
    without either there is none (-1). Where there are several, one says which:
    ``hf:/data/cifar100@image=img,label=coarse_label``. Columns of numbers, booleans and strings become extra columns,
    whole numbers with gaps as strings. Ids are ``<split>/<row>``.
    """

    prefix = "hf:"

    def names(self) -> Sequence[str]:
        """None: any path is a dataset."""
        return ()

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:
        """The splits that were saved, or that the files' names begin with."""
        return list(_splits(_place(spec_name, root)[0]))

    def open(self, spec: DatasetSpec) -> Split:
        """The rows of one split.

        Raises:
            UnknownNameError: no such split or column.
            DatasetError: the folder is none of ``datasets``, is damaged, or has no column of images.
        """
        folder, chosen = _place(spec.name, spec.root)
        table = open_table(_files(folder, spec.split))
        features = _features(table)
        image, label = _image(spec.name, table, features, chosen), _label(spec.name, table, features, chosen)
        n = len(table)
        found = Labels(labels=np.full(n, -1, np.int64)) if label is None else _numbers(spec.name, label, table)
        others = [name for name in table.schema.names if name not in {image, label}]
        nested = [name for name in others if _is_nested(table, name)]
        columns = {name: column(table.column(name).to_pylist(), typed=True) for name in others if name not in nested}
        if found.values is not None:
            columns["label"] = found.values
        return ReaderSplit(
            spec,
            [f"{spec.split}/{row:0{max(5, len(str(n - 1)))}d}" for row in range(n)],
            found.labels,
            features.get(label or "", {}).get("names") or (),
            columns,
            notes=[*found.notes, *(f"column {shown(name)} is left out: neither numbers nor text" for name in nested)],
            read=lambda row: _content(table.cell(image, row), folder),
            reopen=_reopen,
        ).subset()


def _reopen(spec: DatasetSpec) -> Split:
    return HuggingFaceSource().open(spec)


def _place(name: str, root: Path | None) -> tuple[Path, dict[str, str]]:
    """The folder, and the columns chosen for image and label."""
    text = name.removeprefix(HuggingFaceSource.prefix)
    choice = CHOICE.search(text)
    path = expanded(text[: choice.start()] if choice else text)
    folder = (path if root is None else expanded(root) / path).absolute()
    if not folder.is_dir():
        raise DatasetError(f"{folder}: expected a folder of Hugging Face's datasets, found none; check the path")
    return folder, dict(part.split("=", 1) for part in choice[1].split(",")) if choice else {}


def _splits(folder: Path) -> dict[str, list[Path]]:
    """Split to its Parquet files in order, or to the folder that its Arrow files are in."""
    if (folder / "dataset_dict.json").is_file():
        return {name: [folder / name] for name in _json(folder / "dataset_dict.json", "splits", str)}
    if (folder / "state.json").is_file():
        return {"all": [folder]}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        found.setdefault(SHARD.sub("", path.stem), []).append(path)
    if not found:
        raise DatasetError(
            f"{folder}: expected dataset_dict.json or state.json of save_to_disk, or Parquet files, found none"
        )
    return found


def _files(folder: Path, split: str) -> list[Path]:
    """A split's files, all of them: the others may lack some."""
    found = _splits(folder)
    if split not in found:
        raise unknown_name(f"split of {folder}", split, found)
    paths = _arrow_files(found[split][0]) if found[split][0].is_dir() else found[split]
    if len({path.parent for path in paths}) > 1:
        places = ", ".join(sorted({str(path.parent.relative_to(folder)) for path in paths}))
        raise DatasetError(f"{folder}: expected one configuration, found {split!r} in {places}; name one of them")
    _check_shards(paths)
    return paths


def _arrow_files(folder: Path) -> list[Path]:
    place = folder / "state.json"
    files = [entry.get("filename") for entry in _json(place, "_data_files", dict)]
    if bad := [name for name in files if not isinstance(name, str) or not is_inside(name)]:
        raise DatasetError(f"{place}: expected files below {folder}, found {shown(str(bad[0]))}")
    if not files:
        raise DatasetError(f"{place}: expected files under _data_files, found none; save the dataset again")
    return [folder / str(name) for name in files]


def _check_shards(paths: Sequence[Path]) -> None:
    """Refuses files called ``-00000-of-00003`` of which one is not there.

    Raises:
        DatasetError: which.
    """
    numbered = {path: (int(found[1]), int(found[2])) for path in paths if (found := SHARD.search(path.stem))}
    if not numbered:
        return
    first = paths[0]
    totals = sorted({total for _, total in numbered.values()})
    if len(totals) > 1 or len(numbered) < len(paths):
        some = ", ".join(path.name for path in paths[:5])
        raise DatasetError(f"{first.parent}: expected the shards of one numbering, found {some}; keep one of them")
    lacking = sorted(set(range(totals[0])) - {number for number, _ in numbered.values()})
    if lacking:
        stem = SHARD.sub("", first.stem)
        names = [f"{stem}-{number:05d}-of-{totals[0]:05d}{first.suffix}" for number in lacking[:10]]
        raise DatasetError(
            f"{first.parent}: expected {totals[0]:,} shards, {len(lacking):,} of them missing: {', '.join(names)}"
            f"{', …' if len(lacking) > 10 else ''}; fetch them"
        )


def _json(path: Path, key: str, kind: type) -> list[Any]:
    """The list under a key of an object, whose items are of one kind; names of folders among them stay inside."""
    with reading(path, "JSON that save_to_disk writes", "save the dataset again"):
        value = parse_json(read_file(path, LIST_BYTES))
        items = value[key] if isinstance(value, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
            raise ValueError(f"no list of {kind.__name__} under {key!r}")
        if bad := [item for item in items if kind is str and (not is_inside(item) or "/" in item)]:
            raise ValueError(f"the name {shown(bad[0])}")
        return items


def _features(table: Table) -> Mapping[str, dict[str, Any]]:
    """What ``datasets`` says of the columns, from the schema's metadata."""
    text = (table.schema.metadata or {}).get(b"huggingface")
    value = parse_json(text) if text else {}
    for key in ("info", "features"):
        value = value.get(key) if isinstance(value, dict) else None
    return {str(k): v for k, v in value.items() if isinstance(v, dict)} if isinstance(value, dict) else {}


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
            raise unknown_name(f"column of {name}", chosen[role], table.schema.names)
        return chosen[role]
    if len(columns) != 1:
        found = ", ".join(columns) or f"none among {', '.join(table.schema.names)}"
        raise DatasetError(f"{name}: expected one {role} column, found {found}; name it: {name}@{role}=COLUMN")
    return columns[0]


def _numbers(name: str, label: str, table: Table) -> Labels:
    values = table.column(label).to_pylist()
    if strangers := [value for value in values if value is not None and type(value) not in {int, float}]:
        raise DatasetError(f"{name}: expected whole numbers in the column {label!r}, found {shown(repr(strangers[0]))}")
    if all(isinstance(value, int) for value in values):
        found = [class_index(value) for value in values]
        if None not in found:
            return Labels(labels=np.array(found, np.int64))
    return parse_labels(values, f"{name}, column {label!r}")


def _is_nested(table: Table, name: str) -> bool:
    import pyarrow as pa  # type: ignore[import-untyped]

    kind, is_a = table.schema.field(name).type, pa.types
    binary = is_a.is_binary(kind) or is_a.is_large_binary(kind) or is_a.is_fixed_size_binary(kind)
    return bool(binary or is_a.is_nested(kind))


def _content(cell: Any, folder: Path) -> bytes:
    """An image's bytes, from the row or from the file below the folder that it names."""
    if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
        return bytes(cell["bytes"])
    path = folder / str(cell["path"]) if isinstance(cell, dict) and cell.get("path") else None
    if path is None or not path.resolve().is_relative_to(folder.resolve()):
        raise OSError(f"expected an image's bytes, or a file below {folder}, found {shown(str(cell))}")
    return read_file(path)
