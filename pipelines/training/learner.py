"""One update of a network: rates, accumulation, gradients that are checked and clipped, averages of weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch

from featurebank.extract.forward import is_out_of_memory
from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.phase import Phase, Plan, rate_at
from featurebank.pipelines.training.state import State, Tensors, weights_of
from featurebank.pipelines.training.task import Batch, Task, TrainingError
from featurebank.pipelines.training.trial import Numerics, put

__all__ = ["Learner"]

log = logging.getLogger("featurebank")


class Learner:
    """A network with its optimiser and average.

    Args:
        task: its network is trained in place.
        plan: how.
        numerics: precision, layout, rows at once.
        state: where it goes on; a fresh one begins at the network as it is.
    """

    def __init__(self, task: Task, plan: Plan, numerics: Numerics, state: State) -> None:
        self.task, self.plan, self.numerics = task, plan, numerics
        self.rate = 0.0
        self._micro = numerics.micro
        self.model = put(task.model, numerics)
        if state.weights:
            self.take_up(state.weights)
        self.average = {name: value.to(numerics.device) for name, value in state.average.items()}
        if plan.ema and not self.average:
            self.average = weights_of(self.model)
        self._together = ranks.together(self.model)
        phase = plan.phases[min(state.phase, len(plan.phases) - 1)]
        self.optimizer = _optimizer(phase, task.groups(phase))
        if state.moments:
            self.optimizer.load_state_dict(state.moments)

    def begin(self, phase: Phase, weights: Mapping[str, torch.Tensor]) -> None:
        """A phase: a new optimiser, from the best weights so far."""
        self.take_up(weights)
        self.optimizer = _optimizer(phase, self.task.groups(phase))
        if self.average:
            self.average = weights_of(self.model)

    def update(self, batch: Batch, phase: Phase, step: int, per_epoch: int) -> float:
        """One step; the sum of the losses of its rows.

        Raises:
            TrainingError: the loss or the gradient is not finite; nothing was changed.
        """
        share = rate_at(phase, step, per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full"] * share
        self.rate = max(group["lr"] for group in self.optimizer.param_groups)
        self.model.train()
        loss = self._gradients(batch)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.plan.clip or math.inf)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            rows = ", ".join(map(str, batch.rows[:8].tolist()))
            raise TrainingError(
                f"loss and gradients must be finite; found a loss of {loss:g} at step {step} with rows {rows} …; the "
                "checkpoint before it is kept: choose a lower rate, or clip gradients"
            )
        self.optimizer.step()
        self._average(step)
        return loss

    def _gradients(self, batch: Batch) -> float:
        """Gradients of the mean loss of a batch, of as many rows at once as fit; the sum of the losses."""
        while True:
            try:
                return self._accumulated(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or min(self._micro, len(batch)) == 1:
                    raise
            # Only here: while the error is being handled, its traceback holds what filled the memory.
            self._micro = math.ceil(min(self._micro, len(batch)) / 2)
            log.warning("out of memory: %d rows at once from here on, gradients accumulated", self._micro)
            if self.numerics.device.startswith("cuda"):
                torch.cuda.empty_cache()

    def _accumulated(self, batch: Batch) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        own, total = _own_part(batch), 0.0
        # A process without rows of its own takes one that counts for nothing: the others wait for its gradients.
        counted, own = (1.0, own) if len(own) else (0.0, batch.part(0, 1))
        starts = range(0, len(own), self._micro)
        for start in starts:
            part = own.part(start, start + self._micro)
            part.inputs, part.targets = self.numerics.laid_out(part.inputs), part.targets.to(self.numerics.device)
            with ranks.apart(self._together) if start != starts[-1] else nullcontext():
                with self.numerics.autocast():
                    losses = counted * self.task.losses(self._together, part)
                # The mean over all rows of the batch, wherever they are: of the last batch too, which may be smaller.
                torch.autograd.backward(losses.float().sum() * (ranks.world() / len(batch)))
            total += float(losses.detach().double().sum())
        return float(sum(ranks.gathered(total)))

    def _average(self, step: int) -> None:
        """The decay grows with the steps, so that a short run forgets where it began."""
        if not self.average:
            return
        decay = min(self.plan.ema, (1.0 + step) / (10.0 + step))
        current = dict(self.model.state_dict())
        for name, value in self.average.items():
            if value.is_floating_point():
                value.lerp_(current[name].to(value.dtype), 1.0 - decay)
            else:
                value.copy_(current[name])

    def validate(self) -> dict[str, float]:
        """Metrics of the weights that would be kept; ``score`` decides, NaN where a task has nothing to choose by."""
        own = weights_of(self.model)
        if self.average:
            self.take_up(self.average)
        ranks.as_the_first(self.model)
        self.model.eval()
        metrics = dict(self.task.validate(self.model))
        if self.average:
            self.take_up(own)
        if not metrics:
            return {"score": math.nan}
        score = next(iter(metrics.values()))
        return {"score": score if math.isfinite(score) else -math.inf, **metrics}

    def judged(self) -> Tensors:
        """Copies of the weights that `validate` judged, on the CPU."""
        weights = {name: value.clone() for name, value in self.average.items()} or weights_of(self.model)
        return {name: value.cpu() for name, value in weights.items()}

    def take_up(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Puts weights into the model."""
        self.model.load_state_dict(weights, strict=False)

    def into(self, state: State) -> State:
        """The state with copies of all that is here."""
        state.weights = {name: value.cpu() for name, value in weights_of(self.model).items()}
        state.average = {name: value.cpu().clone() for name, value in self.average.items()}
        state.moments = self.optimizer.state_dict()
        return state


def _own_part(batch: Batch) -> Batch:
    """Of a batch, the rows of this process."""
    if ranks.world() == 1:
        return batch
    rows = slice(ranks.rank(), None, ranks.world())
    return Batch(rows=batch.rows[rows], inputs=batch.inputs[rows], targets=batch.targets[rows])


def _optimizer(phase: Phase, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    groups = [{**group, "full": group["lr"]} for group in groups]
    if phase.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=phase.rate, momentum=phase.momentum, weight_decay=phase.weight_decay)
    # One pass over each tensor instead of six, a tenth of a step from cached maps.
    return torch.optim.AdamW(groups, lr=phase.rate, betas=phase.betas, weight_decay=phase.weight_decay, fused=True)
