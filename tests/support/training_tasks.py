"""A small network on rows of numbers, with dropout and noise, for tests of the training loop."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.draws import seeded_everywhere
from featurebank.pipelines.training.loop import train
from featurebank.pipelines.training.phase import Phase, Plan
from featurebank.pipelines.training.state import State
from featurebank.pipelines.training.task import Batch
from featurebank.pipelines.training.trial import Numerics

__all__ = ["PLAN", "Numbers", "digest", "run"]

PLAN = Plan(
    phases=(
        Phase(optimizer="adamw", rate=0.01, epochs=3, warmup_epochs=0.5, schedule="cosine"),
        Phase(optimizer="sgd", rate=0.05, epochs=4, patience=1, schedule="constant"),
    ),
    batch_size=16,
    seed=3,
    clip=1.0,
    ema=0.99,
)


class Numbers:
    """A task: three classes from ten noisy numbers, 74 rows to train on and 30 to validate on."""

    n_rows = 74

    def __init__(self, *, rows_alone: bool = False) -> None:
        """Rows alone: without batch norm and dropout, which make a row's loss depend on others or on a draw."""
        norm, dropout = (nn.LayerNorm(16), 0.0) if rows_alone else (nn.BatchNorm1d(16), 0.2)
        with seeded_everywhere(0, "model"):
            self.model: nn.Module = nn.Sequential(
                nn.Linear(10, 16), norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3)
            )
        with seeded_everywhere(0, "data"):
            centres, labels = torch.randn(3, 10), torch.arange(104) % 3
            self.inputs, self.labels = centres[labels] + torch.randn(104, 10), labels

    def groups(self, phase: Phase) -> list[dict[str, Any]]:
        """Two, of which the first learns at half the rate."""
        first, last = list(self.model[:2].parameters()), list(self.model[4].parameters())  # type: ignore[index]
        return [{"params": first, "lr": phase.rate / 2}, {"params": last, "lr": phase.rate, "weight_decay": 0.0}]

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]], first_step: int) -> Iterator[Batch]:
        """Rows with noise that is a function of epoch and row."""
        del first_step
        for rows in windows:
            noisy = []
            for row in rows.tolist():
                with seeded_everywhere(3, "augment", epoch, row):
                    noisy.append(self.inputs[row] + 0.1 * torch.randn(10))
            yield Batch(rows=rows, inputs=torch.stack(noisy), targets=self.labels[rows])

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Accuracy and loss, each process on its rows."""
        rows = torch.arange(self.n_rows, 104)[ranks.rank() :: ranks.world()]
        with torch.no_grad():
            logits = model(self.inputs[rows])
            losses = nn.functional.cross_entropy(logits, self.labels[rows], reduction="sum")
        right = sum(ranks.gathered(int((logits.argmax(1) == self.labels[rows]).sum())))
        return {"accuracy": right / 30 - 1e-4 * sum(ranks.gathered(float(losses))) / 30}


def digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of weights, names and bytes."""
    sums = hashlib.sha256()
    for name in sorted(weights):
        sums.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return sums.hexdigest()


def run(folder: Path, *, plan: Plan = PLAN, task: Numbers | None = None, every: float = 0.0, **more: Any) -> State:
    """Trains it, with a checkpoint after each step."""
    task = task or Numbers()
    return train(task, plan, Numerics(), folder=folder, identity={"plan": 1}, seconds_between=every, **more)


def main() -> None:
    """Trains in a folder, in the group of processes that the environment describes; prints what came of it."""
    with ranks.started("cpu"):
        task = Numbers(rows_alone=sys.argv[2:] == ["alone"])
        state = run(Path(sys.argv[1]), task=task)
        if ranks.is_first():
            weights = digest(dict(task.model.state_dict()))
            sys.stdout.write(json.dumps({"weights": weights, "history": state.history}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
