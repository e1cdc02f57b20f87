"""Which extra brings a package that is missing, and the one line that says so."""

from __future__ import annotations

__all__ = ["EXTRAS", "advice"]

EXTRAS = {
    "pydantic": "cli",
    "rich": "cli",
    "typer": "cli",
    "yaml": "cli",
    "PIL": "extract",
    "diffusers": "extract",
    "huggingface_hub": "extract",
    "onnx": "extract",
    "onnxruntime": "extract",
    "open_clip": "extract",
    "pyarrow": "extract",
    "safetensors": "extract",
    "scipy": "extract",
    "timm": "extract",
    "torch": "extract",
    "torchcodec": "extract",
    "torchvision": "extract",
    "transformers": "extract",
    "sklearn": "probes",
    "faiss": "retrieval",
    "backports.zstd": "pack",
    "hdf5plugin": "pack",
    "hotcoco": "detection",
    "aiohttp": "remote",
    "fsspec": "remote",
    "dask": "scale",
    "distributed": "scale",
}
"""Package, as it is imported, to the extra that brings it; ``torch`` comes with ``probes`` too."""


def advice(package: str, extra: str = "") -> str:
    """What to do about a missing package.

    Args:
        package: as it is imported; a module inside of it will do.
        extra: the one to name, where several bring it.

    >>> advice("timm.models")
    "needs timm: pip install 'featurebank[extract]'"
    >>> advice("torch", "probes")
    "needs torch: pip install 'featurebank[probes]'"
    >>> advice("numpy_of_ones_own")
    'needs numpy_of_ones_own: pip install numpy_of_ones_own'
    """
    top = package if package in EXTRAS else package.partition(".")[0]
    extra = extra or EXTRAS.get(top, "")
    return f"needs {top}: pip install " + (f"'featurebank[{extra}]'" if extra else top)
