"""``onnx:FILE``: any network as ONNX, run by onnxruntime.

Beside ``net.onnx`` lies ``net.json`` with what its weights expect, the fields of `Preprocessing`: a wrong guess would
give plausible, worse features, so none is made.

Shapes: B batch, D dimension of a feature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from featurebank.extract.backbones.checkpoint import read
from featurebank.extract.backbones.configurations import read_configuration
from featurebank.extract.backbones.contract import BackboneSpec, Network
from featurebank.extract.backbones.naming import checked_outputs, given_weights, split_random
from featurebank.extract.errors import WeightsError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.places import expanded

__all__ = ["OnnxSource", "read_preprocessing"]

_PLAIN = sorted(field.name for field in fields(Preprocessing) if field.name != "decode")


class OnnxSource:
    """ONNX files; see `Backbone` for what the methods promise.

    Outputs are those of the graph, by their names; the first of two dimensions is ``pooled`` if none is called so.
    """

    prefix = "onnx:"

    def names(self) -> Sequence[str]:
        """None: they are files."""
        return []

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`."""
        base, seed = split_random(name)
        if seed is not None:
            raise WeightsError(
                f"{name}: an ONNX file has its weights in it, a random initialisation of it does not exist"
            )
        path = expanded(base.removeprefix(self.prefix)).absolute()
        weights = given_weights(name, None, checkpoint or path)
        assert weights is not None  # noqa: S101 - a checkpoint was given
        return BackboneSpec(
            name=f"{self.prefix}{path.name}",
            source="onnx",
            architecture="",
            weights=weights,
            preprocessing=read_preprocessing(path.with_suffix(".json")),
            outputs=checked_outputs(name, outputs, ("pooled",)),
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        from featurebank.extract.backbones.onnx_network import OnnxNetwork

        return OnnxNetwork(spec, read(spec.weights))

    def describe(self, name: str) -> Mapping[str, object]:
        """Nothing is known about a file."""
        del name
        return {}


def read_preprocessing(path: Path) -> Preprocessing:
    """A record from a JSON file with its fields by name; lists become tuples.

    Raises:
        AssetError: the file cannot be read, or is no JSON.
        WeightsError: fields are missing or unknown.
    """
    expected = f"a JSON file that says what the weights expect, with {', '.join(_PLAIN)}"
    content = read_configuration(path, expected)
    if unknown := sorted(content.keys() - set(_PLAIN)):
        raise WeightsError(f"{path}: expected only {', '.join(_PLAIN)}, found {', '.join(unknown)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    try:
        return Preprocessing(**values)
    except TypeError as error:
        missing = re.findall(r"'(\w+)'", str(error))
        raise WeightsError(f"{path}: expected also {', '.join(missing)}") from error
