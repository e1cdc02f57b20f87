"""What can go wrong in extraction. Every message says what was expected, what was found and what to do.

ExtractError
├── UnknownNameError (also KeyError)       a backbone, dataset or split that does not exist
├── AssetError (also OSError)              a file that cannot be had, or is not the file it should be
├── WeightsError (also ValueError)         a checkpoint that does not fit its architecture
├── DatasetError (also ValueError)         a dataset that cannot be used as given
└── ImageError (also ValueError)           one image that cannot be decoded; recorded, never fatal unless strict
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AssetError",
    "DatasetError",
    "ExtractError",
    "ImageError",
    "UnknownNameError",
    "WeightsError",
    "nearest",
]


class ExtractError(Exception):
    """Base of every error this storey raises on purpose."""


class UnknownNameError(ExtractError, KeyError):
    """A name that nothing answers to; the message lists the nearest spellings."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class AssetError(ExtractError, OSError):
    """A downloaded or given file is missing, unreadable, or has another digest than it must have."""


class WeightsError(ExtractError, ValueError):
    """A checkpoint's tensors are not the architecture's tensors."""


class DatasetError(ExtractError, ValueError):
    """A dataset is empty, has duplicate ids, labels out of range, or lacks files."""


class ImageError(ExtractError, ValueError):
    """One image cannot be decoded."""


def nearest(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """An error for an unknown name that offers the nearest spellings.

    >>> print(nearest("backbone", "efficientnet_lite", ["efficientnet_lite0", "mobilenetv2"]))
    unknown backbone 'efficientnet_lite'; did you mean 'efficientnet_lite0'?
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    if close:
        advice = "did you mean " + " or ".join(repr(c) for c in close) + "?"
    elif len(names) <= 20:
        advice = "known: " + ", ".join(names)
    else:
        advice = f"{len(names)} names are known, none close to it"
    return UnknownNameError(f"unknown {kind} {name!r}; {advice}" + (f" {hint}" if hint else ""))
