"""``tuned:NAME`` and ``tuned:FOLDER``: networks that fine-tuning has made, and the file that they are kept in.

A folder holds ``weights.safetensors``: the tensors of the tuned network under ``network.`` and of its classifier under
``head.``, and one entry of metadata, a JSON object: which backbone it was made of, what images it expects, the names of
its classes. `TunedSource` looks for a plain NAME in the folder ``tuned`` of the store.

The base network is built from its name alone, at random, and filled with the file's tensors: a file names an
architecture, never code nor another file.

Shapes: D dimension of a feature, K classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints

from featurebank.extract.backbones import adapters, zoo
from featurebank.extract.backbones.checkpoint import decode, load_strictly, read
from featurebank.extract.backbones.checkpoint_limits import MAX_HEADER
from featurebank.extract.backbones.contract import BackboneSpec, Network
from featurebank.extract.backbones.naming import at_random, checked_outputs, given_weights, is_path
from featurebank.extract.backbones.packaged import ENTRIES, folded
from featurebank.extract.backbones.views import split_view
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.opening import open_regular
from featurebank.extract.preprocessing import Preprocessing
from featurebank.store.errors import UnknownNameError, unknown_name
from featurebank.store.filing import Filing
from featurebank.store.fingerprint import record
from featurebank.store.places import DEFAULT_STORE, STORE_VARIABLE, expanded
from featurebank.store.text import shown

if TYPE_CHECKING:
    import torch
    from torch import nn

    from featurebank.extract.backbones.network import FrozenNetwork

__all__ = ["FOLDER", "WEIGHTS", "TunedRecord", "TunedSource", "check_base", "read_tuned", "save_tuned"]

FOLDER: Final = "tuned"
"""In a store: where tuned networks lie by name."""
WEIGHTS: Final = "weights.safetensors"
VERSION: Final = 1
MAX_SIDE: Final = 8192
_KEY = "featurebank"
_REBUILT = frozenset({"timm", "torchvision", "open_clip", "diffusers", "hub", "url"})


@dataclass(frozen=True, kw_only=True)
class TunedRecord:
    """What a tuned network's file says of it.

    Attributes:
        base: the name of the backbone that was tuned.
        base_weights: the identity of the weights that it began with.
        preprocessing: what images it expects.
        class_names: (K,) of its logits, in order.
    """

    base: str
    base_weights: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...]


def save_tuned(
    folder: Path, tensors: Mapping[str, torch.Tensor], spec: BackboneSpec, class_names: Sequence[str]
) -> Path:
    """Writes a tuned network's file whole and synced: a reader sees the one before or this one.

    Args:
        folder: where; made if need be. Its name is that of the network.
        tensors: the state dict: ``network.…``, ``head.weight`` (K, D) and ``head.bias`` (K,).
        spec: of the backbone that was tuned.
        class_names: K of them.

    Returns:
        the file.

    Raises:
        ValueError: as many names as classes must be given, and were not.
        StoreError: the folder is a link.
        OSError: the disk is full, read-only, failing.
    """
    from safetensors.torch import save

    if len(class_names) != len(tensors["head.weight"]):
        raise ValueError(
            f"class_names must be one for each of {len(tensors['head.weight'])} logits; found {len(class_names)}"
        )
    about = {
        "version": VERSION,
        "base": spec.architecture if spec.source == "tuned" else spec.name,
        "base_weights": spec.weights.identity,
        "preprocessing": record(spec.preprocessing),
        "class_names": list(class_names),
    }
    # Copies: the format refuses tensors that share memory.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(copies, {_KEY: json.dumps(about)})
    Filing(folder.absolute().parent, folder.name).write(WEIGHTS, data=data)
    return folder / WEIGHTS


def read_tuned(path: Path) -> TunedRecord:
    """What the file of a tuned network says of it; no tensors are read.

    Raises:
        AssetError: it cannot be read.
        WeightsError: it is no such file, or damaged.
    """
    try:
        with open_regular(path) as file:
            begin = file.read(8)
            return _parsed(begin + file.read(min(int.from_bytes(begin, "little"), MAX_HEADER)), path)
    except OSError as error:
        raise AssetError(f"{path}: expected a tuned network, found: {error.strerror}; check the path") from error


def check_base(name: str) -> None:
    """Refuses a backbone that is not built from its name alone, so that what is tuned of it is no ``tuned:`` backbone.

    Raises:
        WeightsError: it needs code of one's own, a folder or a file.
    """
    plain = name.partition("@")[0]
    prefix, colon, _ = plain.partition(":")
    if prefix in _REBUILT if colon else plain in ENTRIES or zoo.find(plain) is not None:
        return
    raise WeightsError(
        f"the base of a tuned network must be built from its name alone: a packaged backbone, one of the zoo, or of "
        f"{', '.join(f'{prefix}:' for prefix in sorted(_REBUILT))}; found {shown(name)}, which would run code or read "
        "another file that a checkpoint must not choose; load its tensors into your own network instead"
    )


class TunedSource:
    """Networks that fine-tuning has made; see `Backbone` for what the methods promise.

    Outputs are those of the base backbone, ``logits`` those of the tuned classifier.

    Args:
        resolve: gives the spec of the base backbone by name and ``outputs``.
        trainable: builds it.
    """

    prefix = "tuned:"

    def __init__(
        self, resolve: Callable[..., BackboneSpec], trainable: Callable[[BackboneSpec], FrozenNetwork]
    ) -> None:
        self._resolve, self._trainable = resolve, trainable

    def names(self) -> Sequence[str]:
        """Those in the store that commands take where none is named."""
        return sorted(f"{self.prefix}{path.parent.name}" for path in _shelf().glob(f"*/{WEIGHTS}"))

    def resolve(
        self, name: str, *, checkpoint: Path | None = None, outputs: Sequence[str] | None = None
    ) -> BackboneSpec:
        """The spec behind a name; see `Backbone.resolve`. A checkpoint is another such file."""
        if "@" in name:
            raise WeightsError(f"{name}: a tuned network must have its weights; ask for its base at random instead")
        folder = self._folder(name)
        weights = given_weights(name, None, checkpoint or folder / WEIGHTS)
        assert weights is not None  # noqa: S101 - a checkpoint was given
        assert weights.path is not None  # noqa: S101 - as above
        about = read_tuned(weights.path)
        check_base(about.base)
        return BackboneSpec(
            name=f"{self.prefix}{folder.name}",
            source="tuned",
            architecture=about.base,
            weights=replace(weights, origin=f"{about.base}, tuned"),
            preprocessing=about.preprocessing,
            outputs=checked_outputs(name, outputs, ("pooled", "logits")),
        )

    def build(self, spec: BackboneSpec) -> Network:
        """The network behind a spec; see `Backbone.build`."""
        from featurebank.extract.backbones.tuned_network import TunedBackbone

        network, classifier = self._filled(spec)
        if network.spec.source == "packaged":
            network = folded(network)
        return TunedBackbone(spec, network, classifier)

    def trainable(self, spec: BackboneSpec) -> Network:
        """The base network with its tuned weights, to be tuned further; see `TrainableSource.trainable`."""
        return self._filled(spec)[0]

    def describe(self, name: str) -> Mapping[str, object]:
        """What it was made of."""
        about = read_tuned(self._folder(name) / WEIGHTS)
        return {"base": about.base, "base weights": about.base_weights, "classes": len(about.class_names)}

    def _folder(self, name: str) -> Path:
        place = name.removeprefix(self.prefix)
        folder = expanded(place).absolute() if is_path(place) else _shelf() / place
        if not (folder / WEIGHTS).is_file():
            if is_path(place):
                raise AssetError(f"{name}: {folder} must hold {WEIGHTS}; found none; check the path")
            raise unknown_name("backbone", name, self.names(), where=str(_shelf()))
        return folder

    def _filled(self, spec: BackboneSpec) -> tuple[FrozenNetwork, nn.Linear]:
        """The base network and the classifier with the file's tensors."""
        from torch import nn

        path, data = spec.weights.path, read(spec.weights)
        assert path is not None  # noqa: S101 - read() has just used it
        about, tensors = _parsed(data, path), decode(data, path)
        check_base(about.base)
        outputs = [name for name in spec.outputs if name != "logits"]
        if "logits" in spec.outputs and "pooled" not in outputs:
            outputs.append("pooled")
        resized = _size(spec.preprocessing) != _size(about.preprocessing)
        try:
            name, view = split_view(at_random(about.base))
            view = replace(view, px=spec.preprocessing.height) if resized else view
            base = self._resolve(f"{name}{view}", outputs=outputs)
        except (AssetError, UnknownNameError) as error:
            raise WeightsError(f"{path}: its base {shown(about.base)} must be built from its name: {error}") from error
        network = self._trainable(base)
        wanted, found = (len(about.class_names), network.dimension), tensors.get("head.weight")
        if found is None or found.shape != wanted:
            shape = "no such tensor" if found is None else tuple(found.shape)
            raise WeightsError(f"{path}: head.weight must be {wanted}, classes by features; found {shape}")
        classifier = nn.Linear(network.dimension, len(about.class_names))
        whole = nn.ModuleDict({"network": network, "head": classifier})
        if resized:
            tensors = _resampled(tensors, network.backbone, path)
        load_strictly(whole, tensors, what=f"{spec.name} from {path}")
        return network, classifier


