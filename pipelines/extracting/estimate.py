"""What a run would write and how long it would take at most, from the sets that its store has of the same networks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurebank.extract import backbones
from featurebank.extract.datasets.contract import Split
from featurebank.extract.reuse import find_copies
from featurebank.extract.wanted import Wanted
from featurebank.store import Entry, FeatureStore, StoreError

__all__ = ["Estimate", "estimates"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one set that is missing.

    Attributes:
        nbytes: of its features; None where no set of the network tells the shapes.
        copied: rows that sets of the store have already, by their content.
        seconds: for its other rows, alone; None where no set tells the speed.
        device: where that speed was measured.
    """

    nbytes: int | None = None
    copied: int = 0
    seconds: float | None = None
    device: str = ""


def estimates(
    wanted: Sequence[Wanted], splits: Sequence[Split], store: FeatureStore, *, trust_merged: bool = False
) -> dict[str, Estimate]:
    """An estimate of each missing set by its fingerprint; nothing is built or opened but sets of the store.

    Args:
        wanted: what a run wants.
        splits: the splits that it points into.
        store: where it would be written.
        trust_merged: whether rows of sets that another store made would be copied too.
    """
    sealed = list(store) if store.root.is_dir() else []
    plan = {}
    for w in (w for w in wanted if w.outcome.state == "missing"):
        hashes = splits[w.request.split].content_hashes()
        copies = find_copies(w.outcome.path, w.key, hashes, trust_merged=trust_merged) if sealed else None
        copied = 0 if copies is None else int(np.count_nonzero(copies.mask))
        plan[w.outcome.fingerprint] = _estimate(w, sealed, copied)
    return plan


def _estimate(wanted: Wanted, sealed: Sequence[Entry], copied: int) -> Estimate:
    spec, n_rows = wanted.request.backbone, wanted.outcome.n_rows
    own = [e for e in sealed if e.network and (e.backbone, e.network.weights) == (spec.name, spec.weights.identity)]
    shapes = {output.name: output.shape for entry in own for output in entry.outputs}
    if dimension := _dimension(spec.name):
        shapes.setdefault("pooled", (dimension,))
    nbytes = None
    if shapes.keys() >= set(spec.outputs):
        values = sum(math.prod(shapes[name]) for name in spec.outputs)
        nbytes = n_rows * values * np.dtype(str(wanted.key["dtype"])).itemsize
    for entry in sorted(own, key=lambda one: one.sealed_at, reverse=True):
        with contextlib.suppress(StoreError), entry.open() as feature_set:
            made = feature_set.provenance
            rate, device = made.get("images_per_second"), made.get("device", "")
            if isinstance(rate, int | float) and rate > 0:
                seconds = (n_rows - copied) / rate
                return Estimate(nbytes=nbytes, copied=copied, seconds=seconds, device=str(device))
    return Estimate(nbytes=nbytes, copied=copied)


def _dimension(name: str) -> int | None:
    with contextlib.suppress(Exception):  # of code of one's own that tells nothing
        dimension: Any = backbones.describe(name).get("dimension")
        return dimension if isinstance(dimension, int) else None
    return None
