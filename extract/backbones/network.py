"""The frozen network every source builds on, and the outputs of timm's architectures in one pass.

Shapes: B batch, H, W input size, h, w size of a feature map, C its channels, T tokens, P prefix tokens, D dimension of
a feature, K classes.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec, Head
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FrozenNetwork", "Kept", "TimmNetwork", "linear_head", "probe", "seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from a seed inside, and the caller's own sequence untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class FrozenNetwork(nn.Module):
    """A network that stays in eval mode and takes no gradients; subclasses give ``forward`` and ``available``.

    Args:
        spec: what the network was built from.
        backbone: the module that holds all weights.
    """

    spec: BackboneSpec
    dimension: int
    """Of ``pooled``; subclasses learn it from a forward pass when they are built."""
    compiles: bool = True
    """Whether ``torch.compile`` may be tried on it."""

    def __init__(self, spec: BackboneSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.dimension = 0
        self.backbone = backbone.eval().requires_grad_(False)
        self._head: Head | None = None
        super().train(False)

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Does nothing: a backbone is frozen, its batch norms must never see training mode."""
        del mode
        return self

    def head(self) -> Head | None:
        """The linear classifier as loaded, float32 on the CPU; ``None`` where logits are not linear in pooled."""
        return self._head

    def available(self) -> list[str]:
        """Names of all outputs this network can give."""
        raise NotImplementedError

    def parameters_counted(self) -> Iterator[nn.Parameter]:
        """The parameters that the literature counts: without what outputs asked for by name need besides."""
        return self.parameters()

    def sparsity(self) -> float:
        """The share of exact zeros among the weights of layers (tensors of two and more dimensions)."""
        weights = [p for p in self.parameters() if p.ndim > 1]
        nonzero = sum(int(torch.count_nonzero(weight)) for weight in weights)
        return 1.0 - nonzero / max(1, sum(weight.numel() for weight in weights))

    def _require(self, outputs: Sequence[str]) -> None:
        known = self.available()
        for name in outputs:
            if name not in known:
                raise unknown_name("output", name, known, hint=f"({self.spec.name} has: {_folded(known)})")


def _folded(names: Sequence[str]) -> str:
    """``blocks.0.cls … blocks.11.cls`` as ``blocks.0-11.cls``."""
    levels: dict[tuple[str, str], list[int]] = {}
    plain = []
    for name in names:
        first, *rest = name.split(".", 2)
        if rest:
            levels.setdefault((first, "".join(f".{part}" for part in rest[1:])), []).append(int(rest[0]))
        else:
            plain.append(name)
    return ", ".join(plain + [f"{a}.{min(n)}-{max(n)}{b}" for (a, b), n in levels.items()])


