"""Names of backbones: ``<source prefix><name>[@random[:<seed>]][@<pixels>px][@windowed][@flip]``; see `views`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from featurebank.extract.assets import sha256_of
from featurebank.extract.backbones.contract import Weights
from featurebank.extract.backbones.views import split_view
from featurebank.extract.errors import WeightsError
from featurebank.extract.own_code import in_file
from featurebank.store.addresses import without_secrets
from featurebank.store.errors import UnknownNameError
from featurebank.store.places import expanded

__all__ = [
    "at_random",
    "checked_outputs",
    "given_weights",
    "is_path",
    "random_seed",
    "rooted",
    "split_random",
    "unrooted",
    "without_cuts",
]

_RANDOM = re.compile(r"@random(?::(?P<seed>\d+))?")
_OUTPUT = re.compile(r"[a-z][a-z0-9_]*(\.(0|[1-9]\d*)\.[a-z][a-z0-9_]*)?|cut\.[1-9]\d*")


def split_random(name: str) -> tuple[str, int | None]:
    """A name without its ``@random`` suffix, and the seed the suffix asks for.

    >>> split_random("mobilenetv2@random:7"), split_random("timm:resnet18@random"), split_random("mobilenetv2")
    (('mobilenetv2', 7), ('timm:resnet18', 0), ('mobilenetv2', None))

    Raises:
        UnknownNameError: there is another suffix.
    """
    base, at, _ = name.partition("@")
    if not at:
        return name, None
    if name.startswith("url:"):
        # An address may have a user before its host.
        base, at, suffix = name.rpartition("@")
        if not suffix.startswith("random"):
            return name, None
    match = _RANDOM.fullmatch(name, len(base))
    if match is None:
        raise UnknownNameError(
            f"unknown backbone {without_secrets(name)!r}; what follows '@' must be 'random' or 'random:<seed>', then "
            f"'<pixels>px', then 'windowed', then 'flip', as in '{without_secrets(base)}@random:0@96px@flip'"
        )
    return base, int(match["seed"] or 0)


def at_random(name: str) -> str:
    """The name of the same architecture, in the same view, at its random initialisation.

    >>> at_random("mobilenetv2"), at_random("timm:resnet18@random:7@96px")
    ('mobilenetv2@random', 'timm:resnet18@random@96px')

    Raises:
        UnknownNameError: there is another suffix.
    """
    name, view = split_view(name)
    return f"{split_random(name)[0]}@random{view}"


def is_path(place: str) -> bool:
    """Whether what may be a path or a name begins as only paths do, or has a folder in it.

    >>> is_path("runs/first"), is_path("~first"), is_path("first")
    (True, True, False)
    """
    return place.startswith((".", "~", "$")) or "/" in place


def rooted(name: str, folder: Path) -> str:
    """A name whose relative path, if it is one of a path, is taken from a folder.

    What ``diffusers:`` names is a repository, unless it begins as only paths do; what ``python:`` names is a module,
    unless it is a file.

    >>> rooted("onnx:net.onnx", Path("/data")), rooted("resnet50", Path("/data"))
    ('onnx:/data/net.onnx', 'resnet50')
    >>> rooted("python:nets.py:tiny", Path("/data")), rooted("python:nets:tiny", Path("/data"))
    ('python:/data/nets.py:tiny', 'python:nets:tiny')
    >>> rooted("diffusers:./tiny", Path("/data")), rooted("diffusers:CompVis/stable-diffusion-v1-4", Path("/data"))
    ('diffusers:/data/tiny', 'diffusers:CompVis/stable-diffusion-v1-4')
    >>> rooted("tuned:runs/pets", Path("/data")), rooted("tuned:pets", Path("/data"))
    ('tuned:/data/runs/pets', 'tuned:pets')
    """
    prefix, _, path = name.partition(":")
    return f"{prefix}:{folder / expanded(path)}" if _is_placed(prefix, path) else name


def unrooted(name: str) -> str:
    """A name as keys and stores have it: without the folders of a path.

    >>> unrooted("tuned:/data/runs/pets@flip"), unrooted("diffusers:/data/tiny?px=64"), unrooted("onnx:/data/net.onnx")
    ('tuned:pets@flip', 'diffusers:tiny?px=64', 'onnx:net.onnx')
    >>> unrooted("diffusers:CompVis/stable-diffusion-v1-4"), unrooted("python:/data/nets.py:tiny")
    ('diffusers:CompVis/stable-diffusion-v1-4', 'python:nets.py:tiny')
    """
    prefix, _, path = name.partition(":")
    if not _is_placed(prefix, path):
        return name
    place, mark, options = path.partition("?")
    return f"{prefix}:{Path(place).name}{mark}{options}"


def _is_placed(prefix: str, path: str) -> bool:
    return (
        prefix in {"hf", "onnx"}
        or (prefix == "diffusers" and path.startswith((".", "/", "~", "$")))
        or (prefix == "python" and in_file(path))
        or (prefix == "tuned" and is_path(path))
    )


def random_seed(weights: Weights) -> int | None:
    """The seed of random weights, ``None`` for those of a checkpoint.

    >>> random_seed(Weights(sha256="random:7"))
    7
    """
    kind, _, seed = weights.sha256.partition(":")
    return int(seed) if kind == "random" else None


def given_weights(name: str, seed: int | None, checkpoint: Path | None) -> Weights | None:
    """The weights a user asked for himself: a random initialisation or a local file; ``None`` for the source's own.

    Raises:
        WeightsError: both were asked for.
        AssetError: the checkpoint cannot be read.
    """
    if seed is not None and checkpoint is not None:
        raise WeightsError(f"{name}: expected random weights or a checkpoint, found both ({checkpoint}); drop one")
    if seed is not None:
        return Weights(sha256=f"random:{seed}", origin=f"random initialisation, seed {seed}")
    if checkpoint is None:
        return None
    path = expanded(checkpoint).absolute()
    return Weights(sha256=sha256_of(path), path=path, origin=path.name)


def checked_outputs(name: str, outputs: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """The outputs asked for, as a spec holds them; whether the network has them shows when it is built.

    >>> checked_outputs("mobilenetv2", ["pooled", "stages.3.mean"], ("pooled",))
    ('pooled', 'stages.3.mean')

    Raises:
        UnknownNameError: none, or one twice, or one that no network can have.
    """
    if outputs is None:
        return default
    chosen = tuple(outputs)
    if isinstance(outputs, str) or not chosen or len(set(chosen)) != len(chosen):
        raise UnknownNameError(f"{name}: outputs must be a list of distinct names, at least one, got {outputs!r}")
    for output in chosen:
        if not _OUTPUT.fullmatch(output):
            raise UnknownNameError(
                f"{name}: unknown output {output!r}; expected a name such as 'pooled', 'logits', 'blocks.9.cls' or "
                "'cut.9'"
            )
    return chosen


def without_cuts(outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Outputs that a source knows: without ``cut.K``, which `cuts` takes from any network, but at least one.

    >>> without_cuts(("cut.6", "pooled", "logits")), without_cuts(("cut.6",))
    (('pooled', 'logits'), ('pooled',))
    """
    return tuple(output for output in outputs if not output.startswith("cut.")) or ("pooled",)
