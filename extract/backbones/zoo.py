"""The zoo: one table of backbones by short name, ``zoo.csv``, and what a built network is checked against.

A row names the backbone (with the short names under which papers and older code know it), the reference that resolves
it, and what its weights are and expect. Whatever of it can be seen in a network is asserted when the network is built.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from featurebank.extract.backbones.naming import split_random
from featurebank.extract.backbones.views import split_view
from featurebank.extract.errors import WeightsError
from featurebank.extract.preprocessing import Interpolation, Preprocessing, ResizeMode

if TYPE_CHECKING:
    from torch import nn

    from featurebank.extract.backbones.contract import BackboneSpec, Network

__all__ = ["ZooEntry", "check", "entries", "facts", "find", "heads_of", "names"]

_GEOMETRY = ("resize", "height", "width", "resize_height", "resize_width", "fill")


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """One row of the table.

    Attributes:
        name: the short name, which is also what the store's folder is called.
        aliases: other names that mean the same checkpoint.
        reference: what resolves it: ``timm:…``, ``torchvision:…``, ``hub:…`` …
        checkpoint: where the weights are published: a repository of the hub, or an address.
        sha256: the digest the file must have, or its first digits; ``""`` where none is published.
        architecture: how the source builds the network.
        keys: which tensors of the file are the network's (`featurebank.extract.backbones.keys`); ``*`` for all.
        heads: numbers of attention heads in order, runs of equal ones once (``"3/6/12/24"``); ``""`` without attention.
        style: ``supervised``, ``self-supervised``, ``vision-language``, ``generative``, ``depth``, ``segmentation``.
        method: how it was trained, in a word or two.
        data: what it was trained on.
        preprocessing: what the weights expect.
        pooling: how ``pooled`` comes about.
        dimension: of ``pooled``.
        parameters: of the network as built, classifier included.
        licence: of the weights.
        paper: arXiv number.
    """

    name: str
    aliases: tuple[str, ...]
    reference: str
    checkpoint: str
    sha256: str
    architecture: str
    keys: str
    heads: str
    style: str
    method: str
    data: str
    preprocessing: Preprocessing
    pooling: str
    dimension: int
    parameters: int
    licence: str
    paper: str

    @property
    def source(self) -> str:
        """The kind of source, such as ``timm`` or ``hub``."""
        return self.reference.partition(":")[0]


@functools.cache
def entries() -> Mapping[str, ZooEntry]:
    """All rows by short name, in the table's order.

    >>> entries()["mocov3_vit_small"].heads
    '12'
    """
    text = (importlib.resources.files("featurebank.extract.backbones") / "zoo.csv").read_text("utf-8")
    return {row["name"]: _entry(row) for row in csv.DictReader(text.splitlines())}


def find(name: str) -> ZooEntry | None:
    """The row of a short name, one of its aliases or its reference, without ``@random``; ``None`` for other names.

    >>> find("convnext_base_in22ft1k").reference
    'timm:convnext_base.fb_in22k_ft_in1k'
    """
    return _index().get(name)


def names() -> list[str]:
    """Every short name and alias."""
    return [name for name, entry in _index().items() if name != entry.reference]


@functools.cache
def _index() -> dict[str, ZooEntry]:
    return {name: entry for entry in entries().values() for name in (entry.name, *entry.aliases, entry.reference)}


def facts(entry: ZooEntry) -> Mapping[str, object]:
    """A row without its preprocessing, for people; only what is known."""
    return {key: value for key, value in vars(entry).items() if value and key not in {"preprocessing", "name"}}


def check(spec: BackboneSpec, network: Network) -> None:
    """Compares a network with its row: heads, dimension, parameters, preprocessing. Other networks pass.

    At another input size position embeddings have another length, and windows have relative positions: parameters are
    not counted then. How images are
    decoded, and whether whole ones are laid onto a canvas (``longer``), is a matter of the run, not of the weights.

    Raises:
        WeightsError: it is not the network of the row; what differs is named.
    """
    name, view = split_view(spec.name)
    entry = find(split_random(name)[0])
    if entry is None:
        return
    kept = ("decode", *(_GEOMETRY if spec.preprocessing.resize == "longer" else ()))
    own: dict[str, Any] = {name: getattr(spec.preprocessing, name) for name in kept}
    entry = replace(entry, preprocessing=replace(view.preprocessing(entry.preprocessing), **own))
    module = cast("Any", network)
    found = {
        "heads": heads_of(module),
        "dimension": module.dimension,
        "parameters": sum(parameter.numel() for parameter in module.parameters_counted())
        if view.px is None and not view.windowed
        else entry.parameters,
        "preprocessing": spec.preprocessing,
    }
    lines = [
        f"{key}: expected {getattr(entry, key)!r}, found {value!r}"
        for key, value in found.items()
        if value != getattr(entry, key)
    ]
    if lines:
        raise WeightsError(
            f"{spec.name} ({entry.reference}) is not the network its row in the zoo describes; "
            f"{'; '.join(lines)}: the library that builds it has changed, install the version in constraints.txt"
        )


def heads_of(module: nn.Module) -> str:
    """Numbers of attention heads of a module's parts in order, runs of equal ones once.

    >>> from torch import nn
    >>> heads_of(nn.Sequential(nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 4)))
    '2/4'
    """
    counts = [part.num_heads for part in module.modules() if isinstance(getattr(part, "num_heads", None), int)]
    return "/".join(str(n) for i, n in enumerate(counts) if i == 0 or n != counts[i - 1])


def _entry(row: Mapping[str, str]) -> ZooEntry:
    given: dict[str, Any] = dict(row)
    given["aliases"] = tuple(row["aliases"].split())
    for key in ("dimension", "parameters"):
        given[key] = int(row[key])
    given["preprocessing"] = _preprocessing(
        *(given.pop(key) for key in ("px", "mean", "std", "interpolation", "resize"))
    )
    return ZooEntry(**given)


def _preprocessing(px: str, mean: str, std: str, interpolation: str, resize: str) -> Preprocessing:
    """``224``, three numbers each, ``bicubic``, ``shorter 256`` as a record."""
    mode, _, side = resize.partition(" ")
    means, stds = (tuple(float(value) for value in text.split()) for text in (mean, std))
    return Preprocessing(
        height=int(px),
        width=int(px),
        resize=cast("ResizeMode", mode),
        resize_height=int(side),
        resize_width=int(side),
        interpolation=cast("Interpolation", interpolation),
        mean=cast("tuple[float, float, float]", means),
        std=cast("tuple[float, float, float]", stds),
    )