class Kept:
    """What hooks keep of a pass, by name: of each thread apart, as lanes send their batches through one network."""

    def __init__(self) -> None:
        self._of_thread: dict[int, dict[str, torch.Tensor]] = {}

    @contextmanager
    def passing(self) -> Iterator[dict[str, torch.Tensor]]:
        """What is kept while it lasts."""
        kept = self._of_thread[threading.get_ident()] = {}
        try:
            yield kept
        finally:
            del self._of_thread[threading.get_ident()]

    def entering(self, name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """A hook before a module: the first that enters it."""
        del module
        kept = self._of_thread.get(threading.get_ident(), {})
        if name not in kept:
            kept[name] = arguments[0].clone()  # blocks may begin in place

    def leaving(self, name: str, module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        """A hook behind a module: what leaves it."""
        del module, arguments
        self._of_thread.get(threading.get_ident(), {})[name] = output


def probe(spec: BackboneSpec, module: nn.Module) -> torch.Tensor:
    """(1, 3, H, W) of fixed noise where a module lies, to learn shapes and check identities once, when it is built."""
    generator = torch.Generator("cpu").manual_seed(0)
    size = spec.preprocessing
    noise = torch.randn(1, 3, size.height, size.width, generator=generator, device="cpu")
    first = next(module.parameters(), None)
    return noise if first is None else noise.to(first.device)


def linear_head(classifier: object, pooled: torch.Tensor, logits: torch.Tensor) -> Head | None:
    """The classifier as a `Head`, if it is one linear layer and truly gives these logits from these features."""
    if not isinstance(classifier, nn.Linear) or pooled.ndim != 2 or pooled.shape[1] != classifier.in_features:
        return None
    weight = classifier.weight.detach().float().clone()
    bias = weight.new_zeros(len(weight)) if classifier.bias is None else classifier.bias.detach().float().clone()
    if logits.shape != (1, len(weight)):
        return None
    if not logits.is_meta:  # which has shapes only
        if not logits.isfinite().all():
            return None  # a head that was not loaded
        scale = float(logits.abs().max())
        if not torch.allclose(pooled @ weight.T + bias, logits, atol=1e-4 * scale):
            return None
    return Head(weight, bias)


class TimmNetwork(FrozenNetwork):
    """Any timm classification model, all outputs from one pass.

    ======================  =====================================================================================
    ``pooled``              (B, D) input of the classifier: ``forward_head(…, pre_logits=True)``
    ``logits``              (B, K) where the weights have a classifier (for CLIP weights: the joint embedding)
    ``cls``                 (B, D) class token of the final, normed sequence
    ``patch_mean``          (B, D) mean of the final patch tokens, or of the positions of the final feature map
    ``tokens``              (B, T, D) final patch tokens without prefix tokens, or positions, row by row
    ``features``            (B, C, h, w) final feature map, where the architecture has one
    ``blocks.N.cls``        (B, D) class token after block N, counted from 0, before the final norm; also
                            ``blocks.N.patch_mean`` and ``blocks.N.tokens``
    ``stages.N.mean``       (B, C) mean of feature level N (timm's ``feature_info``, 0 the finest) where levels are
                            not single blocks; also ``stages.N.features`` (B, C, h, w)
    ======================  =====================================================================================

    Args:
        spec: what to give; its preprocessing says how large images are.
        model: a timm model with its weights loaded.

    Raises:
        UnknownNameError: an output this architecture does not have.
    """

    def __init__(self, spec: BackboneSpec, model: nn.Module) -> None:
        super().__init__(spec, model)
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        with torch.no_grad():
            features = self._call("forward_features", probe(spec, model))
            self._final = _kind_of(features)
            self._prefix = _prefix_tokens(model) if self._final == "tokens" else 0
            self._has_patches = self._final == "map" or (self._final == "tokens" and features.shape[1] > self._prefix)
            self._levels, self._level_word, self._level_cls = _levels_of(model, self._prefix)
            pooled = self._call("forward_head", features, pre_logits=True)
            self.dimension = pooled.shape[1]
            if getattr(model, "num_classes", 0):
                logits = self._call("forward_head", features)
                self._head = linear_head(self._call("get_classifier"), pooled, logits)
            self._require(spec.outputs)
            wanted = {int(name.split(".")[1]) for name in spec.outputs if "." in name}
            # Some architectures stop after the last level asked for; the final features need them all.
            self._indices = sorted(wanted | {self._levels - 1}) if wanted else []

    def available(self) -> list[str]:
        """Names of all outputs this architecture has."""
        names = ["pooled"]
        if getattr(self.backbone, "num_classes", 0):
            names.append("logits")
        if self._final == "tokens" and _has_cls(self.backbone):
            names.append("cls")
        if self._has_patches:
            names += ["patch_mean", "tokens"]
        if self._final == "map":
            names.append("features")
        kinds = ["mean", "features"] if self._level_word == "stages" else ["patch_mean", "tokens"]
        if self._level_cls:
            kinds.insert(0, "cls")
        return names + [f"{self._level_word}.{level}.{kind}" for kind in kinds for level in range(self._levels)]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        levels: dict[int, Any] = {}
        if self._indices:
            extra = {"return_prefix_tokens": True} if self._level_cls else {}
            features, found = self._call(
                "forward_intermediates", images, indices=self._indices, norm=False, output_fmt="NCHW", **extra
            )
            levels = dict(zip(self._indices, found, strict=True))
        else:
            features = self._call("forward_features", images)
        pooled = None
        if "pooled" in self.spec.outputs or ("logits" in self.spec.outputs and self._head is not None):
            pooled = self._call("forward_head", features, pre_logits=True)
        return {name: self._output(name, features, pooled, levels) for name in self.spec.outputs}

    def _output(self, name: str, features: Any, pooled: torch.Tensor | None, levels: dict[int, Any]) -> torch.Tensor:
        if name == "pooled":
            assert pooled is not None  # noqa: S101 - computed because it was asked for
            return pooled
        if name == "logits":
            if pooled is not None and self._head is not None:
                logits: torch.Tensor = self._call("get_classifier")(pooled)
                return logits
            return self._call("forward_head", features)  # type: ignore[no-any-return]
        if "." not in name:
            return self._final_output(name, features)
        _, level, kind = name.split(".")
        found = levels[int(level)]
        map_, prefix = found if self._level_cls else (found, None)
        if kind == "cls":
            assert prefix is not None  # noqa: S101 - asked for together with it
            return prefix[:, 0]  # type: ignore[no-any-return]
        return _of_map(map_, {"mean": "patch_mean"}.get(kind, kind))

    def _final_output(self, name: str, features: torch.Tensor) -> torch.Tensor:
        if self._final == "map":
            return _of_map(features.permute(0, 3, 1, 2) if self._channels_last else features, name)
        if name == "cls":
            return features[:, 0]
        patches = features[:, self._prefix :]
        return patches if name == "tokens" else patches.mean(1)

    def _call(self, method: str, *args: Any, **options: Any) -> Any:
        return getattr(self.backbone, method)(*args, **options)


def _of_map(features: torch.Tensor, kind: str) -> torch.Tensor:
    """(B, C, h, w) as it is, as its positions (B, h·w, C), or as their mean (B, C)."""
    if kind == "features":
        return features
    return features.mean((2, 3)) if kind == "patch_mean" else features.flatten(2).transpose(1, 2)


def _kind_of(features: object) -> str:
    if not isinstance(features, torch.Tensor):
        return "other"
    return {3: "tokens", 4: "map"}.get(features.ndim, "other")


def _has_cls(model: nn.Module) -> bool:
    return isinstance(getattr(model, "cls_token", None), torch.Tensor)


def _prefix_tokens(model: nn.Module) -> int:
    declared = getattr(model, "num_prefix_tokens", None)
    return int(declared) if declared is not None else int(_has_cls(model))


def _levels_of(model: nn.Module, prefix: int) -> tuple[int, str, bool]:
    """How many intermediate levels there are, what they are called, and whether each has a class token."""
    forward = getattr(model, "forward_intermediates", None)
    info = getattr(model, "feature_info", None)
    if forward is None or not info:
        return 0, "stages", False
    options = inspect.signature(forward).parameters
    blocks = getattr(model, "blocks", None)
    one_each = isinstance(blocks, nn.Module) and len(list(blocks.children())) == len(info)
    word = "blocks" if one_each and len({level["reduction"] for level in info}) == 1 else "stages"
    with_cls = word == "blocks" and prefix > 0 and _has_cls(model) and "return_prefix_tokens" in options
    return len(info), word, with_cls
