"""A backbone that is trained, whatever stands behind it: what takes gradients, at which rate, and which parts stay put.

Shapes: B images, H, W their size, L depth of the head (see `layer_groups`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal, Self

import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn

from featurebank.extract.backbones.layer_groups import decayed_rates, layer_groups
from featurebank.extract.backbones.network import FrozenNetwork, probe

__all__ = ["ALL", "BatchNorm", "Trunk", "parameter_groups"]

BatchNorm = Literal["eval", "fixed", "train"]
ALL: Final = -1
"""Of `Trunk.freeze`: the whole backbone."""
_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2", "stochastic_depth")
_NO_DECAY = re.compile(r"tokens?$|class_embedding|pos(ition(al)?)?_embed|relative_position|layer_scale")


class Trunk(nn.Module):
    """A backbone whose parameters take gradients; subclasses stand behind it.

    Batch norms use the statistics of the checkpoint and keep them, unless ``batch_norm="train"``: on small sets and
    short runs their own statistics destroy the features. Whatever is frozen stays in eval mode, its buffers with it.
    Parameters that the outputs do not depend on, such as the checkpoint's classifier, are never trained. It begins in
    eval mode.

    Args:
        network: of `featurebank.extract.backbones.trainable`, with the outputs that are used.
        batch_norm: whether batch norms that are not frozen learn their statistics. ``fixed``: they learn nothing, as is
            usual in detection: a fixed scale and shift, whose backward pass needs no inputs to be kept.
        drop_path: the probability that the last block is left out for an image in training (stochastic depth, Huang
            et al. 2016, arXiv:1603.09382); it rises linearly from 0 at the first block.

    Attributes:
        notes: what a person should know: that an architecture has no place for ``drop_path``.

    Raises:
        ValueError: no parameter that gradients reach, a probability out of range, or ``drop_path`` where the layers
            are not known.
    """

    def __init__(self, network: FrozenNetwork, *, batch_norm: BatchNorm = "eval", drop_path: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be a probability below 1; found {drop_path!r}")
        if batch_norm == "fixed":
            freeze_batch_norm_2d(network)  # type: ignore[no-untyped-call]
        self.network, self.batch_norm = network, batch_norm
        self._trained = _reached(network)
        for name, parameter in network.named_parameters():
            if name not in self._trained:  # NaN where the checkpoint lacked it, which no file of weights may hold
                parameter.detach().nan_to_num_()
        useless = drop_path and not _set_drop_path(network, drop_path)
        note = f"drop_path does nothing: {network.spec.name} has no place for it"
        self.notes: tuple[str, ...] = (note,) if useless else ()
        self.training = False
        self.freeze(0)

    def train(self, mode: bool = True) -> Self:
        """Dropout, drop path and the like follow ``mode``; batch norms as the class says; frozen parts never."""
        self.training = mode
        for name, child in self.named_children():
            if name != "network":
                child.train(mode)
        self._set_modes(self.network, mode)
        return self

    def freeze(self, blocks: int) -> None:
        """Fixes parameters and buffers of the stem and the first blocks, and frees all others.

        Args:
            blocks: how many, of the depths of `layer_groups`; 0 fixes nothing, -1 the whole backbone.

        Raises:
            ValueError: the network has fewer, or its layers are not known.
        """
        fixed: set[str] = set()
        if blocks > 0:
            groups = layer_groups(self.network)
            if blocks > len(groups) - 2:
                raise ValueError(
                    f"freeze must be at most {len(groups) - 2}, the blocks of {self.network.spec.name}, or -1 for all "
                    f"of it; found {blocks}"
                )
            fixed = {name for group in groups[: blocks + 1] for name in group}
        elif blocks < ALL:
            raise ValueError(f"freeze must be a number of blocks, or -1 for the whole backbone; found {blocks}")
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(blocks != ALL and name in self._trained and name not in fixed)
        self.train(self.training)

    def _set_modes(self, module: nn.Module, mode: bool) -> None:
        parameters = list(module.parameters())
        mode = mode and (not parameters or any(parameter.requires_grad for parameter in parameters))
        fixed = isinstance(module, nn.modules.batchnorm._BatchNorm) and self.batch_norm == "eval"
        # In training these would give the outputs of further classifiers besides.
        module.training = mode and not fixed and not getattr(module, "aux_logits", False)
        for child in module.children():
            self._set_modes(child, mode)


def parameter_groups(
    model: Trunk, *, rate: float, layer_decay: float, weight_decay: float, steps: float | None = None
) -> list[dict[str, Any]]:
    """The parameters that are trained, for an optimiser of torch: two groups a depth, each with its own rate.

    Biases, norms, tokens, position embeddings and what timm's ``no_weight_decay`` names take no weight decay. What
    is behind the backbone has the depth of the network's head. Frozen parameters are in no group and change no rate.

    Args:
        model: after `Trunk.freeze`.
        rate: of what is behind the backbone.
        layer_decay: what the rate is multiplied by from each depth to the one before; see `decayed_rates`.
        weight_decay: of what takes it.
        steps: how many times the decay is applied down to the stem; as many as there are depths if not given.

    Returns:
        ``params``, ``names``, ``depth``, ``lr`` and ``weight_decay`` of each group that is not empty, stem first.

    Raises:
        ValueError: a number out of range; or the layers are not known, and their rates would differ.
    """
    try:
        layers = layer_groups(model.network)
    except ValueError:
        if layer_decay != 1:
            raise
        layers = (tuple(name for name, _ in model.network.named_parameters()), ())
    rates = decayed_rates(layers, rate, layer_decay, steps=steps)
    names = [[f"network.{name}" for name in layer] for layer in layers]
    parameters, plain = dict(model.named_parameters()), _without_decay(model)
    names[-1] += [name for name in parameters if not name.startswith("network.")]
    groups = []
    for depth, layer in enumerate(names):
        trained = [name for name in layer if parameters[name].requires_grad]
        for decay, some in (
            (weight_decay, [name for name in trained if name not in plain]),
            (0.0, [name for name in trained if name in plain]),
        ):
            if some:
                params = [parameters[name] for name in some]
                group = {"params": params, "names": some, "depth": depth, "lr": rates[depth], "weight_decay": decay}
                groups.append(group)
    return groups


def _reached(network: FrozenNetwork) -> frozenset[str]:
    """The names of the parameters that the outputs depend on by operations that have gradients."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    for parameter in names:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        outputs = network(probe(network.spec, network))
    found = frozenset(names[leaf] for output in outputs.values() for leaf in _leaves(output) if leaf in names)
    if not found:
        raise ValueError(
            f"{network.spec.name}: gradients must reach its parameters; found none that its outputs depend on: a graph "
            "that another library runs cannot be tuned; take the network it was exported from"
        )
    return found


