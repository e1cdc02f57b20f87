"""The upper blocks of a network alone, run from what enters them: no time is spent on what is frozen and known.

Shapes: B batch, D dimension of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from featurebank.extract.backbones.cuts import entrances
from featurebank.extract.backbones.network import FrozenNetwork, probe

__all__ = ["Top"]

AGREEMENT = 1e-4
"""How far the top's features may be from the network's, relative to the largest of them."""
ROWS = 3
"""Of the batch from which is learnt what has a row for each image."""


class Top(nn.Module):
    """Blocks K and above of a network, as a function of what enters block K, its output ``cut.K``.

    The network's own forward runs, on images that are nothing. A module that is done before block K is entered gives
    zeros without computing them, and block K gets what is given. Parameters are the network's own.

    Args:
        network: unfolded, with ``pooled`` among its outputs; in whatever mode, with or without gradients.
        block: K, from 1, as `featurebank.extract.backbones.layer_groups` counts.

    Raises:
        ValueError: what enters the block does not decide what the network gives.
    """

    def __init__(self, network: FrozenNetwork, block: int) -> None:
        super().__init__()
        self.network = network
        self.block = block
        with _evaluating(network), torch.no_grad():
            cuts = entrances(network)
            if block not in cuts:
                known = ", ".join(map(str, cuts)) or "none"
                raise self._cannot(f"one tensor must enter it; found such blocks: {known}")
            self._entrance = (cuts[block],)  # a tuple, or it would be registered a second time
            one = probe(network.spec, network)
            noise = torch.randn(ROWS, *one.shape[1:], generator=torch.Generator().manual_seed(0)).to(one.device)
            self._before = _done_before(network, cuts[block], noise)
            self._check(noise[:2])

    def forward(self, cut: torch.Tensor) -> torch.Tensor:
        """(B, …) that enters the block to pooled (B, D), with gradients where parameters take them."""
        size = self.network.spec.preprocessing
        nothing = cut.new_zeros(()).expand(len(cut), 3, size.height, size.width)
        with self._replaying(cut):
            pooled: torch.Tensor = self.network(nothing)["pooled"]
        return pooled

    @contextmanager
    def _replaying(self, cut: torch.Tensor) -> Iterator[None]:
        """Puts zeros in the place of what is done before the block, for one pass."""
        given = iter([cut])
        with ExitStack() as undo:
            for module, outputs in self._before.items():
                module.forward = _instead(module.forward, iter([_blank(value, cut) for value in outputs]))
                undo.callback(module.__delattr__, "forward")
            hook = self._entrance[0].register_forward_pre_hook(lambda _, some: (next(given, some[0]), *some[1:]))
            undo.callback(hook.remove)
            yield

    def _check(self, images: torch.Tensor) -> None:
        kept: list[torch.Tensor] = []
        hook = self._entrance[0].register_forward_pre_hook(lambda _, some: kept.append(some[0].clone()))
        try:
            expected = self.network(images)["pooled"]
        finally:
            hook.remove()
        try:
            pooled = self(kept[0])
            off = float((pooled - expected).abs().max() / expected.abs().max())
        except (RuntimeError, TypeError, ValueError) as error:
            raise self._cannot(f"what is above must run without what is below; {error}") from error
        if not off <= AGREEMENT:
            raise self._cannot(
                f"what enters it must decide the features; found them off by {off:.2g} of the largest, as something "
                "else comes from below"
            )

    def _cannot(self, why: str) -> ValueError:
        return ValueError(f"{self.network.spec.name} cannot be cut at block {self.block}: {why}; choose another")


def _done_before(network: FrozenNetwork, entrance: nn.Module, images: torch.Tensor) -> dict[nn.Module, list[Any]]:
    """What modules give whose calls end before a module's first one begins, without those within others of them.

    Tensors with a row for each image are left as shapes, on the meta device.
    """
    done: list[tuple[nn.Module, Any]] = []
    begun: list[int] = []
    entered: list[bool] = []

    def begin(module: nn.Module, _: tuple[Any, ...]) -> None:
        begun.append(len(done))
        if module is entrance:
            entered.append(True)

    def end(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        first = begun.pop()
        if not entered:
            done[first:] = [(module, _shapes(output))]

    with ExitStack() as undo:
        for module in network.modules():
            undo.callback(module.register_forward_pre_hook(begin).remove)
            undo.callback(module.register_forward_hook(end).remove)
        network(images)
    found: dict[nn.Module, list[Any]] = {}
    for module, output in done:
        found.setdefault(module, []).append(output)
    return found


def _instead(forward: Callable[..., Any], outputs: Iterator[Any]) -> Callable[..., Any]:
    """Gives the outputs, one a call; once there are none, a module that is called again computes."""

    def stub(*arguments: Any, **options: Any) -> Any:
        for output in outputs:
            return output
        return forward(*arguments, **options)

    return stub


def _shapes(value: Any) -> Any:
    """Tensors with a row for each image without their numbers; what is the same for all images as it is."""
    if isinstance(value, torch.Tensor) and value.ndim and len(value) == ROWS:
        return value.to("meta")
    return _each(_shapes, value)


def _blank(value: Any, cut: torch.Tensor) -> Any:
    """What `_shapes` has left, with zeros for as many images as the cut has, in its precision and where it lies."""
    if not isinstance(value, torch.Tensor):
        return _each(lambda part: _blank(part, cut), value)
    dtype = cut.dtype if value.is_floating_point() else value.dtype
    if not value.is_meta:
        return value.to(cut.device, dtype)
    return cut.new_zeros((), dtype=dtype).expand(len(cut), *value.shape[1:])


def _each(of: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return type(value)((key, of(part)) for key, part in value.items())
    return type(value)(of(part) for part in value) if type(value) in (tuple, list) else value


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and as it was afterwards: dropout would be found to disagree with itself."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
