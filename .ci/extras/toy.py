"""A small feature set, and a check of what must not be installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store import FeatureSet, FeatureSetWriter, FeatureStore, Output, Records

ROWS, WIDTH, CLASSES = 60, 8, 3


def absent(*packages: str) -> None:
    """Fails where a package has come along."""
    came = [package for package in packages if find_spec(package) is not None]
    assert not came, f"installed, and must not be: {came}"


def rows(seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features (60, 8) float16 that show their class, and classes (60,)."""
    labels = np.arange(ROWS) % CLASSES
    features = np.random.default_rng(seed).normal(size=(ROWS, WIDTH))
    features[np.arange(ROWS), labels] += 6
    return features.astype(np.float16), labels


def stored(root: Path, split: str, seed: int) -> FeatureSet:
    """The same as a sealed set ``toy/SPLIT`` of the backbone ``tiny`` in a store."""
    features, labels = rows(seed)
    key = {"dataset": {"name": "toy", "split": split, "digest": split}, "backbone": {"name": "tiny"}}
    hashes = np.random.default_rng(seed).integers(0, 256, (ROWS, 16), dtype=np.uint8)
    records = Records(ids=[f"{split}{i}.png" for i in range(ROWS)], labels=labels, content_hash=hashes)
    outputs = [Output(name="pooled", shape=(WIDTH,))]
    first = root / f"{split}.h5"
    root.mkdir(exist_ok=True)
    with FeatureSetWriter.create(first, key=key, outputs=outputs, records=records) as writer:
        writer.write_chunk("pooled", 0, features)
        writer.mark_ok(0, ROWS)
        place = FeatureStore(root).path_for("toy", split, "tiny", writer.seal().fingerprint)
    place.parent.mkdir(parents=True)
    first.rename(place)
    return FeatureSet(place)
