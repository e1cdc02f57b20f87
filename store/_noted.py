"""What the data gave when they were last looked at: which contents of a dataset are of use, whatever was sealed last.

Two folders may bear one name, and a dataset may go back to what it was. So each source of data that a run opens leaves
a note in the store, `<store>/.contents/<hex>.json`, with the dataset's part of the key.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featurebank.store.errors import CorruptError
from featurebank.store.filing import Filing
from featurebank.store.fingerprint import canonical_json, fingerprint

_FOLDER = ".contents"
_LONGEST = 64 << 10


def note(root: Path, source: str, dataset: Mapping[str, Any]) -> None:
    """Notes what a source gives now; a store that cannot be written stays without the note.

    Args:
        root: The store's folder.
        source: Tells the sources of one dataset apart; only its hash is kept.
        dataset: The dataset's part of the key, with its digest.
    """
    name = fingerprint({"source": source, "dataset": _without_digest(dataset)})[:32]
    filing, text = Filing(root, _FOLDER), canonical_json(dataset)
    with contextlib.suppress(OSError, CorruptError):
        if not filing.has(f"{name}.json") or filing.read(f"{name}.json", limit=_LONGEST) != text:
            filing.write(f"{name}.json", data=text)


def noted(root: Path) -> dict[str, set[str]]:
    """The digests that the sources of each dataset gave last, by the fingerprint of its key without the digest."""
    found: dict[str, set[str]] = {}
    filing = Filing(root, _FOLDER)
    for name in filing.names():
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            dataset = json.loads(filing.read(name, limit=_LONGEST) if name.endswith(".json") else b"")
            if isinstance(dataset, dict) and isinstance(dataset.get("digest"), str):
                found.setdefault(dataset_of(dataset), set()).add(dataset["digest"])
    return found


def dataset_of(dataset: Mapping[str, Any]) -> str:
    """What the contents of one dataset share: the fingerprint of its part of the key without the digest."""
    return fingerprint(_without_digest(dataset))


def _without_digest(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in dataset.items() if name != "digest"}
