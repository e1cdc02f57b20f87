"""Addresses of files on servers, and how they are shown: never with what may be a secret."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

__all__ = ["Url", "location", "without_secrets"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#]*@)?([^\s?#]*)[^\s'\")>]*")


def without_secrets(text: str) -> str:
    """The text with each URL in it cut to scheme, host and path: no user, password, query or fragment.

    >>> without_secrets("cannot read https://me:word@host:8080/a/b.h5?token=1#x now")
    'cannot read https://host:8080/a/b.h5 now'
    """
    return _PARTS.sub(r"\1\2", text)


@dataclass(frozen=True)
class Url:
    """A URL where a path is expected. It is shown, and named in errors, without its secrets.

    Attributes:
        url: As it was given, for whoever asks the server.

    >>> address = Url("https://me:word@host/sets/demo.h5?token=1")
    >>> address, str(address), address.name
    (Url(https://host/sets/demo.h5), 'https://host/sets/demo.h5', 'demo.h5')
    """

    url: str = field(repr=False)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return str(self).rpartition("/")[2]

    def below(self, *names: str) -> Url:
        """Of a file in the folder of this address: its query stays, and over HTTP what is special in a path is escaped.

        >>> Url("https://host/store/?token=1").below("a%2Fb", "x.h5").url
        'https://host/store/a%252Fb/x.h5?token=1'
        """
        place, query = re.fullmatch(r"([^?#]*)([^#]*).*", self.url, re.DOTALL).groups()  # type: ignore[union-attr]
        escaped = [quote(name) for name in names] if place.startswith(("http://", "https://")) else names
        return Url("/".join((place.rstrip("/"), *escaped)) + query)

    def __str__(self) -> str:
        return without_secrets(self.url)

    def __repr__(self) -> str:
        return f"Url({self})"


def location(path: str | os.PathLike[str] | Url) -> Path | Url:
    """A path, or the URL of a file on a server, such as ``https://…`` or ``s3://…``."""
    if isinstance(path, Url):
        return path
    return Url(path) if isinstance(path, str) and _URL.match(path) else Path(path)
