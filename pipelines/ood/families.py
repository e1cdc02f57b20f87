"""Which scores suit which kind of network: families of architectures against families of scores."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from featurebank.probes.ood.registry import family

if TYPE_CHECKING:
    from featurebank.pipelines.ood.display import Standing

__all__ = ["FamilySummary", "architecture_family", "family_summaries"]

_ARCHITECTURES: Final = (
    (
        "hybrid",
        r"hybrid|mobilevit|max+vit|coat|fastvit|efficientformer|edgenext|levit|visformer|botnet|nextvit|tiny_vit"
        r"|^vit_[a-z]+_r\d*_s\d",
    ),
    ("mlp", r"(?<!conv)mixer|^[a-z]*mlp"),
    ("convolutional", r"convmixer|repvit|net|resne|convnext|vgg|inception|xception|regn|dla\d|sscd|rn50|rn101|wavemix"),
    (
        "transformer",
        r"vit|deit|beit|swin|eva|cait|pvt|twins|hiera|dino|siglip|clip|aimv2|nest|pit_|volo|pe_core|pe_spatial",
    ),
)


@dataclass(frozen=True, kw_only=True)
class FamilySummary:
    """One family of scores on one family of architectures.

    Attributes:
        architecture: convolutional, transformer, hybrid, mlp or other.
        scores: the family of scores.
        backbones: how many there are.
        best: the greatest mean AUROC of a score of a backbone.
        best_score: which score.
        best_backbone: of which backbone.
        mean: AUROC, over the scores and the backbones.
    """

    architecture: str
    scores: str
    backbones: int
    best: float
    best_score: str
    best_backbone: str
    mean: float


def architecture_family(backbone: str) -> str:
    """The kind of network, by the backbone's name.

    >>> [architecture_family(name) for name in ("timm:vit_base_patch16_224", "torchvision:convnext_tiny", "mixer_b16")]
    ['transformer', 'convolutional', 'mlp']
    """
    source, _, name = backbone.partition("[")[0].partition("@")[0].lower().rpartition(":")
    architecture = name.rpartition("/")[2] if source == "hub" else name.partition("/")[0].partition(".")[0]
    return next((label for label, pattern in _ARCHITECTURES if re.search(pattern, architecture)), "other")


def family_summaries(standings: Iterable[Standing]) -> list[FamilySummary]:
    """Best and mean AUROC of each family of scores on each family of architectures, best first.

    Args:
        standings: every score of every backbone; those with random weights are left out by the caller.
    """
    groups: dict[tuple[str, str], list[Standing]] = {}
    for one in standings:
        groups.setdefault((architecture_family(one.backbone), family(one.score)), []).append(one)
    found = []
    for (architecture, scores), members in groups.items():
        best = max(members, key=lambda one: one.mean)
        found.append(
            FamilySummary(
                architecture=architecture,
                scores=scores,
                backbones=len({one.backbone for one in members}),
                best=best.mean,
                best_score=best.score,
                best_backbone=best.backbone,
                mean=float(np.mean([one.mean for one in members])),
            )
        )
    return sorted(found, key=lambda one: (one.architecture, -one.best))
