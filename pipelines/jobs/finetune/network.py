"""The network that fine-tuning trains: a backbone as its checkpoint has it, and a linear classifier of its features.

Shapes: B images, H, W their size, D dimension of a feature, K classes, L depth of the head (see `layer_groups`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from featurebank.extract.backbones.contract import BackboneSpec, Head
from featurebank.extract.backbones.layer_groups import decayed_rates, layer_groups
from featurebank.extract.backbones.network import FrozenNetwork, probe
from featurebank.extract.backbones.tuned_source import save_tuned

if TYPE_CHECKING:
    from featurebank.probes.linear import LinearFit

__all__ = ["TunedNetwork", "folded_head", "interpolated", "parameter_groups", "random_head"]

ALL: Final = -1
"""Of `TunedNetwork.freeze`: everything but the classifier."""
ABSENT: Final = -1e4
"""The bias of a class that the head has never seen: far below the logits of any other."""
_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2", "stochastic_depth")
_NO_DECAY = re.compile(r"tokens?$|class_embedding|pos(ition(al)?)?_embed|relative_position|layer_scale")


class TunedNetwork(nn.Module):
    """A backbone whose parameters take gradients, and a linear classifier behind its ``pooled``.

    Batch norms use the statistics of the checkpoint and keep them, unless ``batch_norm="train"``: on small sets and
    short runs their own statistics destroy the features. Whatever is frozen stays in eval mode, its buffers with it.
    Parameters that ``pooled`` does not depend on, such as the checkpoint's classifier, are never trained. It begins in
    eval mode.

    Args:
        network: of `featurebank.extract.backbones.trainable`, built with the outputs ``("pooled",)``.
        head: what the classifier begins with.
        batch_norm: whether batch norms that are not frozen learn their statistics.
        drop_path: the probability that the last block is left out for an image in training (stochastic depth, Huang
            et al. 2016, arXiv:1603.09382); it rises linearly from 0 at the first block.

    Attributes:
        notes: what a person should know: that an architecture has no place for ``drop_path``.

    Raises:
        ValueError: another number of features in the head, no parameter that gradients reach, a probability out of
            range, or ``drop_path`` where the layers are not known.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        head: Head,
        *,
        batch_norm: Literal["eval", "train"] = "eval",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        classes, width = head.weight.shape
        if width != network.dimension:
            raise ValueError(
                f"the head must be of {network.dimension} features, as {network.spec.name} gives; found {width}"
            )
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be a probability below 1; found {drop_path!r}")
        self.network, self.batch_norm = network, batch_norm
        self.head = nn.Linear(width, classes)
        self.head.load_state_dict({"weight": head.weight, "bias": head.bias})
        self._trained = _reached(network)
        for name, parameter in network.named_parameters():
            if name not in self._trained:  # NaN where the checkpoint lacked it, which no file of weights may hold
                parameter.detach().nan_to_num_()
        useless = drop_path and not _set_drop_path(network, drop_path)
        note = f"drop_path does nothing: {network.spec.name} has no place for it"
        self.notes: tuple[str, ...] = (note,) if useless else ()
        self.training = False
        self.freeze(0)

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised, to features (B, D)."""
        return self.network(images)["pooled"]  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised, to logits (B, K)."""
        return self.head(self.pooled(images))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> TunedNetwork:
        """Dropout, drop path and the like follow ``mode``; batch norms as the class says; frozen parts never."""
        self.training = mode
        self.head.train(mode)
        self._set_modes(self.network, mode)
        return self

    def freeze(self, blocks: int) -> None:
        """Fixes parameters and buffers of the stem and the first blocks, and frees all others.

        Args:
            blocks: how many, of the depths of `layer_groups`; 0 fixes nothing, -1 all but the classifier.

        Raises:
            ValueError: the network has fewer, or its layers are not known.
        """
        fixed: set[str] = set()
        if blocks > 0:
            groups = layer_groups(self.network)
            if blocks > len(groups) - 2:
                raise ValueError(
                    f"freeze must be at most {len(groups) - 2}, the blocks of {self.network.spec.name}, or -1 for all "
                    f"but the classifier; found {blocks}"
                )
            fixed = {name for group in groups[: blocks + 1] for name in group}
        elif blocks < ALL:
            raise ValueError(f"freeze must be a number of blocks, or -1 for all but the classifier; found {blocks}")
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(blocks != ALL and name in self._trained and name not in fixed)
        self.train(self.training)

    def save(self, folder: Path, spec: BackboneSpec, class_names: Sequence[str]) -> Path:
        """Writes the file of the backbone ``tuned:<name of the folder>``; see `save_tuned`."""
        return save_tuned(folder, self.state_dict(), spec, class_names)

    def _set_modes(self, module: nn.Module, mode: bool) -> None:
        parameters = list(module.parameters())
        mode = mode and (not parameters or any(parameter.requires_grad for parameter in parameters))
        fixed = isinstance(module, nn.modules.batchnorm._BatchNorm) and self.batch_norm == "eval"
        # In training these would give the outputs of further classifiers besides.
        module.training = mode and not fixed and not getattr(module, "aux_logits", False)
        for child in module.children():
            self._set_modes(child, mode)


