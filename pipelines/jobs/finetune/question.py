"""What a backbone is worth when it is tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.option import option
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.jobs.finetune.attacking import Attacked
from featurebank.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from featurebank.pipelines.asking.answer import Answer
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.inputs import Rows
    from featurebank.pipelines.asking.results import Results
    from featurebank.pipelines.jobs.finetune.recipe import Recipe

__all__ = ["Finetune"]

OF_THE_RECIPE = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "rates": "rates",
    "frozen_blocks": "frozen_blocks",
    "fraction": "label_fraction",
    "shots": "shots",
    "flip": "flip",
}
"""Options that stand in place of a recipe's own values."""


@dataclass(frozen=True, kw_only=True)
class Finetune(Question):
    """The accuracy of a backbone tuned on the train rows, everything chosen on validation rows.

    A job: it reads images, and needs a configuration that says where they are.
    """

    job: ClassVar[bool] = True
    name: ClassVar[str] = "finetune"
    predicts_classes: ClassVar[bool] = True
    layout: ClassVar[Layout] = Layout(index=("backbone", "score"), grouped=True)

    recipe: str = option("lp_ft", "The recipe: a name, or a YAML file.")
    epochs: int | None = option(None, "Of each phase, in place of the recipe's.", least=1)
    batch_size: int | None = option(None, "Rows of one update, in place of the recipe's.", least=1)
    rates: tuple[float, ...] = option((), "A learning rate to choose from on validation rows.", flag="--rate")
    seeds: tuple[int, ...] = option((0,), "Of a run; the accuracy is the mean over all.", flag="--run-seed")
    frozen_blocks: int | None = option(None, "Blocks that stay as they are, from the first; -1 for all.", least=-1)
    cached: bool = option(False, "Extract what enters the first block that is tuned once, and run only what is behind.")
    flips: bool = option(False, "With cached: extract mirrored images too, and draw one of both.")
    fraction: float | None = option(None, "The share of the train rows that is used.", least=0.0)
    shots: int | None = option(None, "Train rows of each class that are used.", least=1)
    flip: float | None = option(None, "How likely an image is mirrored; 0 where left and right matter.", least=0.0)
    on: tuple[str, ...] = option((), "A shifted set to score too, DATASET or DATASET/SPLIT.", metavar="KEY", role=True)
    wise: tuple[float, ...] = option((), "A share of the tuned weights, between those of the probe and the tuned ones.")
    attacks: tuple[str, ...] = option((), "An attack, such as pgd:linf:1/255; weaker ones first.", flag="--attack")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "Of passes; auto tries a few steps.", hashed=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different numbers, at least one; found {self.seeds}")
        if any(not 0.0 <= alpha <= 1.0 for alpha in self.wise):
            raise ValueError(f"wise must be shares between 0 and 1; found {self.wise}")
        for attack in self.attacks:
            Attacked(attack)
        resolved = self.resolved
        if self.cached and resolved.frozen_blocks == 0:
            raise ValueError("cached needs blocks that stay as they are; found frozen_blocks 0")
        if self.flips and not self.cached:
            raise ValueError("flips come with cached; found it off: the augmentation says what is mirrored")

    @property
    def resolved(self) -> Recipe:
        """The recipe with what is given in its place.

        Raises:
            ValueError: there is no such recipe, or a value does not fit.
        """
        from featurebank.pipelines.jobs.finetune.recipe import load_recipe

        given = {of: getattr(self, name) for name, of in OF_THE_RECIPE.items()}
        return load_recipe(self.recipe, **{of: value for of, value in given.items() if value not in (None, ())})

    def settings(self, part: str = "") -> dict[str, Any]:
        """The options, and the whole recipe."""
        from featurebank.pipelines.jobs.finetune.recipe import plain_recipe

        return super().settings(part) | {"recipe": plain_recipe(self.resolved)}

    def key(self, part: str = "") -> dict[str, Any]:
        """What is not at its default; the recipe by its digest, whatever it is called."""
        from featurebank.pipelines.jobs.finetune.recipe import plain_recipe

        rest = {name: value for name, value in super().key(part).items() if name not in {"recipe", *OF_THE_RECIPE}}
        return rest | {"recipe": fingerprint(plain_recipe(self.resolved))}

    def run(self, rows: Rows) -> Answer:
        """Accuracies of the probe and of the tuned network, and of all else that is asked of it."""
        from featurebank.pipelines.jobs.finetune.answering import Wanted, answer

        own = ("seed", "seeds", "wise", "attacks", "precision", "cached", "flips")
        return answer(Wanted(recipe=self.resolved, **{name: getattr(self, name) for name in own}), rows)

    def section(self, answered: Sequence[Answered], results: Results, album: Album) -> str:  # noqa: ARG002 (no pictures)
        """The curves of each run."""
        from featurebank.pipelines.jobs.finetune.curves import curves_section

        return curves_section(answered)
