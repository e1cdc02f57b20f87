"""Content hashes of files, remembered between runs.

A file's hash is filed under the XXH3-128 of its absolute path, size, modification time and inode, and of what of it is
meant, where that is a part. The index is a folder of segments, each written whole and renamed into place, so that a
crash or a second process can lose entries but never damage one. A segment is entries of 32 bytes (key, hash) sorted by
key, then the XXH3-128 of them all.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from featurebank.extract.assets import cache_dir
from featurebank.extract.datasets._reading import IMAGE_BYTES, read_within
from featurebank.extract.opening import open_regular

log = logging.getLogger("featurebank")

Hashes = NDArray[np.uint8]
"""(N, 16) XXH3-128, big-endian; or (N, 32), key and hash."""

DIGEST = 16
ENTRY = 2 * DIGEST
SUFFIX = ".hashes"
MAX_SEGMENTS = 12
FILES_A_BATCH = 256
RACY_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again within its clock's tick: it is not remembered."""


Digest = Callable[[int, bytes], bytes]
"""The hash of a row, from its file's bytes; raises OSError where the bytes are none that it can use."""


@dataclass(frozen=True)
class Stamps:
    """What tells of N files, or parts of them, whether they have changed; nothing of them is read.

    Attributes:
        keys: (N, 16) keys of the index, all zero for a file that is not there.
        sizes: (N,) bytes of each file, -1 for one that is not there.
        settled: (N,) whether it was changed long enough ago that another change would have another time.
    """

    keys: Hashes
    sizes: NDArray[np.int64]
    settled: NDArray[np.bool_]


def stamps(paths: Sequence[str], parts: Sequence[str] | None = None, *, threads: int | None = None) -> Stamps:
    """The stamps of N files as they are now.

    Args:
        paths: N absolute paths.
        parts: what of each file is meant, see `file_hashes`.
        threads: how many files are looked at at once.
    """
    parts = parts or [""] * len(paths)
    batches = [slice(first, first + FILES_A_BATCH) for first in range(0, max(1, len(paths)), FILES_A_BATCH)]
    with ThreadPoolExecutor(threads or _threads(), "stat") as pool:
        some = list(pool.map(lambda rows: _stamps(paths[rows], parts[rows]), batches))
    keys = np.frombuffer(b"".join(stamp.keys.tobytes() for stamp in some), np.uint8).reshape(-1, DIGEST)
    sizes, settled = (np.concatenate(values) for values in zip(*((s.sizes, s.settled) for s in some), strict=True))
    return Stamps(keys, sizes, settled)


def remembered(keys: Hashes, *, folder: Path | None = None) -> tuple[Hashes, NDArray[np.bool_]]:
    """(N, 16) hashes of the contents that the index has under these keys, and (N,) which of them it has."""
    return _look_up(_load(_place(folder)), keys)


def remember(keys: Hashes, hashes: Hashes, *, folder: Path | None = None) -> None:
    """Adds the hashes (n, 16) of contents that were read between two looks that gave these keys (n, 16)."""
    if len(keys):
        _save(_place(folder), np.concatenate([keys, hashes], axis=1))


def file_hashes(
    paths: Sequence[str],
    *,
    parts: Sequence[str] | None = None,
    digest: Digest = lambda row, content: xxhash.xxh3_128_digest(content),  # noqa: ARG005 (one digest for all rows)
    folder: Path | None = None,
    threads: int | None = None,
) -> Hashes:
    """(N, 16) hashes of N files, all zero where one cannot be read; unchanged files are not read again.

    Args:
        paths: N absolute paths.
        parts: what of each file is meant, in words that change whenever ``digest`` would give something else.
        digest: the hash; XXH3-128 of the whole file by default.
        folder: where the index is kept; ``index`` in the asset cache by default.
        threads: how many files are read at once.
    """
    parts = parts or [""] * len(paths)
    hashes, known = remembered(stamps(paths, parts, threads=threads).keys, folder=folder)
    missing = np.flatnonzero(~known)
    if not len(missing):
        return hashes
    log.info("hashing %d of %d files", len(missing), len(paths))
    rows = [missing[first : first + FILES_A_BATCH] for first in range(0, len(missing), FILES_A_BATCH)]
    with ThreadPoolExecutor(threads or _threads(), "hash") as pool:
        read = np.concatenate(
            list(
                pool.map(
                    lambda some: _read([paths[row] for row in some], [parts[row] for row in some], some, digest), rows
                )
            )
        )
    hashes[missing] = read[:, DIGEST:]
    _save(_place(folder), read[read[:, :DIGEST].any(axis=1)])
    return hashes


def _place(folder: Path | None) -> Path:
    return cache_dir() / "index" if folder is None else folder


