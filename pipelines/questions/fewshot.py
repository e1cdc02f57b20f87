"""The accuracy with few labels of each class, in several nested draws.

Shapes: M test rows, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.pipelines.asking.answer import Answer, Score
from featurebank.pipelines.asking.classes import listed
from featurebank.pipelines.asking.inputs import Rows, class_notes, labelled_splits
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question
from featurebank.probes.choice import CS

if TYPE_CHECKING:
    from featurebank.probes.choice import Choice

__all__ = ["FewShot"]

SHOTS, FRACTIONS = (10,), (0.01, 0.1)

FewProtocol = Literal["logistic", "ncm", "bob", "dinov2"]


@dataclass(frozen=True, kw_only=True)
class FewShot(Question):
    """The accuracy with few labels of each class, in several nested draws: 10 shots, 1 % and 10 % of them.

    The protocol is ``logistic``, C chosen by folds of the drawn rows; ``ncm``, the nearest class mean, which has
    nothing to choose, and no work that would repay sending rows to a GPU; ``bob`` or ``dinov2``, a learning rate chosen
    on a fifth of the drawn rows.
    """

    name: ClassVar[str] = "fewshot"
    version: ClassVar[int] = 3

    shots: tuple[int, ...] = option((), "Rows of each class; repeatable.")
    fraction: tuple[float, ...] = option((), "Of the rows of each class, above 0; repeatable.")
    draws: int = option(5, "Draws of each number of labels.")
    protocol: FewProtocol = option("logistic", "The protocol: how it is fitted.")
    cs: tuple[float, ...] = option(CS, "A candidate for C; repeatable.", flag="--c")
    device: str = option("cpu", "Of torch, such as cpu or cuda.", hashed=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shots and not self.fraction:
            object.__setattr__(self, "shots", SHOTS)
            object.__setattr__(self, "fraction", FRACTIONS)

    def run(self, rows: Rows) -> Answer:
        """Mean accuracy over draws, with Student's interval cut to 0..1, for each number of labels."""
        from featurebank.probes.choice import edge_notes
        from featurebank.probes.fewshot import label_efficiency_curve

        train, _, test = labelled_splits(rows)
        recorded: list[NDArray[np.int64]] = []
        choices: list[Choice] = []
        curve = label_efficiency_curve(
            train.features,
            train.labels,
            test.features,
            test.labels,
            shots=self.shots,
            fractions=self.fraction,
            draws=self.draws,
            estimator_factory=lambda: _Recorded(self._estimator(), recorded, choices),
            random_state=self.seed,
        )
        scores: list[Score] = []
        kept: dict[str, NDArray[Any]] = {}
        for index, point in enumerate(curve):
            shots = f"{point.shots}" if point.fraction is None else f"{100 * point.fraction:g}%"
            kept[f"predictions {shots}"] = np.stack(recorded[index * self.draws : (index + 1) * self.draws])
            scores.append(
                Score(
                    metric="accuracy",
                    shots=shots,
                    value=point.mean,
                    low=max(point.low, 0.0),
                    high=min(point.high, 1.0),
                    interval="draws of labels, Student",
                    n=len(test.labels),
                    details={"rows": point.rows, "accuracies": list(point.accuracies)},
                )
            )
        kept |= {"ids": test.ids, "rows": test.rows, "labels": test.labels}
        total = len(np.unique(train.labels))
        short = [
            f"{point.shots} shots: {len(point.short)} of {total} classes have fewer rows and give all of them: {names}"
            for point in curve
            if (names := listed([train.class_name(code) for code in point.short]))
        ]
        return Answer(scores=scores, arrays=kept, notes=[*class_notes(train, test), *short, *edge_notes(choices)])

    def _estimator(self) -> Any:
        from featurebank.probes.few_labels import FewLabelsProbe
        from featurebank.probes.linear import protocol_heads
        from featurebank.probes.neighbours import NearestClassMean

        if self.protocol == "ncm":
            return NearestClassMean()
        if self.protocol == "logistic":
            return FewLabelsProbe(self.cs, random_state=self.seed, device=self.device)
        return protocol_heads(self.protocol, random_state=self.seed, device=self.device)


class _Recorded:
    """A classifier that adds its predictions, and what it chose, to lists."""

    def __init__(self, classifier: Any, predictions: list[NDArray[np.int64]], choices: list[Choice]) -> None:
        self.classifier, self.predictions, self.choices = classifier, predictions, choices

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        self.classifier.fit(X, y)
        self.choices += getattr(self.classifier, "choices_", ())
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        self.predictions.append(self.classifier.predict(X))
        return self.predictions[-1]
