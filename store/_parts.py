"""Chunks of a partial that are filled in part: which of their rows are on the disk. See FORMAT.md, "Writing".

They are recorded in the partial's provenance, which is rewritten in place, and never in a sealed file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from featurebank.store._disk import Readable
from featurebank.store._table import OutputEntry, Table

PARTS: Final = "unfinished_chunks"
"""Their place in the provenance."""

Parts: TypeAlias = dict[tuple[str, int], NDArray[np.bool_]]
"""Output and chunk to (rows of the chunk,) True where a row is there."""

_TEXT = re.compile(r"(?P<rows>\d{1,9}-\d{1,9}( \d{1,9}-\d{1,9})*) (?P<digest>[0-9a-f]{32})")


def plain(parts: Mapping[tuple[str, int], tuple[NDArray[np.bool_], str]]) -> dict[str, dict[str, str]]:
    """Rows and digests as plain JSON: output to chunk to ``"first-stop first-stop digest"``, counted in the chunk.

    >>> plain({("pooled", 2): (np.array([True, True, False, True]), "0f" * 16)})
    {'pooled': {'2': '0-2 3-4 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f'}}
    """
    found: dict[str, dict[str, str]] = {}
    for (name, index), (rows, known) in parts.items():
        edges = np.flatnonzero(np.diff(np.concatenate([[False], rows, [False]]))).reshape(-1, 2)
        ranges = [f"{first}-{stop}" for first, stop in edges.tolist()]
        found.setdefault(name, {})[str(index)] = " ".join([*ranges, known])
    return found


def digest(data: NDArray[np.uint8], rows: NDArray[np.bool_]) -> str:
    """XXH3-128 of the bytes of some rows of a chunk, (rows, bytes of a row) uint8."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(data[rows]).data)


def read_parts(disk: Readable, table: Table, provenance: Mapping[str, Any], *, hashed: bool = True) -> Parts:
    """The parts that a provenance tells of and that the disk holds.

    Args:
        disk: the partial.
        table: of its header.
        provenance: of its manifest; what is malformed in it counts as absent.
        hashed: whether the bytes are compared; else the provenance is believed.
    """
    found: Parts = {}
    told = provenance.get(PARTS)
    for entry in table.outputs:
        chunks = told.get(entry.name) if isinstance(told, Mapping) else None
        for key, text in chunks.items() if isinstance(chunks, Mapping) else ():
            with contextlib.suppress(ValueError, TypeError):
                index = int(key)
                rows, expected = _parsed(entry, index, text)
                if not hashed or digest(part_bytes(disk, entry, index), rows) == expected:
                    found[entry.name, index] = rows
    return found


def part_bytes(disk: Readable, entry: OutputEntry, index: int) -> NDArray[np.uint8]:
    """(rows of the chunk, bytes of a row) uint8."""
    first, last = entry.rows(index)
    size = entry.chunk_stride // entry.chunk_rows
    return disk.read(entry.values.address + index * entry.chunk_stride, (last - first) * size).reshape(-1, size)


def committed_rows(disk: Readable, table: Table, provenance: Mapping[str, Any]) -> int:
    """The rows of a partial that are committed in every output, as its records say; no chunk is read."""
    held = np.ones(table.n_rows, np.bool_)
    parts = read_parts(disk, table, provenance, hashed=False)
    for entry in table.outputs:
        recorded = disk.read(entry.checksums.address, entry.checksums.nbytes).view("<u8") != 0
        held &= rows_held(entry, recorded, parts)
    return int(np.count_nonzero(held))


def rows_held(entry: OutputEntry, recorded: NDArray[np.bool_], parts: Parts) -> NDArray[np.bool_]:
    """(N,) True where a row lies in a chunk that is recorded, or in a part."""
    held: NDArray[np.bool_] = np.repeat(recorded, entry.chunk_rows)[: entry.values.shape[0]]
    for (name, index), rows in parts.items():
        if name == entry.name and not recorded[index]:
            first, last = entry.rows(index)
            held[first:last] = rows
    return held


def _parsed(entry: OutputEntry, index: int, text: object) -> tuple[NDArray[np.bool_], str]:
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match is None or not 0 <= index < entry.n_chunks:
        raise ValueError("no rows of a chunk")
    first, last = entry.rows(index)
    rows = np.zeros(last - first, np.bool_)
    for pair in match["rows"].split(" "):
        start, stop = map(int, pair.split("-"))
        if not 0 <= start < stop <= len(rows):
            raise ValueError("rows outside the chunk")
        rows[start:stop] = True
    return rows, match["digest"]
