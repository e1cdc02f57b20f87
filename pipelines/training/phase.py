"""What a training consists of: phases, each with one optimiser and a schedule that is a function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Phase", "Plan", "Schedule", "rate_at"]

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "constant", "step"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One optimiser, from the weights that the phase before left.

    Attributes:
        optimizer: ``adamw``, or ``sgd`` with Nesterov's momentum off.
        rate: of the head and of what is as deep; earlier layers may learn more slowly.
        momentum: of ``sgd``.
        betas: of ``adamw``.
        weight_decay: decoupled for ``adamw``; of weights, not of biases and norms.
        epochs: at most.
        patience: epochs without a better validation score after which the phase ends and its best weights are taken
            up again; ``None`` to go through all epochs.
        warmup_epochs: over which the rate climbs from ``warmup_rate`` in equal steps.
        warmup_rate: where it begins, as a share of the rate.
        schedule: of the rate behind the warm-up.
        floor: the share of the rate that ``cosine`` ends at.
        steps: shares of the epochs at which ``step`` divides the rate by ten.
    """

    optimizer: Optimizer = "adamw"
    rate: float = 1e-3
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    epochs: int = 10
    patience: int | None = None
    warmup_epochs: float = 0.0
    warmup_rate: float = 0.0
    schedule: Schedule = "cosine"
    floor: float = 0.0
    steps: tuple[float, ...] = (0.75, 0.9)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a task is trained, all of it part of what determines the weights.

    Attributes:
        phases: one after the other.
        batch_size: rows of one update.
        even: whether every batch must have an even number of rows, as mixing does.
        seed: of all draws.
        clip: the largest norm of all gradients together; 0 for none.
        ema: decay of an average of the weights, which is then validated and kept in their place; 0 for none.
    """

    phases: Sequence[Phase]
    batch_size: int
    even: bool = False
    seed: int = 0
    clip: float = 0.0
    ema: float = 0.0


def rate_at(phase: Phase, step: int, steps_per_epoch: int) -> float:
    """The share of every group's rate at a step of the phase, counted from 0.

    >>> phase = Phase(epochs=2, warmup_epochs=0.5, floor=0.0)
    >>> [round(rate_at(phase, step, 4), 3) for step in range(8)]
    [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """
    total = phase.epochs * steps_per_epoch
    warmup = round(phase.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return phase.warmup_rate + (1.0 - phase.warmup_rate) * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if phase.schedule == "cosine":
        return phase.floor + (1.0 - phase.floor) * (1.0 + math.cos(math.pi * min(1.0, progress))) / 2
    if phase.schedule == "step":
        return 0.1 ** sum(step >= round(share * total) for share in phase.steps)
    return 1.0
