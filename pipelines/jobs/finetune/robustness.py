"""Adversarial robustness: attacks within a ball around each image, and the rows that withstand them.

Images are RGB in [0, 1] and normalised inside the network (`InPixels`), so that radii are in units of pixels: 1 is from
black to white. A network is attacked in eval mode with gradients of the images alone, and left as it was.

Shapes: B batch, H height, W width, K classes, N rows, A attacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.transform import normalisation

__all__ = ["Attack", "InPixels", "Norm", "apgd_ce", "pgd", "withstood"]

Norm = Literal["linf", "l2"]

MOMENTUM: Final = 0.75
RISING: Final = 0.75
"""Of `apgd_ce`: the share of steps that must raise the loss for a step size to be kept."""
SMALLEST: Final = 1e-12


class Attack(Protocol):
    """What `withstood` calls, as ``functools.partial(pgd, norm="linf", radius=2 / 255, …)``."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, rows: Sequence[int]) -> Tensor:
        """Images (B, 3, H, W) that are to be taken for others; ``rows`` are their numbers, for random draws."""
        ...


class InPixels(nn.Module):
    """A network that takes RGB images in [0, 1]: normalisation, and the order of channels, become part of it.

    Args:
        network: of normalised images (B, 3, H, W).
        preprocessing: what the network expects.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.reverse = preprocessing.channels == "BGR"
        self.scale: Tensor
        self.shift: Tensor
        for name, values in zip(("scale", "shift"), normalisation(preprocessing), strict=True):
            self.register_buffer(name, torch.from_numpy(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32, RGB in [0, 1], to what the network gives."""
        ordered = images.flip(1) if self.reverse else images
        # In this order, and times 255, 8-bit pixels become what extraction makes of them, to the last bit.
        return self.network(ordered * 255 * self.scale + self.shift)  # type: ignore[no-any-return]


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    radius: float,
    steps: int,
    step_size: float,
    start: Literal["random", "centre"] = "random",
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy (Madry et al., ICLR 2018, arXiv:1706.06083).

    ``x <- P(x + step_size * d)``, where d is the gradient's sign (``linf``) or the gradient over its length (``l2``),
    and P projects on the ball, then clips to [0, 1]. An image takes no more steps once it is taken for another.

    Args:
        model: images to logits (B, K), on the device of the images.
        images: (B, 3, H, W) float32 in [0, 1].
        labels: (B,) int64.
        norm: of the ball.
        radius: of the ball, in the units of the images.
        steps: how many.
        step_size: in the units of the radius.
        start: ``random``: uniform in the ball; ``centre``: the image itself.
        seed: of random starts.
        rows: (B,) the images' numbers: a start depends on these and the seed only, so not on the batch. By default,
            their places in the batch.

    Returns:
        (B, 3, H, W) float32, no further from the images than the radius, in [0, 1].

    Raises:
        ValueError: images of another dtype or range, an unknown norm or start, or a number that is not positive.
    """
    _check(images, norm, radius=radius, steps=steps, step_size=step_size)
    if start not in ("random", "centre"):
        raise ValueError(f"start must be random or centre; found {start!r}")
    ball = _Ball(images, norm, radius)
    with _undisturbed(model):
        x = images.clone() if start == "centre" else ball.random(seed, rows)
        left = torch.arange(len(x), device=x.device)
        for _ in range(steps):
            here = _ascent(model, x[left], labels[left])
            stands = ~here.wrong
            here, ball, left = here.only(stands), ball.only(stands), left[stands]
            if not len(left):
                break
            x[left] = ball.projected(here.x + step_size * ball.direction(here.gradient))
    return x


def apgd_ce(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    radius: float,
    steps: int = 100,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> Tensor:
    """Auto-PGD on the cross-entropy (Croce & Hein, ICML 2020, arXiv:2003.01690, algorithm 1), from a random start.

    The step size begins at twice the radius, steps have a momentum of .75, and at checkpoints, which come closer and
    closer, the size of a row is halved and the row goes back to its highest loss, if fewer than .75 of the steps since
    the last one raised the loss, or neither the size nor the highest loss has changed since.

    Args: as of `pgd`.

    Returns:
        (B, 3, H, W) float32, of each row the first image that is taken for another, or else that of the highest loss.

    Raises:
        ValueError: as `pgd`.
    """
    _check(images, norm, radius=radius, steps=steps)
    ball, checkpoints, last = _Ball(images, norm, radius), _checkpoints(steps), 0
    with _undisturbed(model):
        x = ball.random(seed, rows)
        left = torch.arange(len(x), device=x.device)
        here = before = best = _ascent(model, x, labels)
        sizes, highest = torch.full_like(here.loss, 2 * radius), here.loss
        rises, halved = torch.zeros_like(here.loss), torch.ones_like(here.wrong)
        for step in range(steps + 1):
            if step > 0:
                ahead = ball.projected(here.x + _wide(sizes) * ball.direction(here.gradient))
                if step > 1:
                    ahead = ball.projected(here.x + MOMENTUM * (ahead - here.x) + (1 - MOMENTUM) * (here.x - before.x))
                before, here = here, _ascent(model, ahead, labels[left])
                rises = rises + (here.loss > before.loss)
                best = here.where(here.loss > best.loss, best)
            stands = ~here.wrong
            x[left] = best.where(stands, here).x
            here, before, best = (point.only(stands) for point in (here, before, best))
            sizes, highest, rises, halved = (values[stands] for values in (sizes, highest, rises, halved))
            left, ball = left[stands], ball.only(stands)
            if not len(left):
                break
            if step in checkpoints:
                halved = (rises < RISING * (step - last)) | (~halved & (best.loss == highest))
                sizes, here = torch.where(halved, sizes / 2, sizes), best.where(halved, here)
                rises, highest, last = torch.zeros_like(rises), best.loss, step
    return x


def withstood(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], attacks: Sequence[Attack]
) -> NDArray[np.bool_]:
    """The rows that are classified right, and remain so under one attack after the other.

    A row that fell is not attacked again. With attacks in the order of their radii, the means of the rows of the result
    are the accuracy and the robust accuracy at each radius, which cannot rise.

    Args:
        model: images in [0, 1] to logits (B, K), see `InPixels`; on the device of the images.
        loader: images (B, 3, H, W) and labels (B,), in the same order each time.
        attacks: see `Attack`.

    Returns:
        (1 + A, N) bool: right on the image itself, then under the first attack as well, then under the second as well …
    """
    batches, first = [np.empty((1 + len(attacks), 0), np.bool_)], 0
    for images, labels in loader:
        robust = np.zeros((1 + len(attacks), len(images)), np.bool_)
        left = torch.arange(len(images), device=images.device)
        left = left[_right(model, images, labels)]
        robust[0, left.cpu()] = True
        for number, attack in enumerate(attacks, 1):
            if len(left):
                rows = [first + place for place in left.tolist()]
                attacked = attack(model, images[left], labels[left], rows=rows)
                left = left[_right(model, attacked, labels[left])]
            robust[number, left.cpu()] = True
        batches.append(robust)
        first += len(images)
    return np.concatenate(batches, 1)


class _Point(NamedTuple):
    """Images and, for each, the loss, whether it is taken for another, and the loss's gradient."""

    x: Tensor
    loss: Tensor
    wrong: Tensor
    gradient: Tensor

    def only(self, rows: Tensor) -> _Point:
        return _Point(*(value[rows] for value in self))

    def where(self, condition: Tensor, other: _Point) -> _Point:
        """Of rows for which the condition (B,) holds, this one."""
        wide = _wide(condition)
        return _Point(*(torch.where(wide if a.ndim > 1 else condition, a, b) for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class _Ball:
    """The images that are as near to each of ``centre`` (B, 3, H, W) as the radius, and in [0, 1]."""

    centre: Tensor
    norm: Norm
    radius: float

    def only(self, rows: Tensor) -> _Ball:
        return replace(self, centre=self.centre[rows])

    def direction(self, gradient: Tensor) -> Tensor:
        """The step of length 1 along which the loss rises most."""
        return gradient.sign() if self.norm == "linf" else gradient / _length(gradient)

    def projected(self, x: Tensor) -> Tensor:
        away = x - self.centre
        if self.norm == "linf":
            away = away.clamp(-self.radius, self.radius)
        else:
            away = away * (self.radius / _length(away)).clamp(max=1)
        # Clipping brings every pixel nearer to the centre's, so the image stays in the ball.
        return (self.centre + away).clamp(0, 1)

    def random(self, seed: int, rows: Sequence[int] | None) -> Tensor:
        """Images drawn uniformly from the ball, then clipped."""
        shape = self.centre.shape[1:]
        away = np.empty(self.centre.shape, np.float32)
        for place, row in enumerate(range(len(away)) if rows is None else rows):
            rng = np.random.default_rng((seed, row))
            if self.norm == "linf":
                away[place] = rng.uniform(-self.radius, self.radius, shape)
            else:
                direction = rng.standard_normal(shape)
                away[place] = self.radius * rng.random() ** (1 / direction.size) * direction / np.linalg.norm(direction)
        return self.projected(self.centre + torch.from_numpy(away).to(self.centre.device))


def _ascent(model: nn.Module, x: Tensor, labels: Tensor) -> _Point:
    x = x.detach().requires_grad_()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, labels, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), x)
    return _Point(x.detach(), loss.detach(), logits.argmax(1) != labels, gradient)


