"""Names as path components."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from featurebank.store.addresses import Url
from featurebank.store.errors import InvalidInputError

_SAFE = "._-:+@=,"
_LONGEST = 255
_FINGERPRINT_STEM = re.compile(r"[0-9a-f]{16}")


def encode_component(name: str, what: str) -> str:
    """A name as one path component: everything but letters, digits and ``._-:+@=,`` percent-encoded.

    Raises:
        InvalidInputError: empty, ``.``, ``..``, not Unicode, or more than 255 bytes once encoded.

    >>> encode_component("timm/vit_small", "backbone")
    'timm%2Fvit_small'
    """
    if name in ("", ".", ".."):
        raise InvalidInputError(f"a {what}'s name must be able to name a folder; found {name!r}")
    try:
        encoded = quote(name, safe=_SAFE).replace("~", "%7E")
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"a {what}'s name must be valid Unicode; found {name!r}") from error
    if len(encoded) > _LONGEST:
        raise InvalidInputError(
            f"a {what}'s name must have at most {_LONGEST} bytes once encoded; found {len(encoded)} in {name[:40]!r}…"
        )
    return encoded


def decode_component(component: str) -> str:
    """The name that `encode_component` made a path component of.

    Raises:
        InvalidInputError: it is nobody's encoding.

    >>> decode_component("timm%2Fvit_small")
    'timm/vit_small'
    """
    try:
        name = unquote_to_bytes(component).decode("utf-8")
    except UnicodeError:
        name = ""
    if not name or encode_component(name, "folder") != component:
        raise InvalidInputError(f"a folder of a store must be a percent-encoded name; found {component!r}")
    return name


def final_path(path: str | os.PathLike[str]) -> Path:
    """The path of a feature set, checked to end in ``.h5``."""
    path = Path(path)
    if path.suffix != ".h5":
        raise InvalidInputError(f"a feature set's path must end in .h5; found {path}")
    return path


def partial_path(path: Path) -> Path:
    """Where a feature set lies until it is sealed."""
    return path.with_name(path.name + ".partial")


def is_named(path: Path | Url, fingerprint: str) -> bool:
    """Whether the file name, where it is 16 hex digits, begins the fingerprint."""
    stem = path.name.split(".", 1)[0]
    return not _FINGERPRINT_STEM.fullmatch(stem) or fingerprint.startswith(stem)


def check_file_name(path: Path | Url, fingerprint: str, error: type[Exception] = InvalidInputError) -> None:
    """Raises unless the file name, where it is 16 hex digits, begins the fingerprint."""
    if not is_named(path, fingerprint):
        raise error(
            f"{path} must be named after its fingerprint, {fingerprint[:16]}.h5; found {path.name}: "
            f"it was renamed, or belongs to another key; name it so, or choose a name that is not 16 hex digits"
        )
