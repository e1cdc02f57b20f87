"""What OpenOOD v1.5's leaderboard prints for ImageNet-1k: the published AUROC of a score, near and far, in percent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from featurebank.pipelines.asking.sheet import Sheet
from featurebank.pipelines.questions.ood.standings import Standing

__all__ = ["PUBLISHED", "published", "published_sheet"]

PUBLISHED: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "torchvision:resnet50/IMAGENET1K_V1": {
        "msp": (76.02, 85.23),
        "temperature": (77.14, 87.56),
        "maxlogit": (76.46, 89.57),
        "energy": (75.89, 89.47),
        "gen": (76.85, 89.76),
        "klm": (76.64, 87.60),
        "openmax": (74.77, 89.26),
        "mds": (55.44, 74.25),
        "rmds": (76.99, 86.38),
        "mds++": (72.02, 93.32),
        "rmds++": (78.54, 90.82),
        "knn": (71.10, 90.18),
        "vim": (72.08, 92.68),
        "react": (77.38, 93.67),
        "dice": (73.07, 90.95),
        "ash-b": (78.17, 95.74),
        "scale": (81.36, 96.53),
        "she": (73.78, 90.92),
        "gradnorm": (72.96, 90.25),
        "fdbd": (76.63, 92.77),
        "nci": (78.69, 95.53),
        "weiper+kld": (80.05, 95.54),
    },
    "torchvision:vit_b_16/IMAGENET1K_V1": {
        "msp": (73.52, 86.04),
        "temperature": (73.18, 86.32),
        "maxlogit": (68.30, 83.54),
        "energy": (62.41, 78.98),
        "gen": (76.30, 91.35),
        "klm": (74.41, 87.70),
        "openmax": (73.64, 89.27),
        "mds": (79.04, 92.60),
        "rmds": (80.09, 92.60),
        "mds++": (81.35, 93.65),
        "knn": (74.11, 90.81),
        "vim": (77.03, 92.84),
        "react": (69.26, 85.69),
        "dice": (65.36, 82.31),
        "ash-b": (53.21, 51.56),
        "she": (76.11, 92.42),
        "gradnorm": (39.28, 41.75),
        "weiper+kld": (75.00, 90.32),
    },
}
"""By backbone, then by score. MDS++ and RMDS++ are those of their paper (arXiv:2505.18032)."""


def published(dataset: str, backbone: str) -> dict[str, tuple[float, float]]:
    """Score to its published near and far AUROC in 0..1; empty where there is none.

    >>> published("openood:imagenet1k", "torchvision:resnet50/IMAGENET1K_V1")["vim"]
    (0.7208, 0.9268)

    Args:
        dataset: in distribution, as the store calls it.
        backbone: by its name.
    """
    values = PUBLISHED.get(backbone, {}) if dataset == "openood:imagenet1k" else {}
    return {score: (round(near / 100, 4), round(far / 100, 4)) for score, (near, far) in values.items()}


def published_sheet(ranked: Iterable[Standing]) -> Sheet | None:
    """Measured and published AUROC in percent, as the leaderboard prints it, and what differs; near and far."""
    lines: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for one in ranked:
        values = published(one.test.rpartition("/")[0], one.backbone).get(one.score)
        if values is None or not {"near", "far"} <= one.rows.keys():
            continue
        ours = [one.rows[group]["auroc"].value for group in ("near", "far")]
        cells = [f"{100 * a:.2f} {100 * b:.2f} {100 * (a - b):+.2f}".split() for a, b in zip(ours, values, strict=True)]
        lines.append(((one.backbone, one.score), (*cells[0], *cells[1])))
    headings = [heading for group in ("near", "far") for heading in (group, "published", "differs")]
    title = "beside OpenOOD v1.5's leaderboard: AUROC in percent"
    return Sheet(title=title, names=("backbone", "score"), columns=headings, lines=[*lines]) if lines else None
