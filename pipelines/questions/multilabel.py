"""AUROC and average precision of several labels a row.

Shapes: N training rows, M test rows, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.classes import listed
from featurebank.pipelines.asking.inputs import Rows, SplitRows, left_out, match_notes, matched, vectors
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question
from featurebank.probes.choice import CS

__all__ = ["MultiLabel"]

HELD_OUT = 0.2
RANKING_DRAWS = 200  # of ranking metrics, which take a pass over all rows and labels for each draw


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Question):
    """AUROC and average precision of several labels a row: a logistic regression for each label.

    One C for all, of the highest mean AUROC on validation rows.
    """

    name: ClassVar[str] = "multilabel"
    version: ClassVar[int] = 3

    cs: tuple[float, ...] = option(CS, "A candidate for C; repeatable.", flag="--c")
    missing: Literal["ignore", "zero", "one"] = option("ignore", "What -1 counts as in the training rows.")
    device: str = option("cpu", "Of torch, such as cpu or cuda.", hashed=False)

    def run(self, rows: Rows) -> Answer:
        """Mean AUROC and mean average precision over the labels with both classes among the test rows."""
        from featurebank.pipelines.asking import intervals
        from featurebank.probes.choice import Choice, edge_notes
        from featurebank.probes.metrics import multilabel_auroc, multilabel_map
        from featurebank.probes.weighted import label_auroc, label_precision

        train, test = self._several(rows.train), matched(self._several(rows.test), rows.train)
        validation = rows.validation and matched(self._several(rows.validation), rows.train)
        fitting, held = _held_out(train, validation, self.seed)
        candidates = zip(self.cs, self._fitted(fitting, self.cs, held), strict=True)
        areas = {C: multilabel_auroc(held.labels, probabilities).mean for C, probabilities in candidates}
        C = min(areas, key=lambda C: (-areas[C], C))
        (scores,) = self._fitted(train, (C,), test)
        measure = partial(intervals.resampled, rows=len(scores), seed=self.seed, draws=RANKING_DRAWS)
        return Answer(
            scores=[
                measure("auroc", multilabel_auroc(test.labels, scores).mean, label_auroc(test.labels, scores)),
                measure("map", multilabel_map(test.labels, scores).mean, label_precision(test.labels, scores)),
            ],
            chosen={"C": C},
            arrays={
                "ids": test.ids,
                "rows": test.rows,
                "labels": test.labels,
                "probabilities": scores,
            },
            notes=[
                *left_out(train, rows.validation, test),
                *_label_notes(train, test, validation),
                *edge_notes([Choice(name="C", value=C, scores=areas)]),
            ],
        )

    def _fitted(self, train: SplitRows, Cs: Sequence[float], scored: SplitRows) -> Iterator[NDArray[np.float64]]:
        """Probabilities of the scored rows (M, L) at each C; one half for a label that no training row has."""
        from featurebank.probes.multilabel import multilabel_path

        for probe in multilabel_path(train.features, train.labels, Cs, missing=self.missing, device=self.device):
            found = np.full(scored.labels.shape, np.nan)
            found[:, : train.labels.shape[1]] = probe.predict_proba(scored.features)
            yield np.where(np.isnan(found), 0.5, found)

    def _several(self, split: SplitRows) -> SplitRows:
        if vectors(split).labels.ndim != 2:
            raise ValueError(f"{split.name}: expected several labels a row, (N, L), found one; ask linear")
        return split


def _label_notes(train: SplitRows, *splits: SplitRows | None) -> list[str]:
    """How the labels of other splits were matched, and which only one of the splits has."""
    notes = match_notes(train, *splits)
    for split in splits:
        if split is None or split.match is None:
            continue
        for names, has, lacks, what in (
            (split.match.extra, split, train, "cannot be told"),
            (split.match.missing, train, split, "not scored"),
        ):
            if names:
                notes.append(f"labels of {has.name} that {lacks.name} lacks, {what}: {listed([*map(repr, names)])}")
    return notes


def _held_out(train: SplitRows, validation: SplitRows | None, seed: int) -> tuple[SplitRows, SplitRows]:
    """The rows to fit on while choosing, and the rows to choose on: a fifth of the train rows where there are none."""
    if validation is not None:
        return train, validation
    from featurebank.probes._holding import held_out

    held = np.zeros(len(train.labels), bool)
    held[held_out(np.zeros(len(held), np.int64), HELD_OUT, np.random.default_rng(seed))[1]] = True
    return train.where(~held), train.where(held)
