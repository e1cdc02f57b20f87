"""What can go wrong in extraction. Every message says what was expected, what was found and what to do.

ExtractError
├── AssetError (also OSError)              a file that cannot be had, or is not the file it should be
├── WeightsError (also ValueError)         a checkpoint that does not fit its architecture
├── DatasetError (also ValueError)         a dataset that cannot be used as given
└── ImageError (also ValueError)           one image that cannot be decoded; recorded, never fatal unless strict

A backbone, dataset or split that does not exist is a `featurebank.store.errors.UnknownNameError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from featurebank.store.errors import StoreError

__all__ = [
    "AssetError",
    "DatasetError",
    "ExtractError",
    "ImageError",
    "WeightsError",
    "fault",
    "search",
]


class ExtractError(Exception):
    """Base of every error this storey raises on purpose."""


class AssetError(ExtractError, OSError):
    """A downloaded or given file is missing, unreadable, or has another digest than it must have."""


class WeightsError(ExtractError, ValueError):
    """A checkpoint's tensors are not the architecture's tensors."""


class DatasetError(ExtractError, ValueError):
    """A dataset is empty, has duplicate ids, labels out of range, or lacks files."""


class ImageError(ExtractError, ValueError):
    """One image cannot be decoded."""


def fault(error: BaseException) -> str:
    """What went wrong, on one line: in the error's own words if they are meant to be read, else with its kind.

    Wherever one thing of many may fail, a dataset, an image, a backbone, a cell of a table, whatever it raises becomes
    this line, and the others go on.

    >>> fault(DatasetError("a/b: expected images, found none"))
    'a/b: expected images, found none'
    >>> fault(KeyError("label")), fault(MemoryError())
    ("KeyError: 'label'", 'MemoryError')
    """
    text = " ".join(str(error).split())
    meant = (ExtractError, StoreError, ValueError, OSError, ImportError)
    if text and isinstance(error, meant) and not isinstance(error, UnicodeError | RecursionError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def search(text: str, known: Mapping[str, Iterable[str]]) -> list[str]:
    """The names that a word is part of, itself or what is known of it; of several words, whole ones in that order.

    A name that was cut short, ``dino_vit_bas``, is an error of spelling and finds nothing.

    >>> search("imagenet", {"imagenet1k": [], "tiny": ["Tiny ImageNet"], "places": []})
    ['imagenet1k', 'tiny']
    >>> search("dino_vit_bas", {"dino_vit_base": []})
    []
    """
    word = re.escape(text.lower())
    pattern = word if text.isalnum() else rf"(?<![a-z0-9]){word}(?![a-z0-9])"
    return [name for name, about in known.items() if re.search(pattern, "\n".join((name, *about)).lower())]
