"""When a set was sealed and by which store: the stamp in its provenance. See FORMAT.md, "The stamp".

A time orders the contents that a growing dataset has had; a file's own times do not, for every copy changes them. The
mark says that this very store sealed the set. It is made with a secret that never leaves the store, so that nobody who
has seen a store's sets can make another that counts as its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from featurebank.store._names import decode_component
from featurebank.store._sealed import SealedFile
from featurebank.store.errors import InvalidInputError, StoreError
from featurebank.store.fingerprint import fingerprint

__all__ = ["PLACES", "Stamp", "is_ahead", "is_own", "new_stamp", "recipe_of", "secret_of", "stamp_of"]

STAMP = "sealed"
PLACES = (("dataset", "name"), ("dataset", "split"), ("backbone", "name"))
_ORIGIN = ".origin"
_ORIGIN_TEXT = re.compile(rb"[0-9a-f]{64}\n")
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_TIME_TEXT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_AHEAD = timedelta(days=1)


@dataclass(frozen=True)
class Stamp:
    """When a set was sealed, as ISO 8601 in UTC that sorts as text, and the mark of the store that sealed it.

    Both are empty where they are not known, as in sets of older releases.
    """

    at: str = ""
    mark: str = ""


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def stamp_of(provenance: Mapping[str, Any]) -> Stamp:
    """The stamp of a provenance; without a time where there is nothing that could be one.

    >>> stamp_of({"sealed": {"at": "2026-01-31T12:00:00.000001Z", "mark": "ab"}})
    Stamp(at='2026-01-31T12:00:00.000001Z', mark='ab')
    >>> stamp_of({"sealed": {"at": "yesterday"}}), stamp_of({})
    (Stamp(at='', mark=''), Stamp(at='', mark=''))
    """
    written = provenance.get(STAMP)
    at, made = (written.get(name, "") for name in ("at", "mark")) if isinstance(written, Mapping) else ("", "")
    return Stamp(str(at) if _is_time(at) else "", made if isinstance(made, str) else "")


def is_ahead(at: str) -> bool:
    """Whether a time is yet to come, by more than clocks differ."""
    return at > (now() + _AHEAD).strftime(_TIME)


def new_stamp(path: Path, key: Mapping[str, Any], digests: bytes) -> dict[str, Any]:
    """The provenance's entry for a set that is sealed now; none outside a store's folders.

    Args:
        path: Where the set will lie.
        key: Its key.
        digests: The digests of its records, then the checksums of its chunks, as they are in the file.
    """
    root = _store_of(path, key)
    if root is None:
        return {}
    secret = secret_of(root, create=True)
    at = _time_after(_times_of_own(path, root, recipe_of(key), secret))
    return {STAMP: {"at": at, **({} if secret is None else {"mark": _mark(secret, fingerprint(key), at, digests)})}}


def is_own(feature_set: SealedFile, secret: bytes | None) -> bool:
    """Whether the store of that secret sealed the set, or the set that it is an unchanged or packed copy of."""
    if secret is None:
        return False
    table, stamp = feature_set.table, stamp_of(feature_set.provenance)
    digests = [feature_set.header.digest(slot) for slot in range(len(table.digested))]
    digests += [feature_set.raw(output.checksums).tobytes() for output in table.outputs]
    expected = _mark(secret, feature_set.fingerprint, stamp.at, b"".join(digests))
    return bool(stamp.at) and hmac.compare_digest(expected.encode(), stamp.mark.encode("utf-8", "replace"))


def secret_of(root: Path, *, create: bool = False) -> bytes | None:
    """The secret of a store, ``None`` where it has none that can be read; without one, no set counts as its own."""
    path = root / _ORIGIN
    if create and not os.path.lexists(path):
        _write_secret(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 66) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return None
    finally:
        os.close(fd)
    return text if _ORIGIN_TEXT.fullmatch(text) else None


def recipe_of(key: Mapping[str, Any]) -> str:
    """The fingerprint of a key without the digest of the dataset's content: sets that share it differ in that alone.

    >>> first, grown = ({"dataset": {"name": "a", "digest": digest}} for digest in ("0", "1"))
    >>> recipe_of(first) == recipe_of(grown) != recipe_of({"dataset": {"name": "a", "digest": "0", "subset": 10}})
    True
    """
    dataset = key.get("dataset")
    if not isinstance(dataset, Mapping) or "digest" not in dataset:
        return fingerprint(key)
    return fingerprint({**key, "dataset": {**dataset, "digest": None}})


def _store_of(path: Path, key: Mapping[str, Any]) -> Path | None:
    """The store in whose folders a file of that key lies; ``None`` where it lies elsewhere."""
    if len(path.parts) < 5 or path.name.split(".", 1)[0] != fingerprint(key)[:16]:
        return None
    named = [part.get(field) if isinstance(part := key.get(place), Mapping) else None for place, field in PLACES]
    try:
        return path.parents[3] if [decode_component(part) for part in path.parts[-4:-1]] == named else None
    except InvalidInputError:
        return None


def _mark(secret: bytes, identity: str, at: str, digests: bytes) -> str:
    return hmac.new(secret, f"{identity}\n{at}\n".encode() + digests, hashlib.sha256).hexdigest()


def _times_of_own(path: Path, root: Path, recipe: str, secret: bytes | None) -> Iterator[str]:
    for other in path.parent.glob("*.h5"):
        with contextlib.suppress(StoreError), SealedFile(other, within=root) as sealed:
            if recipe_of(sealed.key) == recipe and is_own(sealed, secret):
                yield stamp_of(sealed.provenance).at


def _time_after(times: Iterable[str]) -> str:
    """Now, or where a clock has gone back the first microsecond after all of these, so that the order is kept."""
    latest = max((datetime.fromisoformat(at) for at in times), default=None)
    moment = now() if latest is None else max(now(), latest + timedelta(microseconds=1))
    return moment.strftime(_TIME)


def _is_time(at: object) -> bool:
    if not isinstance(at, str) or not _TIME_TEXT.fullmatch(at):
        return False
    try:
        datetime.fromisoformat(at)
    except ValueError:
        return False
    return True


def _write_secret(path: Path) -> None:
    """Two processes may do so at once: a link never replaces what is there."""
    hidden = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        try:
            with open(hidden, "xb", opener=lambda name, flags: os.open(name, flags, 0o640)) as file:
                file.write(secrets.token_hex(32).encode() + b"\n")
            os.link(hidden, path)
        finally:
            hidden.unlink(missing_ok=True)
