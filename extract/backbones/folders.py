"""Checkpoints that are folders: a digest over several files, and the files only where it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from featurebank.extract.assets import sha256_of
from featurebank.extract.backbones.contract import Weights
from featurebank.extract.errors import AssetError

__all__ = ["folder_weights", "verified", "weight_file"]


def folder_weights(folder: Path, files: Sequence[str], *, origin: str) -> Weights:
    """A folder as weights: the SHA-256 of one ``<hex>  <name>`` line per file, sorted by name, as ``sha256sum`` prints.

    Args:
        folder: where they lie.
        files: names relative to it.
        origin: where they came from, for people.

    Raises:
        AssetError: a file cannot be read.
    """
    return Weights(sha256=_digest(folder, files), path=folder, origin=origin)


def verified(weights: Weights, files_of: Callable[[Path], Sequence[str]]) -> Path:
    """The folder of weights that are still what was resolved.

    Args:
        weights: as `folder_weights` gave them.
        files_of: the names that count, of a folder.

    Raises:
        AssetError: a file is missing or has changed.
    """
    folder = weights.path
    if folder is None:
        raise AssetError(f"weights {weights.sha256}: expected a folder, found none; resolve the backbone again")
    found = _digest(folder, files_of(folder))
    if found != weights.sha256:
        raise AssetError(
            f"{folder}: expected files with the digest {weights.sha256}, found {found}; they have changed: "
            "resolve the backbone again"
        )
    return folder


def weight_file(folder: Path, safe: str, pickled: str) -> str:
    """The name of the file that holds the weights: ``<safe>.safetensors``, else ``<pickled>.bin``.

    Raises:
        AssetError: there is neither.
    """
    names = (f"{safe}.safetensors", f"{pickled}.bin")
    for name in names:
        if (folder / name).is_file():
            return name
    raise AssetError(f"{folder}: expected {' or '.join(names)} (in one piece), found neither; save it there")


def _digest(folder: Path, files: Sequence[str]) -> str:
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
