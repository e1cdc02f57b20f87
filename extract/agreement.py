"""What a lower precision costs a network, measured on images of the run, and what then stays in float32.

Two rounded numbers can differ by much or by little; which it is depends on the weights and on the images. The same
MobileNetV2 in bfloat16 has a cosine of .983 to its float32 features on photographs and of .799 on Fashion-MNIST. Nearly
all of it is lost in the first layers and in batch norms: few channels, and large scales.

Shapes: B batch, H, W the network's input, C = 3 channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featurebank.extract.datasets.contract import Split
from featurebank.extract.decode import decode
from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.transform import Transform

__all__ = ["STEPS", "Kept", "agreement", "lower", "sample"]

Kept = Literal["nothing", "beginning", "everything"]
"""What of a network stays in float32 when it runs in a lower precision."""

STEPS: tuple[Kept, ...] = ("nothing", "beginning")
"""What is tried, in this order, before everything stays in float32."""

IMAGES = 8
TRIED = 64
BEGINNING = 0.25
"""The share of the layers, in the order in which they run, that a float32 beginning has."""


def sample(split: Split, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """(B, H, W, C) uint8: up to eight images from all over a split, as a network takes them.

    Images that cannot be had are passed over; Pillow decodes, so that this needs no device.
    """
    transform, settings = Transform(preprocessing), replace(preprocessing.decode, library="pillow")
    found: list[NDArray[np.uint8]] = []
    for row in _spread(len(split)):
        try:
            found.append(transform(decode(split.read(row), settings)))
        except Exception:  # noqa: S112 - the run itself says what is wrong with an image
            continue
        if len(found) == IMAGES:
            break
    return np.stack(found) if found else np.zeros((0, preprocessing.height, preprocessing.width, 3), np.uint8)


def _spread(n: int) -> Iterator[int]:
    """Rows from first to last, and then some between them."""
    seen: set[int] = set()
    for count in (IMAGES, TRIED):
        for row in np.linspace(0, n - 1, min(n, count)).astype(int).tolist():
            if row not in seen:
                seen.add(row)
                yield row


def agreement(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> float:
    """The smallest cosine between the same rows of the same outputs; 0 where a value is not finite.

    >>> a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> agreement({"pooled": a}, {"pooled": a + torch.tensor([[0.0, 1.0], [0.0, 0.0]])})
    0.70711
    >>> agreement({"pooled": a}, {"pooled": a / 0})
    0.0
    """
    return min(_cosine(expected[name], found[name]) for name in expected)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.flatten(1).double(), b.flatten(1).double()
    same = (a == b).all(dim=1)  # also where both are zero and have no direction
    cosine = torch.where(same, 1.0, nn.functional.cosine_similarity(a, b))
    smallest = float(cosine.min()) if bool(torch.isfinite(b).all()) else 0.0
    return round(smallest, 5) if math.isfinite(smallest) else 0.0


def lower(network: nn.Module, dtype: torch.dtype, kept: Kept, images: torch.Tensor) -> None:
    """Puts a float32 network into a lower precision, in place, but for what is kept.

    With a float32 beginning every layer takes its input in the precision of its own weights, and batch norms keep
    float32 weights throughout: their kernels take other inputs as they are.

    Args:
        network: in float32.
        dtype: the lower precision.
        kept: what stays as it is.
        images: (1, C, H, W) float32 of any content, sent through to learn the order of the layers.
    """
    if kept == "nothing":
        network.to(dtype)
    if kept != "beginning":
        return
    order = _order(network, images)
    layers = [module for module in order if _owns_values(module)]
    beginning = set(layers[: max(1, round(BEGINNING * len(layers)))])
    for module, owner in _owners(network, set(order)):
        if not _owns_values(module):
            continue
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if owner not in beginning and not norm:
            module._apply(lambda t: t.to(dtype) if t.is_floating_point() else t, recurse=False)  # type: ignore[no-untyped-call]
        if module is owner and not (norm and owner not in beginning):
            module.register_forward_pre_hook(_take_own_precision)


def _order(network: nn.Module, images: torch.Tensor) -> list[nn.Module]:
    """The modules that are called, in the order of their first calls."""
    order: dict[nn.Module, None] = {}
    hooks = [m.register_forward_pre_hook(lambda module, _: order.setdefault(module)) for m in network.modules()]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return list(order)


def _owners(network: nn.Module, called: set[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each module with the one that uses its weights: itself, or around it the nearest that is called."""
    waiting = [(network, network)]
    while waiting:
        module, around = waiting.pop()
        owner = module if module in called else around
        yield module, owner
        waiting += [(child, owner) for child in module.children()]


def _owns_values(module: nn.Module) -> bool:
    return any(t.is_floating_point() for t in _values(module))


def _values(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _take_own_precision(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    own = next((t.dtype for t in _values(module) if t.is_floating_point()), None)
    return tuple(
        x.to(own) if own is not None and isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs
    )
