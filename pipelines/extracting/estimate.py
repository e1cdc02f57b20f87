"""What a run would write and how long it would take at most, from the sets that its store has of the same networks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurebank.extract import backbones
from featurebank.extract.wanted import Wanted
from featurebank.store import Entry, FeatureStore, StoreError

__all__ = ["Estimate", "estimates"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one set that is missing.

    Attributes:
        nbytes: of its features; None where no set of the network tells the shapes.
        seconds: for all of its rows, alone; None where no set tells the speed.
        device: where that speed was measured.
    """

    nbytes: int | None = None
    seconds: float | None = None
    device: str = ""


def estimates(wanted: Sequence[Wanted], store: FeatureStore) -> dict[str, Estimate]:
    """An estimate of each missing set by its fingerprint; nothing is built or opened but sets of the store."""
    sealed = list(store) if store.root.is_dir() else []
    return {w.outcome.fingerprint: _estimate(w, sealed) for w in wanted if w.outcome.state == "missing"}


def _estimate(wanted: Wanted, sealed: Sequence[Entry]) -> Estimate:
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
                return Estimate(nbytes=nbytes, seconds=n_rows / rate, device=str(device))
    return Estimate(nbytes=nbytes)


def _dimension(name: str) -> int | None:
    with contextlib.suppress(Exception):  # of code of one's own that tells nothing
        dimension: Any = backbones.describe(name).get("dimension")
        return dimension if isinstance(dimension, int) else None
    return None
