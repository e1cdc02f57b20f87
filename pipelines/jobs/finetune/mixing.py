"""Images mixed with one another, and their targets with them.

Shapes: B rows of a batch, H, W a backbone's input, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurebank.pipelines.training.draws import seeded_everywhere

if TYPE_CHECKING:
    import torch

    from featurebank.pipelines.jobs.finetune.recipe import Recipe

__all__ = ["Mixing"]


class Mixing:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899) of a batch: timm's.

    The row at place i is mixed with that at B - 1 - i, all by one weight that is a function of the seed and the step.
    Targets are smoothed here, so the loss must not do it again.

    Args:
        recipe: how strongly, and how often.
        classes: K.
    """

    def __init__(self, recipe: Recipe, classes: int) -> None:
        from timm.data.mixup import Mixup

        mixup: Any = Mixup
        self._mixups = {
            several: mixup(
                recipe.mixup,
                recipe.cutmix,
                prob=recipe.mix_prob,
                switch_prob=recipe.mix_switch,
                label_smoothing=recipe.smoothing,
                num_classes=classes,
                multi_label=several,
            )
            for several in (False, True)
        }

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, seed: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The mixed batch and its (B, K) float32 targets; a label that is unknown in either row stays -1.

        Args:
            images: (B, 3, H, W); overwritten.
            labels: (B,) classes, or (B, K) of several labels a row: 1, 0, and -1 for unknown.
            seed: of the run.
            step: of the run.

        Raises:
            ValueError: B is odd.
        """
        if len(images) % 2:
            raise ValueError(f"a batch to be mixed must have an even number of rows; found {len(images)}: leave one")
        several = labels.ndim == 2
        with seeded_everywhere(seed, "mixup", step):
            mixed, targets = self._mixups[several](images, labels.clamp(min=0) if several else labels)
        if several:
            unknown = labels < 0
            targets[unknown | unknown.flip(0)] = -1
        return mixed, targets
