"""Outputs of frozen backbones that a job reads over and over: extracted once, as feature sets of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.device import Execution
from featurebank.extract.wanted import Request, want
from featurebank.pipelines.training import ranks
from featurebank.store import FeatureSet, FeatureStore

if TYPE_CHECKING:
    from featurebank.extract.backbones.contract import BackboneSpec
    from featurebank.pipelines.asking.inputs import SplitRows
    from featurebank.pipelines.jobs.workshop import Workshop

__all__ = ["outputs_of"]

STORE = ("tuned", "maps")


def outputs_of(spec: BackboneSpec, rows: SplitRows, workshop: Workshop) -> dict[str, NDArray[np.floating]]:
    """The outputs (M, …) of a spec for every record of a split, by name, extracted where the store of maps lacks them.

    Args:
        spec: what is to be extracted, in the precision in which the rows were.
        rows: those that must be there.
        workshop: where the store is, and the images.

    Raises:
        ValueError: the set could not be made, or lacks a row.
    """
    from featurebank.extract.compute import Local
    from featurebank.extract.engine import extract

    store = FeatureStore(workshop.root.joinpath(*STORE))
    with FeatureSet(rows.path) as feature_set:
        precision: Any = feature_set.key["precision"]
    splits = [workshop.images(rows)]
    execution = Execution(device=workshop.device)
    (wanted,) = want([Request(backbone=spec, split=0)], splits, store, precision=precision, read_once=True)
    what = ", ".join(spec.outputs)
    if wanted.outcome.state != "present" and ranks.is_first():
        workshop.say(f"{spec.name} on {rows.name}: extracting {what}")
        extract([wanted], splits, execution=execution, compute=Local(workshop.device, execution))
    ranks.wait()
    if not ranks.is_first():
        (wanted,) = want([Request(backbone=spec, split=0)], splits, store, precision=precision)
    if wanted.outcome.state not in ("present", "sealed"):
        raise ValueError(f"{what} of {spec.name} on {rows.name} must be extracted; found: {wanted.outcome.error}")
    with FeatureSet(wanted.outcome.path) as outputs:
        if not outputs.ok[rows.rows].all():
            raise ValueError(f"{wanted.outcome.path} must have all rows that are trained on; found failed ones")
        return {name: outputs[name] for name in spec.outputs}
