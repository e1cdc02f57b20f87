"""Files from servers, which decide neither how much is written nor how long is waited.

The rule of `featurebank.store` for ranges, for whole files: the body as it is, of the length that was said, at most so
much, silence bounded and not the whole, no secret of an address in a message.
"""

from __future__ import annotations

import base64
import hashlib
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from featurebank.extract.errors import AssetError
from featurebank.store.addresses import without_secrets
from featurebank.store.errors import ExistsError, StoreError
from featurebank.store.filing import named_when_complete

__all__ = ["download"]

SILENT_SECONDS = 60.0
LARGEST = 64 << 30
_PIECE = 1 << 20


def download(url: str, target: Path, *, sha256: str = "") -> None:
    """Fetches a file to ``target``, where it appears complete or not at all; what is there by then is kept.

    Args:
        url: http or https; a user and password in it are sent as such, to that host alone.
        target: where the file shall lie.
        sha256: the hex digits that its SHA-256 must begin with.

    Raises:
        AssetError: it cannot be had, is not of the length that was said, too large, or has another digest.
    """
    try:
        with _opener().open(_request(url), timeout=SILENT_SECONDS) as answer, named_when_complete(target) as hidden:
            _write(answer, hidden, sha256)
    except ExistsError:
        return
    except HTTPError as error:
        error.close()
        raise _failed(url, target, without_secrets(str(error))) from error
    except TimeoutError as error:
        raise _failed(url, target, f"silence for {SILENT_SECONDS:g} s") from error
    except (OSError, HTTPException, ValueError, StoreError) as error:
        raise _failed(url, target, without_secrets(str(error) or type(error).__name__)) from error


def _write(answer: Any, path: Path, sha256: str) -> None:
    if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise ValueError(f"the server must send the file as it is; found it encoded, {encoding!r:.40}")
    said = answer.headers.get("Content-Length")
    most = LARGEST if said is None else int(said)
    if most > LARGEST:
        raise ValueError(f"a file must have at most {LARGEST:,} bytes; found {most:,}")
    digest, done = hashlib.sha256(), 0
    with path.open("xb") as file:
        while data := answer.read(min(_PIECE, most + 1 - done)):
            done += len(data)
            if done > most:
                raise ValueError(f"a file must have at most {most:,} bytes; found more")
            file.write(data)
            digest.update(data)
    if said is not None and done != most:
        raise ValueError(f"expected {most:,} bytes, as the server said; found {done:,}")
    if not (found := digest.hexdigest()).startswith(sha256):
        raise ValueError(f"expected SHA-256 {sha256}…, found {found}")


def _request(url: str) -> urllib.request.Request:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(  # noqa: S310 - the opener knows http and https alone
        parts._replace(netloc=host, fragment="").geturl(),
        headers={"Accept-Encoding": "identity", "User-Agent": "featurebank"},
    )
    if at:
        # Not to another host that this one names.
        word = base64.b64encode(unquote(user).encode()).decode("ascii")
        request.add_unredirected_header("Authorization", f"Basic {word}")
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(  # noqa: PLR0917 - the signature is the library's
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if not newurl.startswith("https://") and (req.type == "https" or not newurl.startswith("http://")):
            fp.close()
            raise ValueError(f"the server must not lead elsewhere than to https; found {without_secrets(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener of http and https; the usual one reads files and FTP too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _failed(url: str, target: Path, found: str) -> AssetError:
    return AssetError(f"{target}: cannot download {without_secrets(url)}: {found}; give checkpoint=")
