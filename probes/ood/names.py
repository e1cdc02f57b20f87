"""The names of all scores by what they look at; none of them is imported with it."""

from __future__ import annotations

import difflib

__all__ = ["family", "scores"]

_FAMILIES = {
    "logits": ("msp", "temperature", "maxlogit", "energy", "entropy", "gen", "klm", "openmax"),
    "distances": ("mds", "rmds", "mds++", "rmds++", "gmm"),
    "neighbours": ("knn", "nnguide", "relation"),
    "subspaces": ("residual", "vim", "cop", "corp", "pnml"),
    "shaping": ("react", "dice", "ash-p", "ash-b", "ash-s", "scale", "vra", "lts"),
    "alignment": ("she", "gradnorm", "fdbd", "nci", "weiper+kld", "mcm"),
}


def scores() -> tuple[str, ...]:
    """The names of all scores."""
    return tuple(name for members in _FAMILIES.values() for name in members)


def family(name: str) -> str:
    """What a score looks at: logits, distances, neighbours, subspaces, shaping (of activations), or alignment.

    >>> family("vim"), family("ash-s"), family("nci")
    ('subspaces', 'shaping', 'alignment')

    Raises:
        ValueError: there is no score of this name.
    """
    for label, members in _FAMILIES.items():
        if name in members:
            return label
    near = difflib.get_close_matches(name, scores(), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"the scores are {', '.join(scores())}"
    raise ValueError(f"there is no score {name!r}; {hint}")
