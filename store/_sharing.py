"""Records of two feature sets that have the same content."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._sealed import SealedFile


def shared_records(first: SealedFile, second: SealedFile) -> list[tuple[str, str]]:
    """The ids in the first and in the second, in the second's order; what could not be read has no content."""
    (first_ids, known), (second_ids, asked) = _contents(first), _contents(second)
    content, rows = np.unique(known, return_index=True)
    if not len(content):
        return []
    place = np.searchsorted(content, asked).clip(max=len(content) - 1)
    shared = np.flatnonzero(content[place] == asked)
    return [(str(first_ids[rows[place[row]]]), str(second_ids[row])) for row in shared.tolist()]


def _contents(feature_set: SealedFile) -> tuple[NDArray[np.str_], NDArray[Any]]:
    """The ids and content hashes of the records that could be read."""
    known = feature_set.content_hash.any(axis=1)
    # As pairs of integers, which sort and compare whole; strings would lose their last zeros.
    return feature_set.ids[known], np.ascontiguousarray(feature_set.content_hash[known]).view("<u8,<u8").ravel()
