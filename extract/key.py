"""The key of a feature set: everything that determines its numbers, and nothing else.

In it: format version, backbone (source, name, architecture, digest of the weights and, behind a colon, the part of
their file if one was chosen, conversion, outputs), the whole preprocessing record, precision policy and how far it may
differ from float32, stored dtype, dataset (name, split, subset, digest of ordered ids, labels and contents). Not in it:
batch size, device, workers, paths, times, library versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.datasets.contract import Subset
from featurebank.store.fingerprint import fingerprint, record

__all__ = [
    "LEAST_AGREEMENT",
    "DatasetKey",
    "Precision",
    "StoredType",
    "backbone_key",
    "feature_fingerprint",
    "feature_key",
]

KEY_VERSION = 1

LEAST_AGREEMENT = 0.999
"""The smallest cosine that features in a lower precision may have to those in float32."""

Precision = Literal["float32", "bfloat16", "float16"]
StoredType = Literal["float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class DatasetKey:
    """A split as the key sees it.

    Attributes:
        name: what the store's folder is called.
        split: as the source calls it.
        digest: SHA-256 over the ordered ids, labels and content hashes.
        subset: which part of the split.
    """

    name: str
    split: str
    digest: str
    subset: Subset | None = None


def feature_key(
    backbone: BackboneSpec, dataset: DatasetKey, *, precision: Precision, dtype: StoredType
) -> Mapping[str, Any]:
    """The key as plain JSON.

    Raises:
        ValueError: a precision, a dtype or a set of outputs that does not exist.
    """
    for name, value, allowed in (
        ("precision", precision, get_args(Precision)),
        ("dtype", dtype, get_args(StoredType)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if not backbone.outputs or len(set(backbone.outputs)) != len(backbone.outputs):
        raise ValueError(f"outputs must be distinct and at least one, got {list(backbone.outputs)}")
    spec = backbone_key(backbone)
    preprocessing = spec.pop("preprocessing")
    # Packaged networks had their float32 beginning before agreement was measured: their keys say no more than then.
    measured = precision != "float32" and backbone.source != "packaged"
    return {
        "version": KEY_VERSION,
        "backbone": spec,
        "preprocessing": preprocessing,
        "precision": precision,
        **({"agreement": LEAST_AGREEMENT} if measured else {}),
        "dtype": dtype,
        "dataset": record(dataset),
    }


def backbone_key(backbone: BackboneSpec) -> dict[str, Any]:
    """The backbone's part of a key, with its preprocessing, as plain JSON.

    Raises:
        ValueError: its weights have no digest.
    """
    if not backbone.weights.sha256:
        raise ValueError(f"the weights of {backbone.name} have no digest; a key without one would match any weights")
    return {**record(backbone), "weights": backbone.weights.identity, "outputs": list(backbone.outputs)}


def feature_fingerprint(backbone: BackboneSpec, dataset: DatasetKey, *, precision: Precision, dtype: StoredType) -> str:
    """SHA-256 of the key's canonical JSON, 64 hex digits."""
    return fingerprint(feature_key(backbone, dataset, precision=precision, dtype=dtype))
