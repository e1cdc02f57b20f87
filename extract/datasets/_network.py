"""Whether a download could work, answered within seconds."""

from __future__ import annotations

import threading
import urllib.request
from http.client import HTTPException

SECONDS = 5.0


def unreachable(url: str, *, seconds: float = SECONDS) -> str:
    """Why an address does not answer; empty when it does.

    Resolving a name cannot be given a time limit, so a thread asks, and is left behind when it takes too long.
    """
    reasons = [f"{url} did not answer within {seconds:g} s"]

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 (addresses are torchvision's own, http or https)
        try:
            with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
                reasons[0] = ""
        except (OSError, HTTPException, ValueError) as error:
            reasons[0] = f"{url} cannot be reached: {error}"

    thread = threading.Thread(target=ask, daemon=True, name="reachable")
    thread.start()
    thread.join(seconds + 1)
    return reasons[0]
