"""Classification as a task of the trainer: images, or maps from the cache, in; losses and validation scores out.

Shapes: B rows of a batch, N rows of a part, K outputs of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.pipelines.jobs.finetune.images import ImageRows, loaded
from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.draws import seed_of
from featurebank.pipelines.training.task import Batch
from featurebank.pipelines.training.trial import Numerics

if TYPE_CHECKING:
    from torch import nn

    from featurebank.pipelines.jobs.finetune.network import TunedNetwork
    from featurebank.pipelines.jobs.finetune.recipe import Recipe
    from featurebank.pipelines.training.phase import Phase

__all__ = ["Classification", "Inputs", "MapRows", "Pictures", "logits_of"]

EVALUATED_AT_ONCE = 64


class Inputs(Protocol):
    """Rows of a part as what a network takes."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]]) -> Iterator[Any]:
        """(B, …) float32 for each window of positions, as that epoch sees them; epoch -1 for evaluation."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Rows whose images are read, decoded and augmented.

    Attributes:
        rows: what reads them.
        workers: processes that do.
    """

    rows: ImageRows
    workers: int

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]]) -> Iterator[torch.Tensor]:
        """See `Inputs`."""
        for _, images in loaded(self.rows, [[(epoch, int(row)) for row in window] for window in windows], self.workers):
            yield images


@dataclass(frozen=True, kw_only=True)
class MapRows:
    """Rows of what enters a block, from feature sets; each set is a view of the same images.

    Attributes:
        views: (M, …) of each set, in the stored dtype; of which an epoch draws one for each row.
        rows: (N,) the rows of the part in them.
        seed: of the draws.
    """

    views: Sequence[NDArray[np.floating]]
    rows: NDArray[np.intp]
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]]) -> Iterator[torch.Tensor]:
        """See `Inputs`."""
        for window in windows:
            maps = self.views[0][self.rows[window]].astype(np.float32)
            for place, row in enumerate(window.tolist()):
                if epoch >= 0 and (view := seed_of(self.seed, "view", epoch, row) % len(self.views)):
                    maps[place] = self.views[view][self.rows[row]]
            yield torch.from_numpy(maps)


class Classification:
    """A `featurebank.pipelines.training.task.Task`.

    Args:
        model: takes what ``train`` and ``validation`` give, and ends in the head.
        network: that is tuned, all of it.
        train: rows to train on.
        validation: rows to choose by.
        targets: (N,) or (N, L) of the train rows.
        classes: those of the K that train rows have, where rows have one class: a head has no say in others.
        score: metrics of logits (V, K) of the validation rows, the deciding one first.
        recipe: losses, mixing, rates of layers.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        network: TunedNetwork,
        train: Inputs,
        validation: Inputs,
        targets: NDArray[np.int64],
        classes: NDArray[np.int64],
        score: Callable[[NDArray[np.float32]], Mapping[str, float]],
        recipe: Recipe,
        numerics: Numerics,
        seed: int,
    ) -> None:
        from featurebank.pipelines.jobs.finetune.mixing import Mixing
        from featurebank.pipelines.jobs.finetune.objective import objective

        self.model, self.network, self.n_rows = model, network, len(train)
        self._train, self._validation = train, validation
        own = targets if targets.ndim > 1 else np.searchsorted(classes, targets)
        self._targets, self._score = torch.from_numpy(np.ascontiguousarray(own)), score
        self._classes = torch.from_numpy(classes) if len(classes) < network.head.out_features else None
        self._recipe, self._numerics, self._seed = recipe, numerics, seed
        self._objective = objective(recipe)
        self._mixing = Mixing(recipe, classes=len(classes)) if recipe.mixes else None

    def groups(self, phase: Phase) -> list[dict[str, Any]]:
        """Of the layers, each with its own rate."""
        from featurebank.pipelines.jobs.trunk import parameter_groups

        return parameter_groups(
            self.network,
            rate=phase.rate,
            layer_decay=self._recipe.layer_decay,
            steps=self._recipe.decay_steps,
            weight_decay=phase.weight_decay,
        )

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]], first_step: int) -> Iterator[Batch]:
        """Inputs of each window, mixed where the recipe mixes."""
        for step, (rows, inputs) in enumerate(
            zip(windows, self._train.batches(epoch, windows), strict=True), first_step
        ):
            targets = self._targets[rows]
            if self._mixing is not None:
                inputs, targets = self._mixing(inputs, targets, self._seed, step)  # noqa: PLW2901
            yield Batch(rows=rows, inputs=inputs, targets=targets)

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task`."""
        logits = model(batch.inputs).float()
        if self._classes is not None:
            logits = logits[:, self._classes.to(logits.device)]
        return self._objective(logits, batch.targets)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """See `Task`."""
        return self._score(logits_of(model, self._validation, self._numerics))


def logits_of(model: nn.Module, inputs: Inputs, numerics: Numerics) -> NDArray[np.float32]:
    """(N, K) of all rows in float32; each process of a group computes its part, all have the whole."""
    own = np.arange(len(inputs))[ranks.rank() :: ranks.world()]
    windows = [own[start : start + EVALUATED_AT_ONCE] for start in range(0, len(own), EVALUATED_AT_ONCE)]
    model.eval()
    with torch.no_grad():
        parts = [model(numerics.laid_out(images)).float().cpu().numpy() for images in inputs.batches(-1, windows)]
    every = ranks.gathered((own, parts))
    width = next(part.shape[1] for _, some in every for part in some)
    logits = np.empty((len(inputs), width), np.float32)
    for rows, some in every:
        if len(rows):
            logits[rows] = np.concatenate(some)
    return logits
