"""What stands below the table of scores: families of scores on families of networks, and published values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from featurebank.pipelines.ood.families import FamilySummary
from featurebank.pipelines.ood.published import published
from featurebank.pipelines.tables import titled_table

if TYPE_CHECKING:
    from featurebank.pipelines.ood.display import Standing

__all__ = ["Comparison", "comparison_table", "comparisons", "families_table"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A measured AUROC beside the published one, near and far, 0..1.

    Attributes:
        backbone: its name.
        score: its name.
        near: measured and published.
        far: measured and published.
    """

    backbone: str
    score: str
    near: tuple[float, float]
    far: tuple[float, float]


def comparisons(ranked: Iterable[Standing]) -> list[Comparison]:
    """The scores of a benchmark that have published values, in the order given."""
    found = []
    for one in ranked:
        values = published(one.test.rpartition("/")[0], one.backbone).get(one.score)
        if values is not None and {"near", "far"} <= one.rows.keys():
            near, far = (one.rows[group]["auroc"].value for group in ("near", "far"))
            found.append(
                Comparison(backbone=one.backbone, score=one.score, near=(near, values[0]), far=(far, values[1]))
            )
    return found


def comparison_table(rows: Sequence[Comparison]) -> Table:
    """Measured and published AUROC in percent, as the leaderboard prints it, and what differs."""
    table = titled_table("beside OpenOOD v1.5's leaderboard: AUROC in percent", "backbone", "score")
    for group in ("near", "far"):
        for heading in (group, "published", "differs"):
            table.add_column(heading, justify="right", no_wrap=True)
    for one in rows:
        cells = [f"{100 * a:.2f} {100 * b:.2f} {100 * (a - b):+.2f}".split() for a, b in (one.near, one.far)]
        table.add_row(one.backbone, one.score, *cells[0], *cells[1])
    return table


def families_table(rows: Sequence[FamilySummary]) -> Table:
    """Best and mean AUROC of each family of scores, over the sets, for each family of architectures."""
    table = titled_table("families of scores, by architecture: mean AUROC over the sets", "architecture", "scores")
    table.add_column("backbones", justify="right")
    table.add_column("best", justify="right", no_wrap=True)
    table.add_column("by", overflow="fold")
    table.add_column("mean", justify="right", no_wrap=True)
    for one in rows:
        by = f"{one.best_score} on {one.best_backbone}"
        table.add_row(one.architecture, one.scores, str(one.backbones), f"{one.best:.3f}", by, f"{one.mean:.3f}")
    return table