def _leaves(output: Tensor) -> Iterator[Any]:
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node: Any = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            if hasattr(node, "variable"):
                yield node.variable


def _set_drop_path(network: FrozenNetwork, rate: float) -> bool:
    """Gives each block its probability; whether there was a place for one."""
    from timm.layers.drop import DropPath

    places = [
        (f"{name}.", module, attribute)
        for name, module in network.named_modules()
        for attribute in _DROP_PATHS
        if isinstance(getattr(module, attribute, 0.0), nn.Module | None)
    ]
    layers = layer_groups(network) if places else ()
    for prefix, module, attribute in places:
        depth = next(depth for depth, layer in enumerate(layers) if any(name.startswith(prefix) for name in layer))
        share = rate * (depth - 1) / max(1, len(layers) - 3)
        if hasattr(getattr(module, attribute), "mode"):  # torchvision's
            getattr(module, attribute).p = share
        else:
            setattr(module, attribute, DropPath(share))
    return bool(places)


def _without_decay(model: Trunk) -> set[str]:
    named: set[str] = set()
    for prefix, module in model.network.named_modules():
        if hasattr(module, "no_weight_decay"):
            named |= {f"network.{prefix}.{name}" for name in module.no_weight_decay()}
    return named | {
        name for name, parameter in model.named_parameters() if parameter.ndim <= 1 or _NO_DECAY.search(name)
    }
