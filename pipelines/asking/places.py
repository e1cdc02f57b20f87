"""Where the images of a set were when this user had them extracted, so that pages find them again.

No store holds such a place: a store may be shipped, secret and all, and what came with one must never say what to open.
The notes lie in this user's own cache, `places/<hex>.json`, by the dataset's part of the key with its digest, and count
for sets alone that the store itself has sealed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from featurebank.extract.assets import cache_dir
from featurebank.extract.datasets import is_data, rooted
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.store import FeatureSet
from featurebank.store.errors import CorruptError
from featurebank.store.filing import Filing
from featurebank.store.fingerprint import canonical_json, fingerprint
from featurebank.store.stamps import is_own, secret_of

__all__ = ["Place", "note_place", "place_of"]

PREFIXES: Final = ("folder:", "manifest:", "list:")
"""Of places that hold images and run nothing."""
_FOLDER: Final = "places"
_LONGEST: Final = 64 << 10


@dataclass(frozen=True)
class Place:
    """The source of a dataset by name, and its root where it was given one."""

    name: str
    root: Path | None = None


def note_place(spec: DatasetSpec, dataset: Mapping[str, Any]) -> None:
    """Remembers where a split was opened; a cache that cannot be written stays without the note.

    Args:
        spec: what was opened.
        dataset: the dataset's part of the key, with the digest of its content.
    """
    if not (spec.name.startswith(PREFIXES) or (is_data(spec.name) and spec.root is not None)):
        return
    here = Path.cwd()
    place = {"name": rooted(spec.name, here), "root": None if spec.root is None else str(here / spec.root.expanduser())}
    filing, file, text = Filing(cache_dir(), _FOLDER), _file(dataset), canonical_json(place)
    with contextlib.suppress(OSError, CorruptError):
        if not filing.has(file) or filing.read(file, limit=_LONGEST) != text:
            filing.write(file, data=text)


def place_of(feature_set: FeatureSet) -> Place | None:
    """Where the images of a set are, if this user had them extracted into the very store that the set lies in."""
    path = feature_set.path
    if not isinstance(path, Path) or len(path.parents) < 4 or not is_own(feature_set, secret_of(path.parents[3])):
        return None
    with contextlib.suppress(OSError, CorruptError, ValueError, TypeError, KeyError):
        found = json.loads(Filing(cache_dir(), _FOLDER).read(_file(feature_set.key["dataset"]), limit=_LONGEST))
        return Place(str(found["name"]), None if found["root"] is None else Path(found["root"]))
    return None


def _file(dataset: Mapping[str, Any]) -> str:
    return f"{fingerprint(dataset)[:32]}.json"
