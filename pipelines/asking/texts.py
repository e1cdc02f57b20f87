"""Text features of classes, in files and in sets, and the logit scale of the model that they are from.

Shapes: K classes, T templates, D features.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.text_sets import TEXTS
from featurebank.pipelines.asking.inputs import SplitRows, load_array

__all__ = ["class_prompts", "names_texts", "read_logit_scale", "read_texts"]

TEXT, SCALE = "text", "logit_scale"


def names_texts(place: str) -> bool:
    """Whether DATASET/SPLIT is one that `featurebank texts` makes.

    >>> names_texts("pets/texts-simple"), names_texts("pets/test")
    (True, False)
    """
    return place.rpartition("/")[2].startswith(TEXTS)


def class_prompts(prompts: SplitRows) -> NDArray[Any]:
    """The texts of each class, (K, T, D), of a set with a row for each, labelled with its class.

    Raises:
        ValueError: a class without texts, or with another number of them.
    """
    classes, counts = np.unique(prompts.labels, return_counts=True)
    if len(set(counts.tolist())) > 1 or classes.tolist() != list(range(len(classes))):
        raise ValueError(
            f"{prompts.name}: expected as many prompts for each of the classes 0..K-1, found {counts.min()} to "
            f"{counts.max()} for {len(classes)} classes up to {classes.max()}"
        )
    order = np.argsort(prompts.labels, kind="stable")
    return np.asarray(prompts.features[order]).reshape(len(classes), int(counts[0]), -1)


def read_texts(path: Path) -> NDArray[Any]:
    """The array, (K, D) or (K, T, D), of a ``.npy`` file, or of a ``.npz`` file: its only one, or that called ``text``.

    Raises:
        ValueError: the file holds something else.
    """
    if path.suffix == ".npy":
        return load_array(path)
    arrays = _arrays(path)
    if len(arrays) == 1 or TEXT in arrays:
        return np.asarray(arrays.get(TEXT, next(iter(arrays.values()))))
    raise ValueError(f"{path}: expected one array, or one called {TEXT}; found {', '.join(arrays) or 'none'}")


def read_logit_scale(path: Path) -> float | None:
    """The number called ``logit_scale`` in a ``.npz`` file, exp of the model's parameter; None where there is none.

    Raises:
        ValueError: it is no number above 0.
    """
    if path.suffix == ".npy" or (found := _arrays(path).get(SCALE)) is None:
        return None
    if found.size != 1 or found.dtype.kind not in "iuf" or not 0 < float(found.reshape(-1)[0]) < np.inf:
        raise ValueError(f"{path}: expected {SCALE} to be one number above 0, found {found.dtype} {found.shape}")
    return float(found.reshape(-1)[0])


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected a .npz file of numbers, found something else: {error}") from error
