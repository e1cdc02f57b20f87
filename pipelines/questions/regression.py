"""R², MAE and RMSE of numbers that a ridge regression predicts.

Shapes: N training rows, M test rows, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.inputs import Rows, SplitRows, left_out, vectors
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question
from featurebank.store.errors import unknown_name

__all__ = ["Regression"]


@dataclass(frozen=True, kw_only=True)
class Regression(Question):
    """R², MAE and RMSE of a ridge regression; alpha by leave-one-out, or on validation rows where there are some.

    Rows with a target of NaN, or a label below 0, are left out.
    """

    name: ClassVar[str] = "regression"
    version: ClassVar[int] = 2

    target: tuple[str, ...] = option((), "A column; repeatable. Without it, the labels.", metavar="NAME")

    def run(self, rows: Rows) -> Answer:
        """R², mean absolute error and root mean squared error, each averaged over the targets."""
        from featurebank.pipelines.asking import intervals
        from featurebank.probes.choice import Choice, edge_notes
        from featurebank.probes.ridge import RidgeProbe, regression_scores
        from featurebank.probes.weighted import regression

        (train, y), (test, truth) = self._targets(rows.train), self._targets(rows.test)
        held = None if rows.validation is None else self._targets(rows.validation)
        validation = None if held is None else (held[0].features, held[1])
        probe = RidgeProbe().fit(train.features, y, validation)
        predictions = probe.predict(test.features)

        values = regression_scores(truth, predictions)
        return Answer(
            scores=[
                intervals.resampled(
                    metric, value, regression(truth, predictions, metric), rows=len(truth), seed=self.seed
                )
                for metric, value in (("r2", values.r2), ("mae", values.mae), ("rmse", values.rmse))
            ],
            chosen={"alpha": probe.alpha_},
            arrays={
                "ids": test.ids,
                "rows": test.rows,
                "targets": truth,
                "predictions": predictions,
            },
            notes=[
                *left_out(train, held and held[0], test),
                *edge_notes([Choice(name="alpha", value=probe.alpha_, scores=probe.validation_)]),
            ],
        )

    def _targets(self, split: SplitRows) -> tuple[SplitRows, NDArray[np.float64]]:
        """The rows with targets, and those (N, T)."""
        vectors(split)
        columns = split.columns
        for name in self.target:
            if name not in columns:
                raise unknown_name(f"column of {split.name}", name, columns)
        # Labels with decimals are kept as a column of that name; see `extract.datasets`.
        decimals = ("label",) if (split.labels < 0).all() and "label" in columns else ()
        named = [_as_numbers(columns[name], split.name) for name in self.target or decimals]
        given = np.stack(named, 1) if named else split.labels.reshape(len(split.labels), -1)
        targets: NDArray[np.float64] = given.astype(np.float64)
        good = np.isfinite(targets) if named else targets >= 0
        usable = np.asarray(good.all(axis=1))
        if not usable.any():
            raise ValueError(f"{split.name}: expected rows with finite targets, found none among {len(targets)}")
        return split.where(usable), targets[usable]


def _as_numbers(column: NDArray[Any], place: str) -> NDArray[Any]:
    """Numbers, also where they stand as text because a float would lose some: ``1.10``, whole ones with gaps."""
    if column.dtype.kind in "biuf":
        return column
    texts = column.tolist()
    try:
        if any("_" in text for text in texts):
            raise ValueError
        return np.array([float(text) if text else np.nan for text in texts], np.float64)
    except ValueError:
        raise ValueError(f"{place}: expected columns of numbers to regress to, found strings") from None
