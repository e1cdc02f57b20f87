"""The one loop of the probes trained by gradient steps, and what goes in: checked rows, batches, a held-out part.

Shapes: N rows, B rows of a batch, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from featurebank.probes._holding import held_out
from featurebank.probes._rows import row_slices
from featurebank.retrieval._features import FLOATS
from featurebank.retrieval._room import held_on

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

EPS = 1e-6  # of batch normalisation
FORWARD_VALUES = 2**23  # numbers that a network reads or writes at a time


class Held(NamedTuple):
    """Rows to validate on: which of some features, and the position of each one's class (rows,)."""

    features: NDArray[Any]
    rows: NDArray[np.int64]
    codes: NDArray[np.int64]

    def blocks(self, width: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows and codes a block at a time, of no more than `FORWARD_VALUES` features or results of ``width``."""
        width = max(self.features[0].size, width)
        for block in row_slices(len(self.rows), width, values=FORWARD_VALUES):
            yield self.rows[block], self.codes[block]


def checked_array(values: ArrayLike, axes: str, name: str, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """Floats of as many axes as ``axes`` has names, as they come; read once in blocks to see that they are finite.

    Of some ``rows`` only these are read.

    Raises:
        ValueError: another number of axes, an axis of length 0, no real numbers, or NaN or infinity.

    >>> checked_array(np.ones((2, 3), np.float16), "N, D", "features").dtype
    dtype('float16')
    """
    array = np.asarray(values)
    if array.ndim != axes.count(",") + 1 or 0 in array.shape:
        raise ValueError(f"{name} must be ({axes}) with no axis of length 0; found shape {array.shape}")
    if array.dtype not in FLOATS:
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} must be real numbers, float16, float32 or float64; found {array.dtype}")
        array = array.astype(np.float32)
    for part in row_slices(len(array) if rows is None else len(rows), array[0].size):
        block = array[part if rows is None else rows[part]]
        with np.errstate(over="ignore"):
            finite = np.isfinite(block.astype(np.float32, copy=False)).reshape(len(block), -1).all(1)
        if not finite.all():
            bad = part.start + int(finite.argmin())
            row = bad if rows is None else int(rows[bad])
            raise ValueError(
                f"{name} must be finite in float32; found NaN or infinity (inf) in row {row}; leave out failed rows"
            )
    return array


def validation_codes(classes: NDArray[Any], labels: ArrayLike, n_rows: int) -> NDArray[np.int64]:
    """The positions of validation labels (N,) among the classes of the training rows.

    Raises:
        ValueError: another number of labels than rows, or a class that is not among the training rows.
    """
    given = np.asarray(labels)
    if given.shape != (n_rows,):
        raise ValueError(f"validation labels must be one class per row, ({n_rows},); found shape {given.shape}")
    if unknown := sorted(set(given.tolist()) - set(classes.tolist())):
        raise ValueError(
            f"validation labels must be among the {len(classes)} classes of the training rows; found also "
            f"{', '.join(map(repr, unknown[:5]))}; leave those rows out"
        )
    return np.searchsorted(classes, given).astype(np.int64)


def split_rows(
    probe: Any, features: NDArray[Any], codes: NDArray[np.int64], validation: tuple[NDArray[Any], ArrayLike] | None
) -> tuple[NDArray[np.int64], Held]:
    """The rows to train on, and those to validate on: the ones given, or a part of each class of the training rows.

    Raises:
        ValueError: as `held_out` and `validation_codes`, or fewer than two rows to train on.
    """
    if validation is None:
        generator = np.random.default_rng((probe.random_state, 1))
        rows, held = held_out(codes, probe.validation_fraction, generator)
        part = Held(features, held, codes[held])
    else:
        other, labels = validation
        rows = np.arange(len(features))
        part = Held(other, np.arange(len(other)), validation_codes(probe.classes_, labels, len(other)))
    if len(rows) < 2:
        raise ValueError(f"batch normalisation needs at least 2 rows to train on; found {len(rows)} sample")
    return rows, part


def count_batches(n_rows: int, batch_size: int) -> int:
    """Batches of an epoch: of at most ``batch_size`` rows each, unless one would be a single row that can be avoided.

    Batch normalisation has no variance of a single row.

    >>> count_batches(10, 4), count_batches(3, 2), count_batches(3, 1)
    (3, 1, 3)
    """
    n_batches = -(-n_rows // batch_size)
    return n_batches if batch_size == 1 else max(1, min(n_batches, n_rows // 2))


def shuffled_batches(
    rows: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """One epoch: every row once, in random batches of as equal a size as possible, each in ascending order.

    >>> [len(batch) for batch in shuffled_batches(np.arange(10), 4, np.random.default_rng(0))]
    [4, 3, 3]
    """
    n_batches = count_batches(len(rows), batch_size)
    return [np.sort(batch) for batch in np.array_split(generator.permutation(rows), n_batches)]


def cosine_factor(step: int, steps: int, warmup: int = 0) -> float:
    """The learning rate's factor at a step: from 0 up in a line during the warm-up, then down to 0 in half a cosine.

    >>> [round(cosine_factor(step, 6, warmup=2), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def train(
    probe: Any, step: Callable[[NDArray[np.int64], float], T], rows: NDArray[np.int64], *, seed: int | tuple[int, ...]
) -> Iterator[list[T]]:
    """Trains epoch by epoch; yields what each step of an epoch gave.

    Args:
        probe: Has ``epochs``, ``batch_size`` and, where the learning rate rises first, ``warmup_epochs``.
        step: Moves what is trained, given rows (B,) and the learning rate's factor.
        rows: The training rows' numbers.
        seed: Of the batches.
    """
    generator = np.random.default_rng(seed)
    per_epoch = count_batches(len(rows), probe.batch_size)
    warmup = round(getattr(probe, "warmup_epochs", 0) * per_epoch)
    factors = (cosine_factor(n, probe.epochs * per_epoch, warmup) for n in itertools.count())
    for _ in range(probe.epochs):
        batches = shuffled_batches(rows, probe.batch_size, generator)
        yield [step(batch, factor) for batch, factor in zip(batches, factors, strict=False)]


def adamw(probe: Any, loss: Callable[[NDArray[np.int64]], Tensor]) -> Callable[[NDArray[np.int64], float], Tensor]:
    """A step of `train` on a probe's ``network_``, AdamW on the loss of a batch's rows; gives the loss."""
    rate = probe.learning_rate
    optimizer = torch.optim.AdamW(probe.network_.parameters(), lr=rate, weight_decay=probe.weight_decay, foreach=False)

    def step(batch: NDArray[np.int64], factor: float) -> Tensor:
        optimizer.param_groups[0]["lr"] = rate * factor
        value = loss(batch)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value.detach()

    return step


def seeded(build: Callable[[], M], seed: int, device: str) -> M:
    """A network with weights from a seed, on a device; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build().to(device)


def check_loss(loss: float, learning_rate: float) -> None:
    """Raises ValueError for a loss that is not finite."""
    if not math.isfinite(loss):
        raise ValueError(f"the loss must stay finite; found {loss} with learning_rate={learning_rate}; lower it")


def in_blocks(
    features: NDArray[Any], width: int, answer: Callable[[slice], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """What a network answers to all rows, a block at a time, of no more than `FORWARD_VALUES` features or answers."""
    width = max(features[0].size, width)
    return np.concatenate([answer(rows) for rows in row_slices(len(features), width, values=FORWARD_VALUES)])


def to_torch(values: NDArray[Any], rows: NDArray[np.int64] | slice, device: str) -> Tensor:
    """Some rows as a float32 tensor of its own, sent as they come."""
    return torch.from_numpy(np.array(values[rows], order="C")).to(device).float()


def reader(values: NDArray[Any], device: str) -> Callable[[NDArray[np.int64]], Tensor]:
    """`to_torch` of rows (B,) that are asked for again and again: a GPU with room for all values is sent them once."""
    held = held_on(torch.device(device), values)
    if held is None:
        return lambda rows: to_torch(values, rows, device)
    return lambda rows: held[torch.from_numpy(rows).to(held.device)].float()
