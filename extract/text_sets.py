"""What tells sets of text features apart from those of images, and what they say of the model that made them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from featurebank.store import FeatureSet

__all__ = ["EMBEDDING", "TEXTS", "is_texts", "logit_numbers"]

EMBEDDING: Final = "embedding"
"""The output of an image tower that lies in the same space as texts, and that of text features."""
TEXTS: Final = "texts-"
"""What the splits of text features begin with."""


def is_texts(key: Mapping[str, Any]) -> bool:
    """Whether the key of a feature set is that of text features."""
    return isinstance(key.get("texts"), Mapping)


def logit_numbers(feature_set: FeatureSet) -> tuple[float, float] | None:
    """Scale and bias of the model that made a set of text features; None where they are not there or make no sense."""
    scale, bias = (feature_set.provenance.get(name) for name in ("logit_scale", "logit_bias"))
    if not (is_texts(feature_set.key) and isinstance(scale, float) and isinstance(bias, float)):
        return None
    return (scale, bias) if 0 < scale < math.inf and math.isfinite(bias) else None
