"""What a network costs on paper: its parameters, and its multiply-adds, counted on shapes alone.

Nothing is fetched and nothing is computed: a network of random weights on torch's meta device knows the shapes of all
that it would compute. There attention is made of matrix products, for which there are formulas; its kernels on a CPU
had none up to torch 2.13, and that of `torch.nn.MultiheadAttention` still has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from featurebank.extract.backbones import outline
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.errors import WeightsError

__all__ = ["Complexity", "complexity"]

FREE = frozenset({
    "_adaptive_avg_pool2d", "_native_batch_norm_legit_no_training", "_safe_softmax", "_softmax", "_to_copy",
    "_unsafe_view", "amax", "arange", "as_strided_", "avg_pool2d", "cat", "constant_pad_nd", "copy_", "empty",
    "embedding", "fill_", "flip", "full", "gather", "hardswish_", "hardtanh", "hardtanh_", "index", "index_select",
    "leaky_relu_", "linalg_vector_norm", "max", "max_pool2d_with_indices", "mean", "native_batch_norm",
    "native_group_norm", "native_layer_norm", "new_zeros", "ones", "repeat", "roll", "scalar_tensor", "stack", "sum",
    "var", "var_mean", "zero_", "zeros",
})  # fmt: skip
"""Operators that move, pool, add up or normalise values: by convention they count nothing, as pointwise ones do."""


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What one image costs.

    Attributes:
        parameters: as the literature counts them, classifier included where the network has one.
        macs: multiply-adds of convolutions, matrix products and attention for one image; each is two FLOPs.
        uncounted: how often an operator was called that may multiply and has no formula, by its name.
    """

    parameters: int
    macs: int
    uncounted: Mapping[str, int]


def complexity(spec: BackboneSpec) -> Complexity:
    """What one image of the size that a spec's preprocessing has costs in one pass of all its outputs.

    >>> from featurebank.extract.backbones import without_weights
    >>> found = complexity(without_weights("mobilenetv2"))
    >>> found.parameters, round(found.macs / 1e9, 4), found.uncounted
    (2206816, 0.2995, {})

    Raises:
        WeightsError: the network is none of torch's operators, so that they cannot be counted.
    """
    network = cast("Any", outline(spec))
    size = spec.preprocessing
    seen, counter = _Operators(), FlopCounterMode(display=False)
    try:
        with seen, counter, torch.no_grad():  # the outer mode sees what the inner one has taken apart
            network(torch.empty(1, 3, size.height, size.width, device="meta"))
    except NotImplementedError as error:
        raise WeightsError(
            f"{spec.name}: the operators of a network must be torch's to be counted; found one that needs numbers, "
            f"not shapes: {error}"
        ) from error
    return Complexity(
        parameters=sum(parameter.numel() for parameter in network.parameters_counted()),
        macs=counter.get_total_flops() // 2,
        uncounted=dict(seen.uncounted),
    )


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that may multiply and have no formula."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if not (func.overloadpacket in flop_registry or _is_free(func)):
            self.uncounted[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def _is_free(operator: Any) -> bool:
    namespace, _, name = str(operator.overloadpacket).partition(".")
    pointwise = torch.Tag.pointwise in operator.tags
    return pointwise or operator.is_view or namespace == "prim" or (namespace == "aten" and name in FREE)