def parameter_groups(
    model: TunedNetwork, *, rate: float, layer_decay: float, weight_decay: float, steps: float | None = None
) -> list[dict[str, Any]]:
    """The parameters that are trained, for an optimiser of torch: two groups a depth, each with its own rate.

    Biases, norms, tokens, position embeddings and what timm's ``no_weight_decay`` names take no weight decay. The
    classifier has the depth of the network's head. Frozen parameters are in no group and change no rate.

    Args:
        model: after `TunedNetwork.freeze`.
        rate: of the classifier.
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
    names[-1] += [f"head.{name}" for name, _ in model.head.named_parameters()]
    parameters, plain = dict(model.named_parameters()), _without_decay(model)
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


def folded_head(fit: LinearFit, classes: int) -> Head:
    """The classifier of a probe in the space of features as they are, its standardisation folded in.

    A class that the probe's training rows lack has a bias far below all logits: it is never predicted.

    Args:
        fit: whose ``classes`` are numbers below K.
        classes: K.

    Raises:
        ValueError: the fit has a class that is not among the K.
    """
    if fit.classes.max() >= classes:
        raise ValueError(f"a probe's classes must be below {classes}; found {fit.classes.max()}; give all class names")
    model = fit.model
    W, b = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if hasattr(model, "variance_"):
        from featurebank.probes._training import EPS

        W = W / np.sqrt(np.asarray(model.variance_, np.float64) + EPS)
        b = b - W @ np.asarray(model.mean_, np.float64)
    if len(W) == 1:  # of two classes, the second less the first
        W, b = np.concatenate([-W, W]) / 2, np.concatenate([-b, b]) / 2
    weight, bias = torch.zeros(classes, W.shape[1]), torch.full((classes,), ABSENT)
    at = torch.from_numpy(fit.classes)
    weight[at], bias[at] = torch.from_numpy(W).float(), torch.from_numpy(b).float()
    return Head(weight, bias)


def random_head(dimension: int, classes: int, seed: int) -> Head:
    """Weights (K, D) by Glorot and Bengio's normal initialisation, biases of 0."""
    generator = torch.Generator().manual_seed(seed)
    return Head(nn.init.xavier_normal_(torch.empty(classes, dimension), generator=generator), torch.zeros(classes))


def interpolated(a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Weights between two networks: (1 - alpha) a + alpha b (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903).

    Args:
        a: state dict at alpha = 0: the frozen backbone with the probe as its head.
        b: state dict at alpha = 1, of the same names and shapes; what is not of floats is taken from it.
        alpha: 0 to 1.

    Raises:
        ValueError: names or shapes differ, or alpha is out of range.

    >>> interpolated({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}, 0.25)
    {'w': tensor([1.])}
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1; found {alpha!r}")
    differing = sorted(name for name in a.keys() | b.keys() if a.get(name, _NONE).shape != b.get(name, _NONE).shape)
    if differing:
        raise ValueError(
            f"state dicts must have the same tensors; {len(differing)} differ, such as {', '.join(differing[:3])}; "
            "give two of one network"
        )
    return {
        name: (1 - alpha) * a[name] + alpha * value if value.is_floating_point() else value.clone()
        for name, value in b.items()
    }


_NONE = torch.empty(0, 0, 0, 0, 0, 0, 0, 0)


def _reached(network: FrozenNetwork) -> frozenset[str]:
    """The names of the parameters that ``pooled`` depends on by operations that have gradients."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    for parameter in names:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        pooled = network(probe(network.spec, network))["pooled"]
    found = frozenset(names[leaf] for leaf in _leaves(pooled) if leaf in names)
    if not found:
        raise ValueError(
            f"{network.spec.name}: gradients must reach its parameters; found none that pooled depends on: a graph "
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


def _without_decay(model: TunedNetwork) -> set[str]:
    named: set[str] = set()
    for prefix, module in model.network.named_modules():
        if hasattr(module, "no_weight_decay"):
            named |= {f"network.{prefix}.{name}" for name in module.no_weight_decay()}
    return named | {
        name for name, parameter in model.named_parameters() if parameter.ndim <= 1 or _NO_DECAY.search(name)
    }
