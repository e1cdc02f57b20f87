"""Intervals of one OOD score on one set of ImageNet's size, 45,000 x 49,000 rows: ours against resampling all metrics.

Ours: AUROC by DeLong, the others' from 1,000 draws of what they depend on, and the metrics of all rows. The reference
counts 1,000 draws of rows at every distinct score, sorted once, and computes all metrics from them, the AUROC with the
others. CPU seconds of one process, the cases in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from harness import report, table
from numpy.typing import NDArray

from featurebank.probes.ood.evaluation import evaluate

DRAWS = 1000
REPEATS = 3


def metrics(inside: NDArray[np.int64], outside: NDArray[np.int64]) -> list[float]:
    """AUROC, both FPR@95, both average precisions and their trapezoids, from counts, the highest score first."""
    kept, passed = inside.cumsum(), outside.cumsum()
    n, m = int(kept[-1]), int(passed[-1])
    hits, lost = outside[::-1].cumsum(), inside[::-1].cumsum()
    areas = []
    for gains, found, missed in ((inside, kept, passed), (outside[::-1], hits, lost)):
        seen = found + missed
        precision = np.where(seen > 0, found / np.maximum(seen, 1), 1.0)
        steps = gains / found[-1]
        areas.append((steps * precision).sum())
        areas.append((steps * (precision + np.concatenate([[1.0], precision[:-1]]))).sum() / 2)
    auroc = (inside * (2 * (m - passed) + outside)).sum() / (2 * n * m)
    rates = passed[kept.searchsorted(0.95 * n)] / m, lost[hits.searchsorted(0.95 * m)] / n
    return [auroc, *rates, *areas]


def main() -> None:
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(1, 1, 45_000), generator.normal(0, 1, 49_000)

    distinct, place = np.unique(-np.concatenate([inside, outside]), return_inverse=True)
    parts = np.split(place, [len(inside)])

    def resampled() -> None:
        drawn = np.empty((DRAWS, 7))
        for draw in range(DRAWS):
            taken = (part[generator.integers(0, len(part), len(part))] for part in parts)
            drawn[draw] = metrics(*(np.bincount(rows, minlength=len(distinct)) for rows in taken))
        np.quantile(drawn, [0.025, 0.975], axis=0)

    cases: dict[str, Callable[[], object]] = {
        "ours": lambda: evaluate(inside, {"other": outside}, draws=DRAWS),
        "resampling": resampled,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(REPEATS):
        for name, case in cases.items():
            start = time.process_time()
            case()
            seconds[name].append(time.process_time() - start)
    table("Intervals of one score on one set, CPU seconds", seconds)
    ours, reference = (statistics.median(seconds[name]) for name in cases)
    report("ood_intervals", ours=ours, reference=reference, unit="CPU s", bound="ratio <= 0.1")


if __name__ == "__main__":
    main()
