"""Outputs ``cut.K``: what enters block K of a network, so that all below has run and nothing from there on.

Blocks are those of `featurebank.extract.backbones.layer_groups`, from 1: ``cut.1`` is what the stem gives. A block is
entered where the first module is called of which all parameters lie in it or above. So no network has to say where its
cuts are, and folding, after which a block has other parameters, moves none.

Shapes: B batch, H, W input size.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec, Head
from featurebank.extract.backbones.layer_groups import layer_groups
from featurebank.extract.backbones.network import FrozenNetwork, Kept, probe
from featurebank.store.errors import UnknownNameError

__all__ = ["CutNetwork", "entrances"]

ROWS = 2
"""Of the batch that finds the cuts, so that rows are told from other dimensions."""


def entrances(network: FrozenNetwork) -> dict[int, nn.Module]:
    """The module whose first argument, one tensor (B, …), is what enters a block, by block.

    Without those that several tensors enter, as dense layers, or that begin in the midst of a module.

    Args:
        network: as built; noise goes through it once.

    Raises:
        ValueError: its blocks are not known, as `layer_groups` says.
    """
    while isinstance(network.backbone, FrozenNetwork):
        network = network.backbone
    groups = layer_groups(network)
    lowest: dict[str, int] = {}
    for depth, names in enumerate(groups):
        for name in names:
            parts = name.split(".")
            for end in range(len(parts)):
                lowest.setdefault(".".join(parts[:end]), depth)
    of_module = {module: lowest[name] for name, module in network.named_modules() if name in lowest}
    calls = [(of_module[module], module, value) for module, value in _calls(network) if module in of_module]
    found = {}
    for block in range(1, len(groups) - 1):
        depth, module, value = next((call for call in calls if call[0] >= block), (-1, network, None))
        if depth == block and isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) == ROWS:
            found[block] = module
    return found


def _calls(network: FrozenNetwork) -> Iterator[tuple[nn.Module, Any]]:
    """The modules in the order of their first calls, each before those within it, and their first arguments."""
    calls: dict[nn.Module, Any] = {}

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls.setdefault(module, arguments[0] if arguments else None)

    hooks = [module.register_forward_pre_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            network(probe(network.spec, network).repeat(ROWS, 1, 1, 1))
    finally:
        for hook in hooks:
            hook.remove()
    return iter(calls.items())


class CutNetwork(FrozenNetwork):
    """A network that also gives ``cut.K`` (B, …), maps and tokens as the architecture lays them out; never compiled.

    Args:
        spec: what to give.
        network: gives the outputs of the spec that are no cuts, or others where there are none.

    Raises:
        UnknownNameError: it has no such cut.
    """

    compiles = False  # what hooks keep aside by thread is nothing for a graph

    def __init__(self, spec: BackboneSpec, network: FrozenNetwork) -> None:
        super().__init__(spec, network)
        self.dimension = network.dimension
        try:
            cuts = {f"cut.{block}": module for block, module in entrances(network).items()}
        except ValueError as error:
            raise UnknownNameError(f"{spec.name}: no output cut.K, as its blocks are not known: {error}") from error
        self._available = [*network.available(), *cuts]
        self._require(spec.outputs)
        self._kept = Kept()
        for name in spec.outputs:
            if name in cuts:
                cuts[name].register_forward_pre_hook(partial(self._kept.entering, name))

    def available(self) -> list[str]:
        """Names of all outputs, the network's own and the cuts it has."""
        return self._available

    def head(self) -> Head | None:
        """The network's."""
        return self._network.head()

    def parameters_counted(self) -> Iterator[nn.Parameter]:
        """The network's."""
        return self._network.parameters_counted()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        with self._kept.passing() as kept:
            outputs = self.backbone(images)
        return {name: kept[name] if name in kept else outputs[name] for name in self.spec.outputs}

    @property
    def _network(self) -> FrozenNetwork:
        assert isinstance(self.backbone, FrozenNetwork)  # noqa: S101 - narrows the type
        return self.backbone
