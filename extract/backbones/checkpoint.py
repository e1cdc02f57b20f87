"""Checkpoints: bytes read once, hashed, compared, decoded without running any of them, and loaded strictly."""

from __future__ import annotations

import argparse
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from featurebank.extract.backbones.checkpoint_limits import check_file, check_tensors, keys_of
from featurebank.extract.backbones.contract import Weights
from featurebank.extract.errors import AssetError, WeightsError
from featurebank.extract.opening import open_regular
from featurebank.store.text import shown

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

__all__ = ["decode", "differences", "load_strictly", "read", "state_dict_of"]

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "network", "state_dict_ema", "model_ema", "teacher")
PREFIXES = ("module.", "_orig_mod.")
LISTED = 10
_NOT_ALLOWED = re.compile(r"Unsupported (?:global|class): GLOBAL (\S+)|Unsupported class (\S+)")


def read(weights: Weights) -> bytes:
    """The bytes of a checkpoint, which are the very bytes its digest stands for.

    Raises:
        AssetError: the file is missing, unreadable or has another digest.
    """
    path = weights.path
    if path is None:
        raise AssetError(
            f"weights {weights.sha256}: expected a checkpoint file, found none; resolve the backbone again"
        )
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise AssetError(
            f"{path}: expected a checkpoint with SHA-256 {weights.sha256}, found: {error.strerror}; "
            "check the path, or resolve the backbone again"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != weights.sha256:
        raise AssetError(
            f"{path}: expected SHA-256 {weights.sha256}, found {found}; the file is damaged or has changed: "
            "delete it to fetch it again, or resolve the backbone again"
        )
    return data


def state_dict_of(weights: Weights) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file by name, unwrapped.

    Raises:
        AssetError: as `read`.
        WeightsError: as `decode`.
    """
    data = read(weights)
    assert weights.path is not None  # noqa: S101 - read() has just used it
    return decode(data, weights.path, part=weights.part)


def decode(data: bytes, path: Path, *, part: str = "") -> dict[str, torch.Tensor]:
    """Tensors by name from the bytes of a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file.

    A wrapper (``{"state_dict": …}``) and a prefix that all names share (``module.``) are taken off where there is one
    way to do so; several wrappers (``state_dict`` and ``state_dict_ema``) need a choice. What
    ``torch.nn.utils.prune`` has pruned (``weight_orig`` beside ``weight_mask``) becomes its product, the sparse weight
    that the layer computes with. Only tensors, plain containers and ``argparse.Namespace``, which holds the arguments
    of a training, are unpickled.

    Args:
        data: the file's bytes.
        path: the file's name, which tells the format; nothing is read from it.
        part: which set of tensors, where there are several: the wrapper's key, or a prefix that ends in a dot.

    Raises:
        WeightsError: the bytes are not such a file, or hold no tensors, or more than one set of them, or not that part.
    """
    import torch

    name = path.resolve().name if path.suffix not in SUFFIXES else path.name
    safetensors = name.endswith(".safetensors")
    try:
        check_file(data, safetensors=safetensors)
        if safetensors:
            from safetensors.torch import load

            content: object = load(data)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # Damaged and hostile files make the readers raise nearly every built-in exception.
        raise WeightsError(
            f"{path}: expected a checkpoint of tensors only ({', '.join(SUFFIXES)}), found a file that cannot be "
            f"read as one: {_reason(error, data)}"
        ) from error
    tensors = _unwrap(content, path, part)
    try:
        check_tensors(tensors, len(data))
    except ValueError as error:
        raise WeightsError(f"{path}: expected tensors that its bytes hold, found {error}") from error
    return _pruned(_without_prefix(tensors))


def _reason(error: Exception, data: bytes) -> str:
    """Why a file cannot be read, without the reader's advice on how to run what is in it."""
    text = str(error)
    if strange := _NOT_ALLOWED.search(text):
        keys = keys_of(data)
        held = f" beside {', '.join(map(repr, keys[:LISTED]))}" if keys else ""
        return (
            f"the class {shown(strange[1])}, which is not allowed{shown(held)}; save the tensors on their own: "
            "torch.save(model.state_dict(), FILE)"
        )
    lines = [line for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if "WeightsUnpickler error:" in line), lines[0] if lines else "")
    return shown(reason.strip()[:200]) or type(error).__name__


