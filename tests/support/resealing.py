"""Right digests for changed files, computed as FORMAT.md says and with none of the code under test."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

__all__ = ["reseal", "with_table"]


def with_table(path: Path, change: Callable[[dict[str, Any]], object], read: int = -1) -> None:
    """Rewrites the header's table with right digests: an attacker's header, not an accident's.

    Only the first ``read`` bytes are read, where that is not -1.
    """
    with path.open("rb") as file:
        data = bytearray(file.read(read))
    length, slots = struct.unpack_from("<II", data, 24)
    start = 128 + 16 * slots
    table = json.loads(data[start : start + length])
    change(table)
    text = json.dumps(table, separators=(",", ":")).encode()
    block_size = struct.unpack_from("<I", data, 12)[0]
    assert start + len(text) <= block_size
    data[start:block_size] = text.ljust(block_size - start, b"\0")
    struct.pack_into("<I", data, 24, len(text))
    data[32:48] = xxhash.xxh3_128_digest(bytes(data[:32]) + text)
    with path.open("r+b") as file:
        file.write(data)


def reseal(path: Path) -> None:
    """Computes the file digest as FORMAT.md says, independently of the code under test."""
    data = bytearray(path.read_bytes())
    length, slots = struct.unpack_from("<II", data, 24)
    table = json.loads(data[128 + 16 * slots :][:length])
    own = []
    for output in table["outputs"]:
        if "index" in output:
            entries = np.prod(output["index"]["shape"], dtype=int)
            index = np.frombuffer(data, "<u8", entries, output["index"]["address"]).reshape(-1, 3)
            own += [(int(address), int(nbytes)) for address, nbytes, _ in index]
            continue
        chunks = -(-table["rows"] // output["chunk_rows"])
        own.append((output["values"]["address"], chunks * output["chunk_stride"]))
    for entry in (*table["records"], *table["columns"], *table["head"]):
        count = int(np.prod(entry["shape"], dtype=int))
        own.append((entry["address"], count * np.dtype(entry["dtype"]).itemsize))
    covered = bytearray(data[:64])
    start = 80
    for address, nbytes in sorted(own):
        covered += data[start:address]
        start = address + nbytes
    covered += data[start:]
    data[64:80] = xxhash.xxh3_128_digest(bytes(covered))
    path.write_bytes(data)
