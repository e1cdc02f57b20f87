"""Weights on the Hugging Face hub: from its local cache, else downloaded into it, by the digest of their bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from featurebank.extract.assets import is_offline, sha256_of
from featurebank.extract.backbones.contract import Weights
from featurebank.extract.errors import AssetError
from featurebank.extract.reaching import unreachable

__all__ = ["from_hub", "hub_is_offline", "snapshot"]


def from_hub(name: str, hub_id: str, files: Sequence[str]) -> Weights:
    """A checkpoint of a repository: the first of these files that there is.

    Args:
        name: the backbone, for messages.
        hub_id: ``owner/repository``, with ``@revision`` where it is not the main branch.
        files: what it may be called, the best first.

    Raises:
        AssetError: it is not in the cache and cannot be downloaded.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = hub_id.partition("@")
    for file in files:
        found = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(found, str):
            return _weights(Path(found), hub_id)
    advice = f"give checkpoint=, fill the hub's cache on another machine, or use '{name}@random'"
    if hub_is_offline():
        raise AssetError(f"{name}: expected {hub_id} in the hub's local cache, found nothing, and offline; {advice}")
    # The hub's client would try for most of a minute, file by file.
    if reason := unreachable(constants.ENDPOINT, any_answer=True):
        raise AssetError(f"{name}: cannot download {files[0]} of {hub_id}: no network: {reason}; {advice}")
    for file in files:
        try:
            return _weights(Path(hf_hub_download(repository, file, revision=revision or None)), hub_id)
        except LocalEntryNotFoundError as error:  # it is the other's kind, and means that nobody answered
            raise AssetError(f"{name}: cannot download {file} of {hub_id}: {error}; {advice}") from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub's client raises its transport's errors, whichever that is
            raise AssetError(f"{name}: cannot download {file} of {hub_id}: {error}; {advice}") from error
    raise AssetError(f"{name}: expected one of {', '.join(files)} in {hub_id}, found none; {advice}")


def snapshot(name: str, repository: str, patterns: Sequence[str]) -> Path:
    """The folder of a repository's files that match patterns, from the cache, else downloaded.

    Raises:
        AssetError: it is not in the cache and cannot be downloaded.
    """
    from huggingface_hub import constants, snapshot_download

    # Without a network the cache may do.
    offline = hub_is_offline() or bool(unreachable(constants.ENDPOINT, any_answer=True))
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), local_files_only=offline))
    except Exception as error:  # as above
        where = "in the hub's local cache, offline" if offline else "on the hub"
        raise AssetError(
            f"{name}: expected {repository} {where}, found: {error}; download it into a folder and name that, "
            f"or use '{name}@random'"
        ) from error


def hub_is_offline() -> bool:
    """Whether an environment variable forbids asking the hub."""
    return is_offline() or os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "ON", "YES", "TRUE"}


def _weights(path: Path, hub_id: str) -> Weights:
    # The hub's cache names large files by their SHA-256; build() hashes what it loads in any case.
    blob = path.resolve().name
    digest = blob if re.fullmatch(r"[0-9a-f]{64}", blob) else sha256_of(path)
    return Weights(sha256=digest, path=path, origin=hub_id)
