"""Which scores suit which kind of network: families of architectures against families of scores."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import numpy as np

from featurebank.pipelines.asking.sheet import Sheet
from featurebank.pipelines.questions.ood.standings import Standing, is_random
from featurebank.probes.ood.names import family

__all__ = ["architecture_family", "families_sheet"]

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


def architecture_family(backbone: str) -> str:
    """The kind of network, by the backbone's name.

    >>> [architecture_family(name) for name in ("timm:vit_base_patch16_224", "torchvision:convnext_tiny", "mixer_b16")]
    ['transformer', 'convolutional', 'mlp']
    """
    source, _, name = backbone.partition("[")[0].partition("@")[0].lower().rpartition(":")
    architecture = name.rpartition("/")[2] if source == "hub" else name.partition("/")[0].partition(".")[0]
    return next((label for label, pattern in _ARCHITECTURES if re.search(pattern, architecture)), "other")


def families_sheet(ranked: Iterable[Standing]) -> Sheet | None:
    """Best and mean AUROC of each family of scores on each family of architectures, over the sets; best first.

    Args:
        ranked: every score of every backbone; those with random weights are left out, and one backbone has no families.
    """
    trained = [one for one in ranked if not is_random(one.backbone)]
    if len({one.backbone for one in trained}) < 2:
        return None
    groups: dict[tuple[str, str], list[Standing]] = {}
    for one in trained:
        groups.setdefault((architecture_family(one.backbone), family(one.score)), []).append(one)
    best = {place: max(members, key=lambda one: one.mean) for place, members in groups.items()}
    lines: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for place in sorted(groups, key=lambda place: (place[0], -best[place].mean)):
        members, first = groups[place], best[place]
        mean = float(np.mean([one.mean for one in members]))
        count = str(len({one.backbone for one in members}))
        by = f"{first.score} on {first.backbone}"
        lines.append(((*place, by), (count, f"{first.mean:.3f}", f"{mean:.3f}")))
    return Sheet(
        title="families of scores, by architecture: mean AUROC over the sets",
        names=("architecture", "scores", "best by"),
        columns=("backbones", "best", "mean"),
        lines=[*lines],
        notes=["the best of a family is chosen on the test rows too: the more scores, the better it looks"],
    )
