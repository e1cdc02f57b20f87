"""What a feature set tells of its making that does not determine its numbers: versions, device, execution."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.datasets.contract import Split

__all__ = ["provenance", "text_provenance", "told"]

LIBRARIES = ("featurebank", "torch", "torchvision", "timm", "pillow", "numpy", "h5py")
# By the source of the backbone, which alone they concern.
LIBRARIES_OF = {
    "open_clip": ("open_clip_torch",),
    "diffusers": ("diffusers", "transformers"),
    "hf": ("transformers",),
    "onnx": ("onnxruntime",),
}
LIBRARY_OF_DECODER = {"nvjpeg": ("torchcodec",)}


def provenance(device: str, execution: Mapping[str, Any], split: Split, spec: BackboneSpec) -> dict[str, Any]:
    """Plain JSON for the manifest; names no host, no user and no path."""
    decoder = LIBRARY_OF_DECODER.get(spec.preprocessing.decode.library, ())
    return {
        "versions": _versions(*LIBRARIES, *LIBRARIES_OF.get(spec.source, ()), *decoder),
        "device": _device_name(device),
        "execution": dict(execution),
        "class_names": list(split.class_names),
        "dataset_notes": list(split.notes),
        **told(spec),
    }


def text_provenance(device: str, spec: BackboneSpec, class_names: Sequence[str], rule: str) -> dict[str, Any]:
    """The same of text features, with the rule by which class names became texts."""
    own = LIBRARIES_OF.get(spec.source, ())
    return {
        "versions": _versions("featurebank", "torch", "transformers", "tokenizers", "numpy", "h5py", *own),
        "device": _device_name(device),
        "class_names": list(class_names),
        "class_texts": rule,
        **told(spec),
    }


def told(spec: BackboneSpec) -> dict[str, Any]:
    """What tells a backbone apart from others of its name; see `featurebank.store.naming`."""
    return {"weights_origin": spec.weights.origin} | ({"label": spec.label} if spec.label else {})


def _versions(*libraries: str) -> dict[str, str]:
    return {name: _version(name) for name in libraries} | {"python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"cpu {platform.machine()}"