def _threads() -> int:
    return min(32, 4 * (os.cpu_count() or 1))


def _key(path: str, part: str, status: os.stat_result) -> bytes:
    facts = f"{status.st_size} {status.st_mtime_ns} {status.st_ino} "
    return xxhash.xxh3_128_digest(facts.encode() + os.fsencode(path) + (f"\0{part}" if part else "").encode())


def _stamps(paths: Sequence[str], parts: Sequence[str]) -> Stamps:
    keys, sizes, times = [], [], []
    settled = time.time_ns() - RACY_NS
    for path, part in zip(paths, parts, strict=True):
        try:
            status = os.stat(path)  # noqa: PTH116 (called a million times)
            keys.append(_key(path, part, status))
            sizes.append(status.st_size)
            times.append(status.st_mtime_ns < settled)
        except (OSError, ValueError):
            keys.append(bytes(DIGEST))
            sizes.append(-1)
            times.append(False)
    return Stamps(
        np.frombuffer(b"".join(keys), np.uint8).reshape(-1, DIGEST),
        np.array(sizes, np.int64),
        np.array(times, np.bool_),
    )


def _read(paths: Sequence[str], parts: Sequence[str], rows: NDArray[np.int64], digest: Digest) -> Hashes:
    """(n, 32) entries of freshly read files; the key is all zero where the entry must not be remembered."""
    entries = []
    for path, part, row in zip(paths, parts, rows.tolist(), strict=True):
        key = found = bytes(DIGEST)
        try:
            with open_regular(path, IMAGE_BYTES) as file:
                before = os.fstat(file.fileno())
                content = read_within(file)
                now = time.time_ns()
                after = os.fstat(file.fileno())
            found = digest(row, content)
            if before.st_mtime_ns == after.st_mtime_ns < now - RACY_NS and len(content) == after.st_size:
                key = _key(path, part, after)
        except (OSError, ValueError) as error:
            log.debug("cannot hash %s: %s", path, error)
        entries.append(key + found)
    return np.frombuffer(b"".join(entries), np.uint8).reshape(-1, ENTRY)


def _look_up(entries: Hashes, keys: Hashes) -> tuple[Hashes, NDArray[np.bool_]]:
    """Hashes (n, 16) of the keys (n, 16), and which (n,) were found."""
    hashes = np.zeros((len(keys), DIGEST), np.uint8)
    if not len(entries):
        return hashes, np.zeros(len(keys), np.bool_)
    order = _first_half(entries)
    at = np.minimum(np.searchsorted(order, _first_half(keys)), len(entries) - 1)
    # Two keys that share their first half cost one re-reading, at odds of one in 10^7 for a million files.
    known = (entries[at, :DIGEST] == keys).all(axis=1) & keys.any(axis=1)
    hashes[known] = entries[at[known], DIGEST:]
    return hashes, known


def _first_half(entries: Hashes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(entries[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def _load(folder: Path) -> Hashes:
    """All entries of the index, sorted by key."""
    parts = [
        entries for segment in sorted(folder.glob(f"*{SUFFIX}")) if (entries := _load_segment(segment)) is not None
    ]
    if len(parts) == 1:
        return parts[0]
    return _sorted(np.concatenate([np.empty((0, ENTRY), np.uint8), *parts]))


def _load_segment(path: Path) -> Hashes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None  # Another process has just merged it.
    body, digest = content[:-DIGEST], content[-DIGEST:]
    if len(body) % ENTRY or xxhash.xxh3_128_digest(body) != digest:
        log.warning("%s is damaged and is removed; its files are hashed again", path)
        path.unlink(missing_ok=True)
        return None
    return np.frombuffer(body, np.uint8).reshape(-1, ENTRY)


def _sorted(entries: Hashes) -> Hashes:
    return entries[np.argsort(_first_half(entries), kind="stable")]


def _save(folder: Path, entries: Hashes) -> None:
    """Adds a segment, or one merged segment in place of all once there are many. A full disk is no error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        merged = sorted(folder.glob(f"*{SUFFIX}"))
        if len(merged) < MAX_SEGMENTS:
            merged = []
        old = [part for segment in merged if (part := _load_segment(segment)) is not None]
        entries = np.concatenate([entries, *old])
        if not len(entries):
            return
        _, first = np.unique(_first_half(entries), return_index=True)
        body = entries[first].tobytes()
        name = folder / secrets.token_hex(8)
        with name.open("xb") as file:
            file.write(body + xxhash.xxh3_128_digest(body))
        name.rename(f"{name}{SUFFIX}")
        for segment in merged:
            segment.unlink(missing_ok=True)
    except OSError as error:
        log.warning(
            "the index of file hashes in %s cannot be written (%s); files are hashed again next time", folder, error
        )
