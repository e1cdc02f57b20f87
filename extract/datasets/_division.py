"""A fixed division of any split into four fifths and one fifth, for datasets that have no official one.

It is the same on every machine and in every version, because digests of the ids decide, not a random generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PARTS = ("train80", "test20")
"""``all-train80`` and ``all-test20`` are the parts of ``all``."""


def division(
    part: str, ids: Sequence[str], labels: NDArray[np.int64], groups: NDArray[np.generic] | None = None
) -> NDArray[np.int64]:
    """The rows of one part, ascending.

    Of every class, the fifth (rounded down) of its records whose ids have the smallest SHA-256 goes to ``test20``. Of
    records with several labels it is a fifth of all; of records in groups, such as a patient's images, a fifth of all
    groups, none of them in both parts.

    Args:
        part: ``train80`` or ``test20``.
        ids: N ids.
        labels: (N,) or (N, L).
        groups: (N,) what must stay together.

    >>> division("test20", list("abcdefghij"), np.repeat([0, 1], 5)).size
    2
    """
    strata = labels if groups is None and labels.ndim == 1 else np.zeros(len(labels), np.int64)
    names, numbers = np.unique(np.asarray(ids) if groups is None else groups, return_inverse=True)
    digests = [hashlib.sha256(str(name).encode()).digest() for name in names.tolist()]
    ranks = np.empty(len(names), np.int64)
    ranks[sorted(range(len(names)), key=digests.__getitem__)] = np.arange(len(names))
    _, strata = np.unique(strata, return_inverse=True)
    members, rows = np.unique(strata * len(names) + ranks[numbers], return_inverse=True)  # by stratum, then digest
    _, starts, counts = np.unique(members // max(1, len(names)), return_index=True, return_counts=True)
    chosen = np.arange(len(members)) < np.repeat(starts + counts // 5, counts)
    return np.flatnonzero(chosen[rows] == (part == "test20"))
