"""Checkpoints where their libraries look for them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from featurebank.extract.backbones.checkpoint_source import cache_name

__all__ = ["put_in_hub", "put_in_torchs_cache"]


def put_in_hub(cache: Path, repository: str, files: Mapping[str, Path]) -> None:
    """Files as the hub's client lays them down: blobs under their digests, a snapshot of links to them."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    for name, file in files.items():
        blob = place / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        link = place / "snapshots" / "abc" / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))


def put_in_torchs_cache(home: Path, url: str, content: object) -> Path:
    """A checkpoint saved where an address would be downloaded to."""
    path = home / "hub" / "checkpoints" / cache_name(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
