"""The accuracy of a network with one hidden layer on pooled features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from featurebank.pipelines.asking.answer import Answer
from featurebank.pipelines.asking.inputs import Rows, class_notes, labelled_splits
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.results import Results
    from featurebank.probes.tokens import AttentivePoolProbe, MLPProbe

__all__ = ["MLP"]


@dataclass(frozen=True, kw_only=True)
class MLP(Question):
    """The accuracy of a network with one hidden layer, stopped by the loss of validation rows."""

    name: ClassVar[str] = "mlp"
    version: ClassVar[int] = 1
    predicts_classes: ClassVar[bool] = True
    axes: ClassVar[int] = 1

    hidden: int = option(512, "Width of the hidden layer.", least=1)
    learning_rate: float = option(1e-3, "Of AdamW at the beginning.")
    weight_decay: float = option(0.01, "Of AdamW.")
    epochs: int = option(100, "Passes over the training rows, at most.", least=1)
    device: str = option("cpu", "Of torch, such as cpu or cuda.", hashed=False)

    def run(self, rows: Rows) -> Answer:
        """Accuracy, balanced accuracy, NLL, Brier score and ECE of the epoch with the least validation loss."""
        from featurebank.pipelines.asking import intervals

        train, validation, test = labelled_splits(rows, axes=self.axes)
        held = None if validation is None else (validation.features, validation.labels)
        probe = self._probe().fit(train.features, train.labels, held)
        found = intervals.row_probabilities(test.labels, probe.classes_, probe.logits(test.features))
        return Answer(
            scores=[
                *intervals.class_scores(test.labels, found.predictions, seed=self.seed),
                *intervals.probability_scores(found, seed=self.seed),
            ],
            chosen={"epoch": probe.best_epoch_ + 1},
            arrays=intervals.predicted(test, found.predictions) | intervals.likelihoods(found),
            notes=class_notes(train, test, validation),
        )

    def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:  # noqa: ARG002 (no pictures)
        """A reliability diagram of each backbone."""
        from featurebank.pipelines.asking.diagrams import reliability_section

        return reliability_section(answered, results)

    def _probe(self) -> MLPProbe | AttentivePoolProbe:
        from featurebank.probes.tokens import MLPProbe

        return MLPProbe(
            self.hidden,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            epochs=self.epochs,
            device=self.device,
            random_state=self.seed,
        )
