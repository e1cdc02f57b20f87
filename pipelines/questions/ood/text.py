"""Text embeddings of class names, from a file or from a set of prompts.

Shapes: K classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import SplitRows, labelled, match_notes, matched, ordered_classes
from featurebank.pipelines.asking.texts import class_prompts, read_texts
from featurebank.pipelines.questions.ood.classifier import has_classes

__all__ = ["class_texts", "of_classes"]


def class_texts(
    path: Path | None, sets: Sequence[SplitRows], train: SplitRows
) -> tuple[NDArray[Any] | None, list[str]]:
    """The embeddings (K, D) of every class, and what to say of how they were matched; None where there are none.

    Args:
        path: a file with one row for every class, in the order of the train rows' classes.
        sets: one set of prompts, if there is no file; a class is their mean of unit length.
        train: the rows whose classes are meant.

    Raises:
        ValueError: another shape, or a class without a row.
    """
    if path is None and sets:
        from featurebank.probes.zeroshot import ZeroShotClassifier

        prompts = matched(labelled(sets[0]), train, by_number=True)
        return ZeroShotClassifier().fit(class_prompts(prompts)).weights_, match_notes(train, prompts)
    if path is None:
        return None, []
    text = read_texts(path)
    width = train.features.shape[1]
    if text.ndim != 2 or text.shape[1] != width or len(text) < 2:
        raise ValueError(f"{path}: expected text embeddings (K, {width}) of at least two classes, found {text.shape}")
    if not has_classes(train):
        return text, []
    notes = ordered_classes(path, len(text), train)
    if (highest := int(train.labels.max())) >= len(text):
        raise ValueError(
            f"{path}: expected a row for each class of {train.name}, up to {highest}; found {len(text)} rows"
        )
    return text, notes


def of_classes(text: NDArray[Any], train: SplitRows) -> NDArray[Any]:
    """The embeddings (k, D) of the classes that the train rows have; all where these have none."""
    return np.asarray(text[np.unique(train.labels)]) if has_classes(train) else text
