"""Parsed arrays kept in the asset cache as mapped files, so that opening a dataset again takes milliseconds."""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.assets import cache_dir
from featurebank.store.fingerprint import content_hash

log = logging.getLogger("featurebank")

Arrays: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Pixels (N, H, W) and labels (N,), both uint8."""

NAMES = ("pixels", "labels")


def kept(name: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays from ``<cache>/arrays/<name>``, made and written there the first time.

    Each file's name holds its content's XXH3-128, checked at every opening: a damaged file is made again. A cache that
    cannot be written is no error.

    Args:
        name: identifies the content, with a digest of what it is made from.
        make: gives the arrays.
    """
    folder = cache_dir() / "arrays" / name
    if (arrays := _load(folder)) is not None:
        return arrays
    arrays = make()
    try:
        _save(folder, arrays)
    except OSError as error:
        log.warning("%s cannot be written (%s); the arrays are parsed again next time", folder, error)
    return arrays


def _load(folder: Path) -> Arrays | None:
    found = []
    for name in NAMES:
        paths = list(folder.glob(f"{name}-*.npy"))
        if len(paths) != 1:
            return None
        try:
            array = np.load(paths[0], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if array.dtype != np.uint8 or content_hash(array).hex() != paths[0].stem.removeprefix(f"{name}-"):
            log.warning("%s is damaged and is made again", paths[0])
            return None
        found.append(array)
    return found[0], found[1]


def _save(folder: Path, arrays: Arrays) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".arrays-{secrets.token_hex(8)}"
    scratch.mkdir()
    try:
        for name, array in zip(NAMES, arrays, strict=True):
            np.save(scratch / f"{name}-{content_hash(array).hex()}.npy", array, allow_pickle=False)
        if folder.exists() and _load(folder) is None:
            shutil.rmtree(folder)
        scratch.rename(folder)
    except OSError:
        if _load(folder) is None:  # Else another process was first.
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
