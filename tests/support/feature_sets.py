"""Small feature sets, made the same every time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store import FeatureSet, FeatureSetWriter, Output, Records

__all__ = [
    "FAILED_ROW",
    "KEY",
    "N_ROWS",
    "OUTPUTS",
    "REASON",
    "fill",
    "first_numbers",
    "make_head",
    "make_records",
    "make_sealed",
    "make_values",
    "make_writer",
]

N_ROWS = 70
KEY = {"dataset": {"name": "demo", "split": "test", "class_names": ["cat", "dog"]}, "backbone": {"name": "tiny/net"}}
OUTPUTS = (
    Output(name="pooled", shape=(64,)),
    Output(name="tokens", shape=(2, 32), dtype="float32"),
    Output(name="blocks.9.cls", shape=()),
)
FAILED_ROW, REASON = 17, "truncated file: 12 of 900 bytes, größer"


def make_values() -> dict[str, NDArray[Any]]:
    """Values that need no generator: sevenths, so that float16 has to round."""
    return {
        o.name: (np.arange(N_ROWS * int(np.prod(o.shape)), dtype=np.float64) / 7 + k)
        .reshape(N_ROWS, *o.shape)
        .astype(o.dtype)
        for k, o in enumerate(OUTPUTS)
    }


def make_records(n_rows: int = N_ROWS) -> Records:
    row = np.arange(n_rows)
    return Records(
        ids=[f"images/ä{i:03d}.png" for i in range(n_rows)],
        labels=row % 2,
        content_hash=(row[:, None] * 16 + np.arange(16)).astype(np.uint8),
        columns={
            "area": row.astype(np.float32) / 3,
            "crowd": row % 3 == 0,
            "place": np.array(["Köln", "Rom"])[row % 2],
        },
    )


def make_head() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.arange(128, dtype=np.float32).reshape(2, 64), np.array([0.5, -0.5], np.float32)


def fill(writer: FeatureSetWriter, values: Mapping[str, NDArray[Any]]) -> None:
    """Writes every pending chunk and marks every row."""
    for output in writer.outputs:
        rows = writer.chunk_rows(output.name)
        for index in np.flatnonzero(writer.pending(output.name)).tolist():
            writer.write_chunk(output.name, index, values[output.name][index * rows : (index + 1) * rows])
    writer.mark_ok(0, writer.n_rows)
    writer.mark_failed(FAILED_ROW, REASON)


def make_writer(path: Path, **changes: Any) -> FeatureSetWriter:
    settings: dict[str, Any] = {"key": KEY, "outputs": OUTPUTS, "records": make_records(), "head": make_head()}
    return FeatureSetWriter.create(path, **{**settings, "chunk_bytes": 4096, **changes})


def make_sealed(path: Path, **changes: Any) -> FeatureSet:
    with make_writer(path, **changes) as writer:
        fill(writer, make_values())
        return writer.seal()


def first_numbers(feature_set: FeatureSet) -> list[float]:
    """For other processes, which import this module by its name."""
    return [float(number) for number in feature_set["pooled"][:3, 1]]
