"""The record beside a FAISS index, and the hashes that tie both to the features they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import ArrayLike

from featurebank.retrieval._features import METRICS, as_features

FORMAT = 1
PIECE = 1 << 24  # bytes hashed at a time
RECORD_BYTES = 1 << 20  # more is no record of ours


def content_fingerprint(features: ArrayLike) -> str:
    """A fingerprint of features that no store holds: XXH3-128 of shape, dtype and values, 32 hex digits."""
    rows = as_features(features)
    state = xxhash.xxh3_128(f"{len(rows)}x{rows.shape[1]}:{rows.dtype.str.lstrip('<>=')}:".encode())
    step = max(1, PIECE // (rows.shape[1] * rows.itemsize))
    for start in range(0, len(rows), step):
        block = np.ascontiguousarray(rows[start : start + step], rows.dtype.newbyteorder("<"))
        state.update(block.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def record_path(index: Path) -> Path:
    return index.with_name(f"{index.name}.json")


def read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must be beside the index and say what it indexes; there is none; build it again"
        )
    damaged = ValueError(
        f"{path} must be the record of an index in format {FORMAT}; it is damaged or of another format"
    )
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(RECORD_BYTES))
    except ValueError as error:
        raise damaged from error
    types = {"format": int, "factory": str, "metric": str, "seed": int, "dimensions": int, "xxh3_128": str}
    if (
        not isinstance(record, dict)
        or not all(type(record.get(name)) is kind for name, kind in types.items())
        or record["format"] != FORMAT
        or record["metric"] not in METRICS
        or not _are_parts(record.get("parts"))
    ):
        raise damaged
    return record


def _are_parts(parts: object) -> bool:
    return isinstance(parts, list) and all(
        isinstance(part, dict)
        and set(part) == {"fingerprint", "rows"}
        and type(part["fingerprint"]) is str
        and type(part["rows"]) is int
        for part in parts
    )


def file_hash(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be an index; there is none; build it")
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            state.update(piece)
    return state.hexdigest()
