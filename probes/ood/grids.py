"""Which parameters of each score are worth choosing on validation rows.

The candidates are those of OpenOOD v1.5's automatic search and of the scores' papers, thinned where many lie close.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["grid"]

Grid = Mapping[str, tuple[Any, ...]]

PRUNED: Final = (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
DIMENSIONS: Final = (16, 64, 256, 512, 1000)
_GRIDS: Final[Mapping[str, Grid]] = {
    "gen": {"gamma": (0.01, 0.1, 0.5, 1.0), "top": (10, 100)},
    "knn": {"k": (1, 10, 50, 100, 200, 500, 1000)},
    "nnguide": {"k": (1, 5, 10, 100)},
    "relation": {"power": (1.0, 2.0, 4.0, 8.0)},
    "residual": {"dim": DIMENSIONS},
    "vim": {"dim": DIMENSIONS},
    "cop": {"explained": (0.85, 0.9, 0.95, 0.99)},
    "corp": {"explained": (0.5, 0.9)},
    "react": {"percentile": (0.85, 0.9, 0.95, 0.99)},
    "dice": {"sparsity": (0.1, 0.3, 0.5, 0.7, 0.9)},
    "ash-p": {"percentile": PRUNED},
    "ash-b": {"percentile": PRUNED},
    "ash-s": {"percentile": PRUNED},
    "scale": {"percentile": PRUNED},
    "vra": {"lower": (0.5, 0.6, 0.7), "upper": (0.9, 0.95, 0.99)},
    "lts": {"share": (0.01, 0.05, 0.1, 0.2)},
    "nci": {"alpha": (1e-4, 1e-3, 1e-2, 1e-1)},
    "weiper+kld": {"smoothing": (1, 4), "smooth_train": (False, True)},
    "mcm": {"temperature": (0.01, 0.1, 1.0)},
}


def grid(name: str, *, rows: int, width: int) -> Grid:
    """The candidates for each parameter of a score; empty where there is nothing to choose.

    >>> grid("vim", rows=5000, width=300), grid("msp", rows=5000, width=300)
    ({'dim': (16, 64, 256)}, {})

    Args:
        name: of the score.
        rows: N, of the training rows, which numbers of neighbours do not exceed.
        width: D, which dimensions of subspaces stay below.
    """
    most = {"k": rows, "dim": width - 1}
    found = {
        parameter: tuple(value for value in values if parameter not in most or value <= most[parameter])
        for parameter, values in _GRIDS.get(name, {}).items()
    }
    return found if all(found.values()) else {}
