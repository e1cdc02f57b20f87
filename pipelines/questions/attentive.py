"""The accuracy of a linear layer on what a learned query gathers from the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from featurebank.pipelines.asking.option import option
from featurebank.pipelines.questions.mlp import MLP

if TYPE_CHECKING:
    from featurebank.probes.tokens import AttentivePoolProbe, MLPProbe

__all__ = ["Attentive"]


@dataclass(frozen=True, kw_only=True)
class Attentive(MLP):
    """The accuracy of a linear layer on what a learned query gathers from the tokens (AIM's attentive probe)."""

    name: ClassVar[str] = "attentive"
    axes: ClassVar[int] = 2

    output: str = option("tokens", "The output that is read: patch tokens, (T, D) a row.", metavar="NAME")
    hidden: int = 0
    n_heads: int = option(8, "Heads of the attention; the width must be a multiple.", flag="--heads", least=1)

    def _probe(self) -> MLPProbe | AttentivePoolProbe:
        from featurebank.probes.tokens import AttentivePoolProbe

        return AttentivePoolProbe(
            self.n_heads,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            epochs=self.epochs,
            device=self.device,
            random_state=self.seed,
        )
