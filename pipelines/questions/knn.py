"""The vote of the k nearest training rows by cosine, k and T chosen on validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.inputs import Rows, class_notes, labelled_splits
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question

__all__ = ["KNN"]

TOP = 5


@dataclass(frozen=True, kw_only=True)
class KNN(Question):
    """The vote of the k nearest training rows by cosine (DINO's), k and T chosen on validation rows."""

    name: ClassVar[str] = "knn"
    version: ClassVar[int] = 2
    predicts_classes: ClassVar[bool] = True

    k: tuple[int, ...] = option((5, 10, 20, 50, 100, 200), "A candidate for k; repeatable.")
    temperature: tuple[float, ...] = option((0.02, 0.04, 0.07, 0.1, 0.2), "A candidate for T; repeatable.")
    device: str = option("cpu", "Of torch, such as cpu or cuda.", hashed=False)

    def run(self, rows: Rows) -> Answer:
        """Accuracy, balanced accuracy, and with more than five classes how often the label is among the first five."""
        from featurebank.pipelines.asking import intervals
        from featurebank.probes.choice import edge_notes
        from featurebank.probes.neighbours import knn_sweep

        train, validation, test = labelled_splits(rows)
        # A fifth of the training rows stands in for validation rows.
        searched = len(train.labels) - (-(-len(train.labels) // 5) if validation is None else 0)
        ks = [k for k in self.k if k <= searched]
        if not ks:
            raise ValueError(f"k must be at most {searched}, the rows searched; found {list(self.k)}; lower --k")
        sweep = knn_sweep(
            train.features,
            train.labels,
            test.features,
            test.labels,
            validation=None if validation is None else (validation.features, validation.labels),
            ks=ks,
            temperatures=self.temperature,
            random_state=self.seed,
            device=self.device,
        )
        scores = intervals.class_scores(test.labels, sweep.predictions, seed=self.seed)
        if len(np.unique(train.labels)) > TOP:
            scores.append(intervals.share_score("top5_accuracy", sweep.top5, len(test.labels)))
        return Answer(
            scores=scores,
            chosen={"k": sweep.k, "temperature": sweep.temperature},
            arrays=intervals.predicted(test, sweep.predictions),
            notes=[*class_notes(train, test, validation), *edge_notes(sweep.choices)],
        )
