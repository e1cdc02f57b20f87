"""Whether an address answers, told within seconds."""

from __future__ import annotations

import threading
import urllib.request
from http.client import HTTPException
from urllib.error import HTTPError

from featurebank.store.addresses import without_secrets

__all__ = ["unreachable"]

SECONDS = 5.0


def unreachable(url: str, *, seconds: float = SECONDS, any_answer: bool = False) -> str:
    """Why an address does not answer; empty when it does.

    Resolving a name cannot be given a time limit, so a thread asks, and is left behind when it takes too long.

    Args:
        url: http or https.
        seconds: how long it may take.
        any_answer: whether a refusal is an answer too.
    """
    shown = without_secrets(url)
    reasons = [f"{shown} did not answer within {seconds:g} s"]

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 (addresses of libraries, http or https)
        try:
            with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
                reasons[0] = ""
        except (OSError, HTTPException, ValueError) as error:
            reasons[0] = f"{shown} cannot be reached: {error}"
            if isinstance(error, HTTPError):
                error.close()
                reasons[0] = "" if any_answer else reasons[0]

    thread = threading.Thread(target=ask, daemon=True, name="reachable")
    thread.start()
    thread.join(seconds + 1)
    return reasons[0]
