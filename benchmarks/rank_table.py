"""A ranking of 300 backbones in 40 settings, with 1,000 resamples: everything that `featurebank rank` computes.

Ours is the whole of it, z-scores, ranks, strengths, tests of 44,850 pairs, correlations and intervals of places; the
reference is the second that it may take. Beside it, resampling test rows instead of settings, and the loop over pairs
that SciPy's Wilcoxon test takes, on a hundredth of them.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
from harness import alternate, report, table
from scipy import stats  # type: ignore[import-untyped]

from featurebank.pipelines.asking.results import Row
from featurebank.pipelines.summaries.rank_table import RankTable, Setting
from featurebank.pipelines.summaries.standings import Way, standings

BOUND = 1.0
HUNDREDTH = 448


def made_up(backbones: int, settings: int) -> RankTable:
    """Accuracies of 1,000 test rows with their intervals."""
    generator = np.random.default_rng(0)
    skill = generator.normal(size=(backbones, 1))
    shares = 1 / (1 + np.exp(-skill - generator.normal(size=(backbones, settings))))
    names = [f"net_{at}" for at in range(backbones)]
    rows = tuple(
        tuple(
            Row(
                question="linear",
                backbone=name,
                set=f"set_{at}/test",
                metric="accuracy",
                value=round(float(value), 3),
                low=float(value) - 0.03,
                high=float(value) + 0.03,
            )
            for at, value in enumerate(line)
        )
        for name, line in zip(names, shares, strict=True)
    )
    return RankTable(backbones=tuple(names), settings=tuple(map(Setting.of, rows[0])), rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", type=int, default=300)
    parser.add_argument("--settings", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    given = made_up(args.backbones, args.settings)
    gains = given.gains
    pairs = np.stack(np.triu_indices(args.backbones, 1), 1)[:HUNDREDTH]
    seconds = alternate(
        {
            "settings resampled": lambda: standings(given, Way()),
            "test rows resampled": lambda: standings(given, Way(resample="rows")),
            "SciPy, 448 pairs": lambda: [stats.wilcoxon(gains[one], gains[other]) for one, other in pairs],
        },
        repeats=args.repeats,
    )
    table(f"ranking of {args.backbones} backbones in {args.settings} settings, 1,000 resamples", seconds)
    ours = statistics.median(seconds["settings resampled"])
    rows = statistics.median(seconds["test rows resampled"])
    report("rank_table", ours=ours, reference=BOUND, unit="s", bound="ratio <= 1", rows=rows)


if __name__ == "__main__":
    main()
