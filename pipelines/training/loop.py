"""The training loop. Everything random is a function of the seed and the step, so that a checkpoint is all of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.draws import seeded_everywhere
from featurebank.pipelines.training.learner import Learner
from featurebank.pipelines.training.order import windows
from featurebank.pipelines.training.phase import Phase, Plan
from featurebank.pipelines.training.state import State, load, save
from featurebank.pipelines.training.task import Task, TrainingError
from featurebank.pipelines.training.trial import Numerics

__all__ = ["Progress", "train"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, for a display.

    Attributes:
        step: updates so far.
        steps: at most.
        epoch: counted from 0.
        loss: mean over the rows of this epoch.
        rate: of the head.
        batch_size: rows of a step.
        rows_per_second: since training began or went on.
        waiting: the share of the time in which the network waited for rows.
        score: the last validation score.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    rate: float
    batch_size: int
    rows_per_second: float
    waiting: float
    score: float


def log_nothing(progress: Progress) -> None:
    """Of a run that nobody watches."""


def train(
    task: Task,
    plan: Plan,
    numerics: Numerics,
    *,
    folder: Path,
    identity: Mapping[str, Any],
    seconds_between: float = 60.0,
    observe: Callable[[Progress], None] = log_nothing,
) -> State:
    """Trains until the last phase ends; killed at any moment and called again, it ends with the same bits.

    Args:
        task: the network, in which the best weights stand afterwards, and its rows.
        plan: how.
        numerics: precision, layout and rows at once.
        folder: where the checkpoint is kept; it stays until its owner takes it away.
        identity: what determines the run, as plain JSON; a checkpoint of another run is refused.
        seconds_between: checkpoints within an epoch; there is one at the end of each in any case.
        observe: told after each update.

    Raises:
        TrainingError: a loss or gradient that is not finite, a checkpoint of another run, or one that not every
            process of a group sees.
    """
    state = load(folder, identity) or State()
    steps = ranks.gathered(state.step)
    if len(set(steps)) > 1:
        raise TrainingError(f"{folder} must be one folder to all processes; found steps {steps} there: share the store")
    learner = Learner(task, plan, numerics, state)
    watch = _Watch(plan, learner, observe)
    while state.phase < len(plan.phases):
        phase = plan.phases[state.phase]
        todo = windows(plan.seed, state.epoch, task.n_rows, plan.batch_size, even=plan.even)
        for batch in task.batches(state.epoch, todo[state.window :], state.step):
            watch.loaded()
            with seeded_everywhere(plan.seed, "forward", state.step, ranks.rank()):
                loss = learner.update(batch, phase, state.step - state.phase_step, len(todo))
            state.losses = [state.losses[0] + loss, state.losses[1] + len(batch)]
            state.step, state.window = state.step + 1, state.window + 1
            watch.stepped(state, phase, len(todo))
            if ranks.is_first() and watch.due(seconds_between):
                save(folder, learner.into(state), identity)
        record = learner.validate()
        _end_epoch(state, record, plan, learner)
        if ranks.is_first():
            save(folder, learner.into(state), identity)
    learner.take_up(state.best)
    return state


def _end_epoch(state: State, record: dict[str, float], plan: Plan, learner: Learner) -> None:
    """Notes what an epoch gave, and ends the phase where it is over."""
    phase, score = plan.phases[state.phase], next(iter(record.values()))
    loss = state.losses[0] / max(1.0, state.losses[1])
    numbers = {name: value for name, value in record.items() if math.isfinite(value)}
    state.history.append({"epoch": state.epoch, "phase": state.phase, "step": state.step, "loss": loss, **numbers})
    if score > state.best_score or math.isnan(score) or not state.best:
        state.best, state.best_score, state.best_epoch = learner.judged(), score, state.epoch
    if score > state.phase_best:
        state.phase_best, state.phase_best_epoch = score, state.epoch
    state.epoch, state.window, state.losses = state.epoch + 1, 0, [0.0, 0.0]
    stale = state.epoch - 1 - max(state.phase_best_epoch, state.phase_epoch)
    patience_over = phase.patience is not None and stale >= phase.patience
    if patience_over or state.epoch - state.phase_epoch >= phase.epochs:
        state.phase, state.phase_step, state.phase_epoch = state.phase + 1, state.step, state.epoch
        state.phase_best, state.phase_best_epoch = -math.inf, -1
        if state.phase < len(plan.phases):
            learner.begin(plan.phases[state.phase], state.best)


class _Watch:
    """What there is to tell, and when the next checkpoint is due."""

    def __init__(self, plan: Plan, learner: Learner, observe: Callable[[Progress], None]) -> None:
        self._plan, self._learner, self._observe = plan, learner, observe
        self._began = self._saved = self._stepped = time.monotonic()
        self._waited, self._rows = 0.0, 0

    def loaded(self) -> None:
        self._waited += time.monotonic() - self._stepped

    def stepped(self, state: State, phase: Phase, per_epoch: int) -> None:
        self._stepped = time.monotonic()
        self._rows += self._plan.batch_size
        passed = max(1e-9, self._stepped - self._began)
        later = sum(one.epochs for one in self._plan.phases[state.phase + 1 :])
        self._observe(
            Progress(
                step=state.step,
                steps=state.phase_step + (phase.epochs + later) * per_epoch,
                epoch=state.epoch,
                loss=state.losses[0] / max(1.0, state.losses[1]),
                rate=self._learner.rate,
                batch_size=self._plan.batch_size,
                rows_per_second=self._rows / passed,
                waiting=self._waited / passed,
                score=state.history[-1].get("score", math.nan) if state.history else math.nan,
            )
        )

    def due(self, seconds: float) -> bool:
        if time.monotonic() - self._saved < seconds:
            return False
        self._saved = time.monotonic()
        return True
