"""Right digests for changed files, computed as FORMAT.md says and with none of the code under test."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

__all__ = ["enlarge", "reseal", "with_table"]


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
    """Computes the file digest as FORMAT.md says, independently of the code under test; reads what it covers."""
    with path.open("r+b") as file:
        start = file.read(128)
        length, slots = struct.unpack_from("<II", start, 24)
        file.seek(128 + 16 * slots)
        table = json.loads(file.read(length))
        own = []
        for output in table["outputs"]:
            if "index" in output:
                file.seek(output["index"]["address"])
                entries = np.prod(output["index"]["shape"], dtype=int)
                index = np.frombuffer(file.read(8 * int(entries)), "<u8").reshape(-1, 3)
                own += [(int(address), int(nbytes)) for address, nbytes, _ in index]
                continue
            chunks = -(-table["rows"] // output["chunk_rows"])
            own.append((output["values"]["address"], chunks * output["chunk_stride"]))
        own += [(entry["address"], _nbytes(entry)) for entry in _digested(table)]
        digest = xxhash.xxh3_128(start[:64])
        place = 80
        for address, nbytes in sorted(own):
            file.seek(place)
            digest.update(file.read(max(0, address - place)))
            place = address + nbytes
        file.seek(place)
        digest.update(file.read())
        file.seek(64)
        file.write(digest.digest())


def enlarge(path: Path, rows: int, id_bytes: int) -> None:
    """Makes the file one of so many rows, whose arrays lie in a hole behind it, with right digests: a sparse bomb."""
    end = path.stat().st_size

    def larger(table: dict[str, Any]) -> None:
        nonlocal end
        table["rows"] = rows
        table["columns"] = []
        for output in table["outputs"]:
            output["values"]["shape"][0] = rows
            output["checksums"]["shape"] = [-(-rows // output["chunk_rows"])]
        for entry in table["records"]:
            entry["shape"][0] = rows
            entry["dtype"] = f"|S{id_bytes}" if entry["name"] == "id" else entry["dtype"]
        for entry in (*table["records"], *(o["checksums"] for o in table["outputs"])):
            entry["address"], end = end, end + -(-_nbytes(entry) // 64) * 64
        for output in table["outputs"]:
            if "index" in output:
                output["index"]["shape"] = [-(-rows // output["packed_rows"]), 3]
                output["index"]["address"], end = end, end + _nbytes(output["index"])
            else:
                output["values"]["address"] = end
                end += output["checksums"]["shape"][0] * output["chunk_stride"]

    with_table(path, larger)
    data = path.read_bytes()
    length, slots = struct.unpack_from("<II", data, 24)
    table = json.loads(data[128 + 16 * slots :][:length])
    digests = b""
    zeros = bytes(1 << 20)
    for entry in _digested(table):
        if entry["path"].startswith("/head"):
            digest = xxhash.xxh3_128(data[entry["address"] :][: _nbytes(entry)])
        else:
            digest = xxhash.xxh3_128()
            for start in range(0, _nbytes(entry), len(zeros)):
                digest.update(zeros[: _nbytes(entry) - start])
        digests += digest.digest()
    text = json.dumps(table, separators=(",", ":")).encode()
    sizes = struct.pack("<QII", end, len(text), len(digests) // 16)
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(16)
        file.write(sizes)
        file.seek(32)
        file.write(xxhash.xxh3_128_digest(data[:16] + sizes + text))
        file.seek(128)
        file.write((digests + text).ljust(struct.unpack_from("<I", data, 12)[0] - 128, b"\0"))


def _digested(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [*table["records"], *table["columns"], *table["head"]]


def _nbytes(entry: dict[str, Any]) -> int:
    nbytes: int = math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
    return nbytes
