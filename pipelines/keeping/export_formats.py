"""One writer for each format that a feature set can be exported to; rows are read in blocks, never all at once.

Outputs, records and columns share the names of an export: `written_names` says what each output is called there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store import FeatureSet, InvalidInputError
from featurebank.store.rows import label_names, plain_text

__all__ = ["FORMATS", "format_of", "written_names"]

_BLOCK = 32 << 20
_RECORDS = ("id", "label", "ok", "content_hash")
_SUFFIXES = {".parquet": "parquet", ".safetensors": "safetensors"}
_SAFETENSORS = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i8": "I64", "|u1": "U8", "|b1": "BOOL"}
_SAFETENSORS |= {f"{'<|'[n == 1]}{kind}{n}": f"{kind.upper()}{8 * n}" for kind in "iu" for n in (1, 2, 4, 8)}


def write_npy(feature_set: FeatureSet, outputs: Sequence[str], target: Path) -> None:
    """A folder: ``<output>.npy`` and ``<record>.npy`` each, and ``manifest.json``. No file needs pickle."""
    target.mkdir()
    for name, written in written_names(feature_set, outputs).items():
        info = feature_set.info(name)
        shape = (len(feature_set), *info.shape)
        array = np.lib.format.open_memmap(target / f"{written}.npy", "w+", np.dtype(info.dtype), shape)
        for rows in _blocks(feature_set, [name]):
            array[rows] = feature_set.load(name, rows)
        array.flush()
        del array
    for name, values in _records(feature_set).items():
        np.save(target / f"{name}.npy", plain_text(values), allow_pickle=False)
    (target / "manifest.json").write_text(_manifest(feature_set), encoding="utf-8")


def write_safetensors(feature_set: FeatureSet, outputs: Sequence[str], target: Path) -> None:
    """One file; ids and other text as UTF-8 bytes, (N, width) padded with zeros; the manifest in the metadata."""
    small = {name: _numeric(values) for name, values in _records(feature_set).items()}
    described: dict[str, Any] = {}
    end = 0
    kinds: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = []
    for name, written in written_names(feature_set, outputs).items():
        info = feature_set.info(name)
        kinds.append((written, np.dtype(info.dtype), (len(feature_set), *info.shape)))
    kinds += [(name, values.dtype, values.shape) for name, values in small.items()]
    for name, dtype, shape in kinds:
        start, end = end, end + math.prod(shape) * dtype.itemsize
        described[name] = {"dtype": _SAFETENSORS[dtype.str], "shape": shape, "data_offsets": [start, end]}
    described["__metadata__"] = {"manifest": _manifest(feature_set)}
    text = json.dumps(described, ensure_ascii=False).encode("utf-8")
    text = text.ljust(-(-len(text) // 64) * 64)
    with target.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in outputs:
            for rows in _blocks(feature_set, [name]):
                file.write(feature_set.load(name, rows).data)
        for values in small.values():
            file.write(np.ascontiguousarray(values).data)


def write_parquet(feature_set: FeatureSet, outputs: Sequence[str], target: Path) -> None:
    """One file, one record a row; outputs as lists of float32 of one length, which every reader of Parquet knows.

    Where the set has class names, ``label_name`` has that of each label, or those of a row's labels.
    """
    import pyarrow.parquet  # type: ignore[import-untyped]

    writer = None
    records = _records(feature_set)
    try:
        for rows in _blocks(feature_set, outputs):
            table = _table(feature_set, outputs, records, rows)
            if writer is None:
                writer = pyarrow.parquet.ParquetWriter(target, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def write_hf(feature_set: FeatureSet, outputs: Sequence[str], target: Path) -> None:
    """A folder that ``datasets.load_dataset`` reads: a card, and ``data/<split>-00000-of-00001.parquet``."""
    split = re.sub(r"\W+", "_", feature_set.split) or "train"
    (target / "data").mkdir(parents=True)
    write_parquet(feature_set, outputs, target / "data" / f"{split}-00000-of-00001.parquet")
    card = {
        "pretty_name": f"{feature_set.dataset}/{feature_set.split}, features of {feature_set.backbone}",
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}-*.parquet"}]}],
    }
    (target / "README.md").write_text(f"---\n{json.dumps(card, indent=2, ensure_ascii=False)}\n---\n", encoding="utf-8")
    (target / "manifest.json").write_text(_manifest(feature_set), encoding="utf-8")


FORMATS: dict[str, Callable[[FeatureSet, Sequence[str], Path], None]] = {
    "npy": write_npy,
    "parquet": write_parquet,
    "safetensors": write_safetensors,
    "hf": write_hf,
}


def format_of(target: Path, form: str | None) -> str:
    """The format to write: the one asked for, else that of the target's suffix, else the folder of ``npy``.

    Raises:
        InvalidInputError: there is no such format, or the suffix is that of another, or of none.

    >>> format_of(Path("out.safetensors"), None), format_of(Path("out"), None), format_of(Path("out"), "hf")
    ('safetensors', 'npy', 'hf')
    """
    if form is not None and form not in FORMATS:
        raise InvalidInputError(f"the format must be one of {', '.join(FORMATS)}; found {form!r}")
    suffix = target.suffix.lower()
    said = _SUFFIXES.get(suffix, "")
    if form is None and suffix and not said:
        raise InvalidInputError(
            f"{target}: the suffix must be {' or '.join(_SUFFIXES)}, or none for a folder of npy files; "
            f"found {suffix!r}; say with --format which of {', '.join(FORMATS)} to write there"
        )
    if said and form not in (None, said):
        raise InvalidInputError(
            f"{target} must be in the format of its suffix, {said}; found {form}; "
            "leave --format out, or end the name otherwise"
        )
    return form or said or "npy"


def written_names(feature_set: FeatureSet, outputs: Sequence[str]) -> dict[str, str]:
    """What each output is called in an export: by its name, or ``output.NAME`` where something else is called that.

    Names that differ in case alone are the same to some file systems and databases.
    """
    taken = {
        name.casefold() for name in (*_RECORDS, "label_name", *(f"column.{name}" for name in feature_set.table.columns))
    }
    names: dict[str, str] = {}
    for name in dict.fromkeys(outputs):
        written = name
        while written.casefold() in taken:
            written = f"output.{written}"
        taken.add(written.casefold())
        names[name] = written
    return names


def _blocks(feature_set: FeatureSet, outputs: Sequence[str]) -> Iterator[slice]:
    """Slices of rows of about 32 MiB."""
    infos = [feature_set.info(name) for name in outputs]
    row_bytes = sum(math.prod(info.shape) * np.dtype(info.dtype).itemsize for info in infos)
    step = max(1, _BLOCK // max(1, row_bytes))
    return (slice(start, min(start + step, len(feature_set))) for start in range(0, len(feature_set), step))


def _records(feature_set: FeatureSet) -> dict[str, NDArray[Any]]:
    records = (feature_set.ids, feature_set.labels, feature_set.ok, feature_set.content_hash)
    return {
        **dict(zip(_RECORDS, records, strict=True)),
        **{f"column.{name}": values for name, values in feature_set.columns.items()},
    }


def _manifest(feature_set: FeatureSet) -> str:
    return json.dumps({"fingerprint": feature_set.fingerprint, **feature_set.manifest}, ensure_ascii=False)


def _numeric(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind not in "UT":
        return values
    encoded = np.strings.encode(plain_text(values), "utf-8")
    return np.ascontiguousarray(encoded).view(np.uint8).reshape(len(values), -1)


def _table(feature_set: FeatureSet, outputs: Sequence[str], records: dict[str, NDArray[Any]], rows: slice) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name, values in records.items():
        if name == "content_hash":
            columns[name] = pa.array([row.tobytes() for row in values[rows]], pa.binary(16))
        elif values.ndim > 1:
            columns[name] = _lists(values[rows])
        else:
            columns[name] = pa.array(np.ascontiguousarray(plain_text(values[rows])))
        if name == "label" and (names := label_names(feature_set, rows)) is not None:
            columns["label_name"] = pa.array(names, pa.list_(pa.string()) if values.ndim > 1 else pa.string())
    shapes = {}
    for name, written in written_names(feature_set, outputs).items():
        features = feature_set.load(name, rows).astype(np.float32)
        shapes[written] = list(features.shape[1:])
        columns[written] = _lists(features.reshape(len(features), -1)) if shapes[written] else pa.array(features)
    metadata = {"featurebank": _manifest(feature_set), "featurebank.shapes": json.dumps(shapes)}
    return pa.table(columns).replace_schema_metadata(metadata)


def _lists(values: NDArray[Any]) -> Any:
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
