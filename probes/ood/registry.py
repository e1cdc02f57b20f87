"""Every score by name, and all of them in one pass.

Shapes: N rows, D features, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._memory import give_back
from featurebank.probes.ood import alignment, distances, logits, neighbours, shaping, subspace, weiper
from featurebank.probes.ood.contract import OODScore, as_numpy
from featurebank.probes.ood.names import family, scores
from featurebank.probes.ood.neighbours import GalleryScore, sweep
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["ScoredSets", "get", "grid", "score_all"]

_FAMILIES = (logits, distances, neighbours, subspace, shaping, alignment, weiper)
_DECLARED = [
    vars(module)[name] for module in _FAMILIES for name in module.__all__ if hasattr(vars(module)[name], "name")
]
_SCORES: dict[str, type[OODScore]] = {
    score.name: score for score in sorted(_DECLARED, key=lambda score: scores().index(score.name))
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSets:
    """The scores of several sets of rows.

    Attributes:
        values: by set, then by score, (N,) float64; higher is more in-distribution.
        skipped: score to what the training set lacks for it.
        settings: score to its parameters.
        seconds: score to the seconds of fitting and scoring it. What several scores share counts for the first of them;
            the scores of similarities to the training rows divide their sweep evenly.
        head: ``own``, ``probe``, or None without a head.
    """

    values: dict[str, dict[str, NDArray[np.float64]]]
    skipped: dict[str, str]
    settings: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    head: str | None


def get(name: str) -> type[OODScore]:
    """The score of a name.

    >>> get("vim").__name__
    'ViM'

    Raises:
        ValueError: there is none of this name.
    """
    family(name)  # there is one
    return _SCORES[name]


def grid(name: str, *, rows: int, width: int) -> Mapping[str, tuple[Any, ...]]:
    """The candidates for each parameter of a score; empty where there is nothing to choose.

    >>> grid("vim", rows=5000, width=300), grid("msp", rows=5000, width=300)
    ({'dim': (16, 64, 256)}, {})

    Args:
        name: of the score.
        rows: N, of the training rows, which numbers of neighbours do not exceed.
        width: D, which dimensions of subspaces stay below.
    """
    most = {"k": rows, "dim": width - 1}
    candidates = {
        parameter: tuple(value for value in values if value <= most.get(parameter, np.inf))
        for parameter, values in get(name).candidates.items()
    }
    return candidates if all(candidates.values()) else {}


def score_all(
    train: TrainingSet,
    sets: Mapping[str, tuple[ArrayLike | None, ArrayLike | None]],
    names: Iterable[str | OODScore] | None = None,
) -> ScoredSets:
    """Fits scores on the training rows and scores every set, with the work that they share done once.

    Rows are read in blocks; of each block unit rows, sorted features, products with the head, probabilities and
    cosines to the training rows are computed once for all scores. The memory beside the arrays given does not grow with
    the number of rows, but for one number per row and score.

    >>> generator = np.random.default_rng(0)
    >>> train = TrainingSet(generator.normal(size=(200, 8)), generator.integers(0, 3, 200))
    >>> scored = score_all(train, {"test": (generator.normal(size=(5, 8)), None)}, ["mds", "knn", "msp"])
    >>> sorted(scored.values["test"]), scored.skipped
    (['knn', 'mds'], {'msp': 'logits'})

    Args:
        train: the in-distribution training rows.
        sets: name to features (N, D) and logits (N, K), either of which may be None where no score needs it.
        names: scores by name with their default parameters, or unfitted scores; all, if None. Those that need what
            the training set lacks are skipped and named.

    Raises:
        ValueError: an unknown name, one name twice, none that can be computed, or bad input.
    """
    chosen = [get(name)() if isinstance(name, str) else name for name in (scores() if names is None else names)]
    twice = {score.name for score in chosen if sum(other.name == score.name for other in chosen) > 1}
    if twice:
        raise ValueError(f"each score must be asked for once; found {', '.join(sorted(twice))} more than once")
    lacking = {score.name: train.missing(score.needs) for score in chosen}
    usable = [score for score in chosen if lacking[score.name] is None]
    if not usable:
        raise ValueError(f"no score can be computed; they lack {lacking}")
    seconds = {}
    for score in usable:
        start = time.perf_counter()
        score.fit(train)
        seconds[score.name] = time.perf_counter() - start
    give_back()
    values = {key: _scored(train, usable, features, logits, seconds) for key, (features, logits) in sets.items()}
    return ScoredSets(
        values=values,
        skipped={name: need for name, need in lacking.items() if need is not None},
        settings={score.name: score.get_params() for score in usable},
        seconds=seconds,
        head=train.head.source if train.has("head") else None,
    )


def _scored(
    train: TrainingSet,
    chosen: Sequence[OODScore],
    features: ArrayLike | None,
    logits: ArrayLike | None,
    seconds: dict[str, float],
) -> dict[str, NDArray[np.float64]]:
    """The scores of one set, block by block."""
    needs = tuple(sorted({need for score in chosen for need in score.needs}))
    together = [score for score in chosen if isinstance(score, GalleryScore)]
    alone = [score for score in chosen if not isinstance(score, GalleryScore)]
    parts: dict[str, list[NDArray[np.float64]]] = {score.name: [] for score in chosen}
    for _, block in train.blocks(features, logits, needs=needs):
        for score in alone:
            start = time.perf_counter()
            parts[score.name].append(as_numpy(score._score(block)))
            seconds[score.name] += time.perf_counter() - start
        if together:
            start = time.perf_counter()
            for score, one in zip(together, sweep(together, train, block), strict=True):
                parts[score.name].append(as_numpy(one))
            for score in together:
                seconds[score.name] += (time.perf_counter() - start) / len(together)
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}
