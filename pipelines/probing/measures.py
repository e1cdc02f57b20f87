"""The numbers that tables show first, computed again from what was kept of them, for some of the rows.

A comparison of two cells thus tests the metric, the setting and the rows that the cells show, and nothing else.

Shapes: M test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.results import Row
from featurebank.probes.weighted import Statistic, label_auroc, masks, mean, regression

__all__ = ["Measure", "main_rows", "measure_of"]

ACCURACY = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number as a function of its test rows.

    Attributes:
        ids: (M,) of the rows.
        parts: (M, …) what is known of each row.
        of: makes a statistic of row weights from the parts.
        exact: whether the number is the share of rows that are right: its only part is bool.
    """

    ids: NDArray[np.str_]
    parts: tuple[NDArray[Any], ...]
    of: Callable[..., Statistic]
    exact: bool = False

    def at(self, rows: NDArray[np.intp]) -> Statistic:
        """The statistic of some of the rows."""
        return self.of(*(part[rows] for part in self.parts))


def main_rows(rows: Sequence[Row]) -> list[Row]:
    """The accuracies, of every set and number of labels, or else the first number.

    Args:
        rows: of one result.
    """
    return [row for row in rows if row.metric.partition(" ")[0] == ACCURACY] or list(rows[:1])


def measure_of(row: Row, kept: Mapping[str, NDArray[Any]]) -> Measure:
    """How a number of `main_rows` comes from the arrays that its computation kept.

    Raises:
        ValueError: it cannot be computed from them.
    """
    own = f"{row.dataset} " if f"{row.dataset} ids" in kept else ""
    measure = partial(Measure, ids=kept[f"{own}ids"])
    name, _, labels = row.metric.partition(" ")
    if name == ACCURACY and labels:
        draws = kept[f"predictions {labels}"] == kept["labels"]
        return measure(parts=(draws.mean(0),), of=mean)
    if name == ACCURACY:
        return measure(parts=(kept[f"{own}predictions"] == kept[f"{own}labels"],), of=mean, exact=True)
    if row.metric == "auroc" and "probabilities" in kept:
        return measure(parts=(kept["labels"], kept["probabilities"]), of=label_auroc)
    if row.metric == "r2":
        return measure(parts=(kept["targets"], kept["predictions"]), of=partial(regression, metric="r2"))
    if row.metric == "miou":
        return measure(parts=(kept["confusion"],), of=partial(masks, metric="miou"))
    raise ValueError(f"{row.task}: expected a number that can be compared row by row, found {row.metric}")