def _right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(B,) bool."""
    with _undisturbed(model), torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return model(images).argmax(1) == labels  # type: ignore[no-any-return]


def _checkpoints(steps: int) -> frozenset[int]:
    """The steps after which `apgd_ce` looks back: at .22, .41, .57, .70 … .99 of all, rounded up.

    >>> sorted(_checkpoints(100))
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    percent, gap, found = 0, 22, set()
    while percent + gap <= 100:
        percent += gap
        found.add(-(-percent * steps // 100))
        gap = max(gap - 3, 6)
    return frozenset(found)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients of parameters; modes and ``requires_grad`` are as they were afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        # Module by module, as `train` of a network that keeps parts of itself fixed would set others.
        for module, mode in modes:
            module.training = mode
        for parameter, required in asked:
            parameter.requires_grad_(required)


def _wide(values: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return values[:, None, None, None]


def _length(x: Tensor) -> Tensor:
    """(B, 3, H, W) to the rows' l2 norms (B, 1, 1, 1), never 0."""
    return _wide(x.flatten(1).norm(dim=1).clamp(min=SMALLEST))


def _check(images: Tensor, norm: str, **numbers: float) -> None:
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}; found {norm!r}")
    for name, value in numbers.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive; found {value!r}")
    if images.dtype != torch.float32:
        raise ValueError(f"images must be float32 in [0, 1]; found {images.dtype}")
    low, high = (float(value) for value in images.aminmax()) if len(images) else (0, 1)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"images must be in [0, 1]; found {low:g} to {high:g}; leave normalisation to InPixels")
