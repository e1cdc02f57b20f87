"""Configurations that come with a checkpoint: data, never a loader.

The libraries that read them follow whatever they name: code beside the weights (``auto_map``), kernels of a hub
(``attn_implementation``), weights of another repository (``backbone``), or a file by its path. None of it reaches them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.opening import open_regular

__all__ = ["plain_configuration", "read_configuration", "transformers_class"]

DROPPED: Final = frozenset({"auto_map", "custom_pipelines", "attn_implementation", "experts_implementation"})
"""What says how to run or find code, and nothing of the network; and all that begins with an underscore."""
REFUSED: Final = frozenset(
    {"backbone", "checkpoint_path", "fusion_config", "quantization_config", "transformers_weights"}
)
"""What makes the numbers depend on something else than the configuration and the weights beside it."""
WRAPPERS: Final = frozenset({"timm_backbone", "timm_wrapper"})
MAX_BYTES: Final = 1 << 20
MAX_LEVELS: Final = 16


def read_configuration(path: Path, expected: str = "a file that transformers or diffusers saves") -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        expected: what it should be, for messages.

    Raises:
        AssetError: the file cannot be read, has more than a megabyte or holds something else.
    """
    try:
        with open_regular(path) as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"{path}: expected {expected}; found: {error}") from error
    if not isinstance(content, dict):
        raise AssetError(f"{path}: expected {expected}; found a {type(content).__name__}, no object")
    return content


def plain_configuration(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of transformers or diffusers without what a library would follow out of it.

    Args:
        name: the backbone, for messages.
        content: of the file.

    Raises:
        WeightsError: the numbers would depend on what it points to.

    >>> plain_configuration("hf:vit", {"model_type": "vit", "auto_map": {"AutoModel": "evil.Model"}, "_name": "x"})
    {'model_type': 'vit'}
    """
    return _plain(name, content, MAX_LEVELS)


def _plain(name: str, content: Mapping[str, Any], levels: int) -> dict[str, Any]:
    if not levels:
        raise WeightsError(f"{name}: expected a configuration of at most {MAX_LEVELS} levels")
    for key in sorted(content.keys() & REFUSED):
        if content[key] is not None:
            raise WeightsError(f"{name}: expected a configuration that names nothing outside its folder, found {key!r}")
    if content.get("model_type") in WRAPPERS:
        raise WeightsError(f"{name}: expected a network of transformers' own, found one of timm; use timm:NAME for it")
    kept = {key: value for key, value in content.items() if key not in DROPPED and not key.startswith("_")}
    return {
        key: _plain(name, value, levels - 1) if isinstance(value, Mapping) else value for key, value in kept.items()
    }


def transformers_class(name: str, content: Mapping[str, Any]) -> Any:
    """The class of transformers that a configuration names under ``architectures``.

    Only a network is one whose own configuration is of the ``model_type`` in the file: no loader such as ``AutoModel``,
    which would look for code in the folder, and nothing else that the library happens to hold under that name.

    Raises:
        WeightsError: it names no such class.
    """
    import transformers

    named = content.get("architectures")
    wanted = named[0] if isinstance(named, list) and named else None
    try:
        found = getattr(transformers, wanted, None) if isinstance(wanted, str) else None
    except Exception:  # Its modules are imported when they are asked for, with whatever they need.
        found = None
    kind = content.get("model_type")
    if (
        not isinstance(found, type)
        or not issubclass(found, transformers.PreTrainedModel)
        or getattr(found.config_class, "model_type", None) != kind
        or not kind
    ):
        raise WeightsError(
            f"{name}: expected a network of transformers with model type {kind!r} under 'architectures', "
            f"found {wanted!r}"
        )
    return found
