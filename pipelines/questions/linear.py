"""Ask for the accuracy of a linear classifier, its settings and its temperature chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.inputs import Rows, SplitRows, class_notes, labelled_splits
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question
from featurebank.probes.choice import CS
from featurebank.probes.linear import Protocol

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.results import Results
    from featurebank.probes.linear import LinearFit

__all__ = ["Linear", "fit_rows"]


@dataclass(frozen=True, kw_only=True)
class Linear(Question):
    """The accuracy of a linear classifier, its settings and its temperature chosen on validation rows."""

    name: ClassVar[str] = "linear"
    version: ClassVar[int] = 2
    predicts_classes: ClassVar[bool] = True

    protocol: Protocol = option("logistic", "The protocol: how it is fitted.")
    cs: tuple[float, ...] = option(CS, "A candidate for C; repeatable.", flag="--c")
    device: str = option("cpu", "Of torch, such as cpu or cuda.", hashed=False)

    def run(self, rows: Rows) -> Answer:
        """Accuracy, balanced accuracy, NLL, Brier and ECE after temperature scaling, and the ECE before it."""
        from featurebank.pipelines.asking import intervals
        from featurebank.probes.choice import edge_notes

        train, validation, test = labelled_splits(rows)
        fit = fit_rows(train, validation, protocol=self.protocol, cs=self.cs, seed=self.seed, device=self.device)
        logits = fit.logits(test.features)
        scaled = intervals.row_probabilities(test.labels, fit.classes, logits, temperature=fit.temperature)
        unscaled = intervals.row_probabilities(test.labels, fit.classes, logits)
        notes = [*class_notes(train, test, validation), *edge_notes(fit.choices)]
        if fit.uncalibrated:
            notes.append(f"the temperature is 1: {fit.uncalibrated}")
        return Answer(
            scores=[
                *intervals.class_scores(test.labels, scaled.predictions, seed=self.seed),
                *intervals.probability_scores(scaled, seed=self.seed),
                intervals.calibration_score("ece_unscaled", unscaled, seed=self.seed),
            ],
            chosen={**fit.chosen, "temperature": fit.temperature},
            arrays=intervals.predicted(test, scaled.predictions) | intervals.likelihoods(scaled),
            notes=notes,
        )

    def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:  # noqa: ARG002 (no pictures)
        """A reliability diagram of each backbone."""
        from featurebank.pipelines.asking.diagrams import reliability_section

        return reliability_section(answered, results)


def fit_rows(
    train: SplitRows, validation: SplitRows | None, *, protocol: Protocol, cs: Sequence[float], seed: int, device: str
) -> LinearFit:
    """`featurebank.probes.linear.fit_linear` on rows of feature sets."""
    from featurebank.probes.linear import fit_linear

    return fit_linear(
        train.features,
        train.labels,
        validation=None if validation is None else (validation.features, validation.labels),
        protocol=protocol,
        Cs=cs,
        random_state=seed,
        device=device,
    )
