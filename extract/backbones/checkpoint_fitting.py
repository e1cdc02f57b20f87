"""Checkpoints of one's own: what surrounds the architecture's tensors is taken off, where there is one way to do so."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from featurebank.extract.backbones.checkpoint import differences, load_strictly
from featurebank.extract.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["classifier_of", "load_fitting"]

log = logging.getLogger("featurebank")

WORDS: Final = ("module", "_orig_mod", "model", "backbone", "encoder", "teacher")
"""What wrappers, compilers and trainers put before a network's names."""
HEADS: Final = re.compile(
    r"(\w+_)?(head|fc|classifier|classif|linear|logits|projector|projection|predictor|prototypes)s?(_?dist)?\d*"
)
"""What heads are called; a tensor of another name may be of a larger network, and is never left out."""

Tensors = Mapping[str, "torch.Tensor"]
Convert = Callable[[Tensors], Tensors]


def classifier_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the modules that make logits of ``pooled`` in a model of timm, none where it does not say."""
    cfg = getattr(model, "pretrained_cfg", None)
    named = cfg.get("classifier") if isinstance(cfg, Mapping) else None
    return (named,) if isinstance(named, str) else tuple(named or ())


def load_fitting(
    module: nn.Module,
    tensors: Tensors,
    *,
    what: str,
    outputs: Sequence[str],
    heads: Sequence[str],
    convert: Convert | None = None,
) -> None:
    """Puts tensors into a module, without the prefixes and, where no logits are asked for, the head of the checkpoint.

    Everything else must match exactly, as in `load_strictly`. A head that the checkpoint does not have becomes NaN, so
    that no number can come of it unnoticed.

    Args:
        module: the architecture.
        tensors: the checkpoint's tensors by name.
        what: how the architecture and the checkpoint are called in the error.
        outputs: what the network shall give.
        heads: names of the modules that ``logits`` alone need.
        convert: renames the tensors of another layout; may raise WeightsError.

    Raises:
        WeightsError: they do not fit, or under several prefixes; or values are not finite.
    """
    optional = () if "logits" in outputs else tuple(heads)
    found = {}
    for prefix in _prefixes(tensors):
        fitted = _fitted(module, _under(tensors, prefix), optional, convert)
        if fitted is not None:
            found[prefix] = fitted
            if not prefix:
                break
    if len(found) > 1:
        raise WeightsError(
            f"{what}: the checkpoint must hold the architecture's tensors once, found them under "
            f"{', '.join(map(repr, found))}; choose with checkpoint_key: {next(iter(found))}"
        )
    if not found:
        _refuse(module, tensors, what, heads, convert)
    prefix, fitted = next(iter(found.items()))
    missing = [name for name in optional if not any(_belongs(key, (name,)) for key in fitted)]
    if missing:
        _spoil(module, missing)
        log.info("%s: loaded without its head %s, which no output asked for needs", what, ", ".join(missing))
    load_strictly(module, fitted, what=what, without=missing)


def _prefixes(tensors: Tensors) -> list[str]:
    """Every chain of the words that some name begins with, the empty one first."""
    found = {"": None}
    for name in tensors:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if parts[depth - 1] not in WORDS:
                break
            found[".".join(parts[:depth]) + "."] = None
    return list(found)


def _under(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _fitted(module: nn.Module, tensors: Tensors, optional: Sequence[str], convert: Convert | None) -> Tensors | None:
    """The tensors as the architecture names them, without a head that does not fit; ``None`` where they do not."""
    for candidate in _candidates(tensors, convert):
        if not differences(module, candidate):
            return candidate
    if not optional:
        return None
    for candidate in _candidates(_body(module, tensors, optional), convert):
        body = _body(module, candidate, optional)
        if not differences(module, body, without=optional):
            return body
    return None


def _candidates(tensors: Tensors, convert: Convert | None) -> Iterator[Tensors]:
    yield tensors
    if convert is not None:
        try:
            yield convert(tensors)
        except WeightsError:
            return


def _body(module: nn.Module, tensors: Tensors, heads: Sequence[str]) -> Tensors:
    kept = {name.partition(".")[0] for name in module.state_dict() if not _belongs(name, heads)}

    def is_head(name: str) -> bool:
        first = name.partition(".")[0]
        return _belongs(name, heads) or (first not in kept and HEADS.fullmatch(first) is not None)

    return {name: value for name, value in tensors.items() if not is_head(name)}


def _belongs(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _spoil(module: nn.Module, heads: Sequence[str]) -> None:
    import torch

    with torch.no_grad():
        for name, value in module.state_dict().items():
            if _belongs(name, heads) and value.is_floating_point():
                value.fill_(torch.nan)


def _refuse(module: nn.Module, tensors: Tensors, what: str, heads: Sequence[str], convert: Convert | None) -> None:
    """Says what differs under the prefix that comes nearest.

    Raises:
        WeightsError: always.
    """
    nearest = min(
        (_under(tensors, prefix) for prefix in _prefixes(tensors)), key=lambda some: len(differences(module, some))
    )
    if heads and _fitted(module, nearest, heads, convert) is not None:
        what = f"{what}, which has another head or none: ask for outputs without logits, such as [pooled]"
    elif convert is not None:
        nearest = convert(nearest)
    load_strictly(module, nearest, what=what)
