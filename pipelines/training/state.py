"""Everything that a run has become so far: weights, moments, averages, the best, and where it stands.

A checkpoint is this record, written whole and synced before the one before it goes; all else is a function of the step.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from featurebank.pipelines.training.task import TrainingError

__all__ = ["CHECKPOINT", "State", "claimed", "load", "remove", "save", "weights_of"]

log = logging.getLogger("featurebank")

CHECKPOINT = "checkpoint.pt"
FORMAT = 1

Tensors = dict[str, torch.Tensor]


@dataclass(kw_only=True)
class State:
    """Where a run stands.

    Attributes:
        step: updates so far.
        epoch: epochs that are over, evaluation and all.
        window: batches of this epoch that are done.
        phase: index of the phase.
        phase_step: the step at which it began.
        phase_epoch: the epoch at which it began.
        weights: of the model, by name, what is trained alone.
        moments: of the optimiser.
        average: exponential moving average of the weights; empty without one.
        best: weights of the best epoch so far.
        best_score: its validation score.
        best_epoch: its number; -1 before the first.
        phase_best: the best score of this phase alone, and its epoch.
        losses: sum of the losses and number of rows of this epoch.
        history: a record of each epoch, without numbers that are not finite.
    """

    step: int = 0
    epoch: int = 0
    window: int = 0
    phase: int = 0
    phase_step: int = 0
    phase_epoch: int = 0
    weights: Tensors = field(default_factory=dict)
    moments: dict[str, Any] = field(default_factory=dict)
    average: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    best_score: float = float("-inf")
    best_epoch: int = -1
    phase_best: float = float("-inf")
    phase_best_epoch: int = -1
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0])
    history: list[dict[str, Any]] = field(default_factory=list)


def weights_of(model: nn.Module) -> Tensors:
    """Copies of what training may change: the parameters that take gradients, and buffers, by name."""
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    return {name: value.detach().clone() for name, value in model.state_dict().items() if name not in frozen}


def save(folder: Path, state: State, identity: Mapping[str, Any]) -> bool:
    """Writes the checkpoint of a run; one that cannot be written leaves the one before, and says so.

    Args:
        folder: of the run; made if need be.
        state: what is kept.
        identity: what determines the run, as plain JSON.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _replacing(folder / CHECKPOINT) as file:
            torch.save({"format": FORMAT, "identity": dict(identity), **vars(state)}, file)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where a disk is full
        log.warning("%s: the checkpoint of step %d could not be written: %s", folder, state.step, error)
        return False
    return True


def load(folder: Path, identity: Mapping[str, Any]) -> State | None:
    """The state of a run that was begun; ``None`` where there is none.

    Raises:
        TrainingError: the file is damaged, or of a run with another recipe, other data or another network.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        state = State(**{name: kept[name] for name in vars(State())})
        own = dict(kept["identity"])
    except Exception as error:
        raise TrainingError(f"{path}: must be a checkpoint of a run; found {error}; remove it to begin anew") from error
    if kept["format"] != FORMAT or own != dict(identity):
        different = [name for name in {**own, **identity} if own.get(name) != identity.get(name)]
        listed = "; ".join(f"{name}: {own.get(name)!r} there, {identity.get(name)!r} here" for name in different)
        raise TrainingError(f"{path}: must be a checkpoint of this run; found another one ({listed}); remove it")
    return state


def remove(folder: Path) -> None:
    """Takes a run's checkpoint away, and its folder where nothing else is in it."""
    for path in (folder / CHECKPOINT, _temporary(folder / CHECKPOINT)):
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A folder in which no other process trains meanwhile; where one does, its end is waited for."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _locks.add(lock)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s is trained by another process; waiting for its end", folder.name)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        _locks.discard(lock)
        os.close(lock)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _let_go() -> None:
    """In a fork: a loader's process that outlives a killed trainer by seconds must not keep the next one out."""
    for lock in _locks:
        os.close(lock)
    _locks.clear()


_locks: set[int] = set()
os.register_at_fork(after_in_child=_let_go)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of another once all of it is on the disk."""
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
