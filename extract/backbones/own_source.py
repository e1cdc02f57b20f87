"""Backbones of one's own: ``python:package.module:function``, ``python:FILE.py:function``, or an entry point.

The function takes nothing and gives an `OwnBackbone`; the group of entry points is ``featurebank.backbones``. The key
of its features holds the digests of its weights and of its source, so that changed code never meets old features.

Shapes: B batch, D dimension of a feature.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featurebank.extract.backbones.checkpoint import state_dict_of
from featurebank.extract.backbones.checkpoint_fitting import load_fitting
from featurebank.extract.backbones.contract import BackboneSpec, Network
from featurebank.extract.backbones.naming import checked_outputs, given_weights, random_seed, split_random
from featurebank.extract.errors import WeightsError
from featurebank.extract.own_code import in_file, own_object
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.errors import UnknownNameError, unknown_name
from featurebank.store.places import expanded

if TYPE_CHECKING:
    from torch import nn

__all__ = ["GROUP", "OwnBackbone", "OwnSource", "entry_points"]

GROUP = "featurebank.backbones"


@dataclass(frozen=True, kw_only=True)
class OwnBackbone:
    """A network of one's own.

    Attributes:
        build: gives the module at its random initialisation. Its forward takes (B, 3, H, W) and returns ``pooled``
            (B, D), or a dict of outputs by name, ``pooled`` among them.
        preprocessing: what the weights expect.
        weights: the file of the module's state dict, loaded strictly; ``None`` where there is none, so that the
            backbone exists only as ``…@random``.
        outputs: what is stored unless something else is asked for.
    """

    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    weights: Path | None = None
    outputs: tuple[str, ...] = ("pooled",)


class OwnSource:
    """Backbones of one's own; see `Backbone` for what the methods promise."""

    prefix = "python:"

    def names(self) -> Sequence[str]:
        """The entry points of installed packages."""
        return sorted(entry_points())

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`."""
        base, seed = split_random(name)
        place = self._place(base)
        own, source = _record(name, place)
        code = None
        if in_file(place):
            path, _, function = place.rpartition(":")
            code = expanded(path).absolute()
            place = f"{code.name}:{function}"
            name = f"{self.prefix}{place}{name[len(base) :]}"
        weights = given_weights(name, seed, checkpoint if checkpoint or seed is not None else own.weights)
        if weights is None:
            raise WeightsError(
                f"{name}: expected weights=FILE in the record that {place} gives, or checkpoint=; without weights the "
                f"backbone exists only as '{base}@random'"
            )
        return BackboneSpec(
            name=name,
            source="python",
            architecture=place,
            weights=weights,
            preprocessing=own.preprocessing,
            outputs=checked_outputs(name, outputs, own.outputs),
            adapter=f"source {source}",
            code=code,
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        from featurebank.extract.backbones.network import seeded
        from featurebank.extract.backbones.own_network import OwnNetwork

        place = spec.architecture if spec.code is None else str(spec.code.with_name(spec.architecture))
        own, source = _record(spec.name, place)
        if f"source {source}" != spec.adapter:
            raise WeightsError(
                f"{spec.name}: the source of {spec.architecture} has changed; resolve the backbone again"
            )
        with seeded(random_seed(spec.weights) or 0):
            model = own.build()
        if random_seed(spec.weights) is None:
            what = f"{spec.name} from {spec.weights.path}"
            load_fitting(model, state_dict_of(spec.weights), what=what, outputs=spec.outputs, heads=())
        return OwnNetwork(spec, model)

    def describe(self, name: str) -> Mapping[str, object]:
        """Where its function is."""
        return {"origin": self._place(split_random(name)[0])}

    def _place(self, name: str) -> str:
        if name.startswith(self.prefix):
            return name.removeprefix(self.prefix)
        known = entry_points()
        if name not in known:
            raise unknown_name("backbone", name, known)
        return known[name]


def entry_points() -> dict[str, str]:
    """Name to ``package.module:function``, of all installed packages."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}


def _record(name: str, place: str) -> tuple[OwnBackbone, str]:
    """What the function gives, and the first 16 hex digits of the SHA-256 of its module's source."""
    try:
        function, module = own_object(place)
    except ImportError as error:
        raise UnknownNameError(f"{name}: {error}") from error
    own = function() if callable(function) else function
    if not isinstance(own, OwnBackbone):
        raise WeightsError(f"{name}: expected {place} to give an OwnBackbone, found {type(own).__name__}")
    code = Path(module.__file__).read_bytes() if module.__file__ else b""
    return own, hashlib.sha256(code).hexdigest()[:16]