def _shelf() -> Path:
    return expanded(os.environ.get(STORE_VARIABLE) or DEFAULT_STORE).absolute() / FOLDER


def _size(preprocessing: Preprocessing) -> tuple[int, int]:
    return preprocessing.height, preprocessing.width


def _resampled(tensors: Mapping[str, torch.Tensor], backbone: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file for a network that takes images of another size, as timm resamples them."""
    prefix = "network.backbone."
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    resampled = adapters.foreign_timm(own, backbone, path, resized=True)
    others = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    return others | {f"{prefix}{name}": value for name, value in resampled.items()}


def _parsed(data: bytes, path: Path) -> TunedRecord:
    """What the header at the beginning of a file's bytes says.

    Raises:
        WeightsError: there is none, or one of something else.
    """
    length = int.from_bytes(data[:8], "little")
    try:
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length:,} bytes, more than {MAX_HEADER:,}")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
        if about["version"] != VERSION:
            raise ValueError(f"format version {shown(str(about['version']))}, and this program reads {VERSION}")
        names = about["class_names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in [about["base"], *names]):
            raise ValueError("names that are no text")
        return TunedRecord(
            base=about["base"],
            base_weights=str(about["base_weights"]),
            preprocessing=_preprocessing(about["preprocessing"]),
            class_names=tuple(names),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(
            f"{path}: must be a tuned network's file, as fine-tuning writes it; found {shown(reason[:200])}; "
            "the file is damaged or of something else"
        ) from error


def _preprocessing(content: object) -> Preprocessing:
    """A record of JSON, each field of its type.

    Raises:
        ValueError: it is not.
    """
    found: Preprocessing = _of_type(content, Preprocessing, "preprocessing")
    sides = (found.height, found.width, found.resize_height, found.resize_width)
    if not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise ValueError(f"images of {sides}, and sides must be 1 to {MAX_SIDE}")
    return found


def _of_type(value: object, kind: Any, name: str) -> Any:
    """A JSON value as a type: a number, a text, one of a Literal, a tuple, a dataclass, or a union of these."""
    options = get_args(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        if unknown := value.keys() - {field.name for field in fields(kind)}:
            raise ValueError(f"{name} with {min(unknown)!r}, which it has not")
        return kind(**{key: _of_type(item, kinds[key], key) for key, item in value.items()})  # type: ignore[operator]
    if get_origin(kind) is tuple and isinstance(value, list) and len(value) == len(options):
        return tuple(_of_type(item, option, name) for item, option in zip(value, options, strict=True))
    if NoneType in options:
        return None if value is None else _of_type(value, options[0], name)
    if (
        value in options
        if get_origin(kind) is Literal
        else type(value) is kind or (kind is float and type(value) is int)
    ):
        return value
    raise ValueError(f"{name} of {str(value)[:60]!r}")