def _unwrap(content: object, path: Path, part: str) -> dict[str, torch.Tensor]:
    sets = (
        {str(key): value for key, value in content.items() if _is_state_dict(value)}
        if isinstance(content, Mapping)
        else {}
    )
    if part:
        if part in sets:
            return sets[part]  # type: ignore[no-any-return]
        tensors = _unwrap(content, path, "") if part.endswith(".") else {}
        under = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        if under:
            return under
        names = ", ".join(map(repr, sets)) or "tensors without a key"
        raise WeightsError(f"{path}: checkpoint_key must be a key of tensors or a prefix, found {part!r}; has {names}")
    if _is_state_dict(content):
        return content  # type: ignore[return-value]
    found = [key for key in WRAPPERS if key in sets]
    if len(found) == 1:
        return sets[found[0]]  # type: ignore[no-any-return]
    if found:
        raise WeightsError(
            f"{path}: expected one set of tensors, found several ({', '.join(found)}); "
            f"choose one beside checkpoint: with checkpoint_key: {found[0]}"
        )
    kind = f"keys {sorted(map(str, content))[:LISTED]}" if isinstance(content, Mapping) else type(content).__name__
    raise WeightsError(f"{path}: expected tensors by name, found {kind}; save a model's state_dict()")


def _is_state_dict(content: object) -> bool:
    import torch

    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items())
    )


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _pruned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    folded = {}
    for name, value in tensors.items():
        stem, _, kind = name.rpartition("_")
        mask = tensors.get(f"{stem}_mask") if kind == "orig" else None
        if mask is not None and mask.shape == value.shape:
            folded[stem] = value * mask
        elif kind != "mask" or f"{stem}_orig" not in tensors:
            folded[name] = value
    return folded


def differences(module: nn.Module, tensors: Mapping[str, torch.Tensor], *, without: Sequence[str] = ()) -> list[str]:
    """What keeps tensors from being a module's, a line each: missing, unexpected, wrong shape.

    Counters of batches seen (``num_batches_tracked``) may be missing, as older checkpoints have none and inference
    never uses them.

    Args:
        module: the architecture.
        tensors: the checkpoint's tensors by name.
        without: names of modules whose tensors may be missing.

    Returns:
        the differences, none where the tensors fit.
    """
    wanted = module.state_dict()
    missing = tuple(f"{name}." for name in without)
    lines = [
        f"{name}: expected {tuple(value.shape)}, found nothing"
        for name, value in wanted.items()
        if name not in tensors and not name.endswith("num_batches_tracked") and not name.startswith(missing)
    ]
    lines += [
        f"{name}: expected {tuple(value.shape)}, found {tuple(tensors[name].shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    lines += [
        f"{name}: expected nothing, found {tuple(value.shape)}" for name, value in tensors.items() if name not in wanted
    ]
    return lines


def load_strictly(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], *, what: str, without: Sequence[str] = ()
) -> None:
    """Puts tensors into a module whose names and shapes they must match exactly.

    Args:
        module: the architecture.
        tensors: the checkpoint's tensors by name.
        what: how the architecture and the checkpoint are called in the error.
        without: names of modules whose tensors may be missing; they stay as they are.

    Raises:
        WeightsError: they do not match, or weights are not finite; up to ten tensors are named.
    """
    lines = differences(module, tensors, without=without)
    if lines:
        shown = "".join(f"\n  {line}" for line in lines[:LISTED])
        more = f"\n  … and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
        raise WeightsError(
            f"{what}: the checkpoint is not of this architecture, {len(lines)} of its tensors differ:{shown}{more}\n"
            "give a checkpoint of this architecture, or the name of the backbone it belongs to"
        )
    _check_finite(module, tensors, what)
    # Counters of batches, and what may be missing.
    others = {name: value for name, value in module.state_dict().items() if name not in tensors}
    module.load_state_dict({**others, **tensors}, strict=True)


def _check_finite(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    # Buffers of other kinds may well be infinite: the masks of attention are.
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    learned |= {name for name in tensors if name.endswith((".running_mean", ".running_var"))}
    bad = [name for name, value in tensors.items() if name in learned and not value.isfinite().all()]
    if bad:
        more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise WeightsError(
            f"{what}: weights must be finite, found NaN or infinity in {', '.join(bad[:LISTED])}{more}; "
            "the training has diverged: give an earlier checkpoint"
        )
