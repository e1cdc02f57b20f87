"""Places as people write them: ``~`` and ``$NAME`` stand for what they stand for in a shell."""

from __future__ import annotations

import os
import re
from pathlib import Path

from featurebank.store.errors import InvalidInputError

__all__ = ["DEFAULT_STORE", "STORE_VARIABLE", "expanded"]

DEFAULT_STORE = Path("features")
"""The store that commands take where none is named."""

STORE_VARIABLE = "FEATUREBANK_STORE"
"""Names the store where none is given."""

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` replaced.

    The part of an absolute path that is there is taken as it stands, so that folders may have a ``$`` in their names,
    and a path that has been expanded stays what it is.

    >>> os.environ["WHERE"] = "sets"
    >>> expanded("/$WHERE/${WHERE}/a{0..3}$").as_posix()
    '/sets/sets/a{0..3}$'

    Raises:
        InvalidInputError: a variable is not set, or empty; or there is no such user.
    """
    text = os.fspath(path)
    there, rest, place = "", text, Path(text)
    if "$" in text and place.is_absolute():
        kept = next(parent for parent in (place, *place.parents) if os.path.lexists(parent))
        there, rest = str(kept).rstrip("/") + "/", place.relative_to(kept).as_posix()

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not (found := os.environ.get(name)):
            raise InvalidInputError(
                f"{text}: ${name} must be set in the environment, found it {'empty' if found == '' else 'unset'}; "
                f"export {name}=…, or write the path out"
            )
        return found

    try:
        return Path(there + _VARIABLE.sub(value, rest)).expanduser()
    except RuntimeError as error:
        raise InvalidInputError(f"{text}: ~ must be of a user with a home; found none; write the path out") from error
