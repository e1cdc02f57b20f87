"""Weights behind plain addresses, in torch's own cache, under the file names torch gives them."""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from featurebank.extract.assets import is_offline, sha256_of
from featurebank.extract.downloads import download
from featurebank.extract.errors import AssetError

__all__ = ["fetch_url"]

log = logging.getLogger("featurebank")


def fetch_url(url: str, file_name: str | None = None) -> Path:
    """The file behind an address from torch's cache, downloaded first where it is not there yet.

    Args:
        url: where it is published.
        file_name: what the cache calls it, by default the last part of the address. Where it carries the beginning of
            its SHA-256 (``resnet18-f37072fd.pth``), the file must agree.

    Raises:
        AssetError: it cannot be had, or has another digest.
    """
    import torch

    name = file_name or PurePosixPath(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    match = re.search(r"-([0-9a-f]{8,})\.", name)
    if not path.exists():
        if is_offline():
            raise AssetError(
                f"{path}: expected weights in torch's cache, found nothing, and FEATUREBANK_OFFLINE forbids downloads; "
                "unset it, or give checkpoint="
            )
        log.info("fetching %s into %s", name, path.parent)
        download(url, path, sha256=match[1] if match else "")
    if match and not (found := sha256_of(path)).startswith(match[1]):
        raise AssetError(f"{path}: expected SHA-256 {match[1]}…, found {found}; delete it to fetch it again")
    return path
