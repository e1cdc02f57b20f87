"""A reader written from FORMAT.md alone: struct, json, NumPy, and none of the code under test."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Contents", "read"]


@dataclass
class Contents:
    outputs: dict[str, NDArray[Any]]
    records: dict[str, NDArray[Any]]
    columns: dict[str, NDArray[Any]]
    head: dict[str, NDArray[Any]]
    checksums: dict[str, NDArray[np.uint64]]
    manifest: dict[str, Any]
    fingerprint: str


def read(path: Path) -> Contents:
    data = path.read_bytes()
    magic, version, _, size, length, slots = struct.unpack_from("<8sIIQII", data)
    assert (magic, version, size, data[48]) == (b"\x89FBK\r\n\x1a\n", 1, len(data), 2)
    table = json.loads(data[128 + 16 * slots :][:length])

    def array(entry: dict[str, Any]) -> NDArray[Any]:
        count = int(np.prod(entry["shape"], dtype=int))
        return np.frombuffer(data, entry["dtype"], count, entry["address"]).reshape(entry["shape"])

    def group(entries: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
        return {entry["name"]: array(entry) for entry in entries}

    return Contents(
        outputs={output["name"]: array(output["values"]) for output in table["outputs"]},
        records=group(table["records"]),
        columns=group(table["columns"]),
        head=group(table["head"]),
        checksums={output["name"]: array(output["checksums"]) for output in table["outputs"]},
        manifest=json.loads(array(table["manifest"]).item().decode("utf-8")),
        fingerprint=table["fingerprint"],
    )
