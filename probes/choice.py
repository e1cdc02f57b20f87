"""Whether what a search chose lies on the edge of what it tried: then the best may lie beyond.

Every search over numbers hands its choices through `Choice`: C, k, temperatures, penalties, learning rates, parameters
of scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["CS", "Choice", "edge_notes"]

CS = tuple(float(f"{10 ** (power / 2):.4g}") for power in range(-10, 1))
"""Inverse strengths of a penalty that are searched where nothing else is said: two a decade, 1e-5 to 1."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One number that was chosen among several.

    >>> Choice(name="C", value=1.0, scores={0.1: 0.8, 1.0: 0.9}).edge
    'highest'
    >>> Choice(name="C", value=0.1, scores={0.1: 0.9, 1.0: 0.9, 10.0: 0.7}).edge  # 1.0 is as good
    ''

    Attributes:
        name: what it is.
        value: the chosen one.
        scores: what the validation rows said of each candidate, the others of a search as chosen.
    """

    name: str
    value: float
    scores: Mapping[float, float]

    @property
    def edge(self) -> Literal["lowest", "highest", ""]:
        """Which end of the candidates it is; empty where it is none, had no alternative, or one inside is as good."""
        low, high = min(self.scores), max(self.scores)
        inside = any(low < value < high and score == self.scores[self.value] for value, score in self.scores.items())
        if low == high or inside:
            return ""
        return "lowest" if self.value == low else "highest" if self.value == high else ""


def edge_notes(choices: Iterable[Choice]) -> list[str]:
    """One line that names the choices on an edge, or none; the same one of several fits is counted.

    >>> edge_notes([Choice(name="C", value=1.0, scores={0.1: 0.8, 1.0: 0.9})])
    ['on the edge of what was tried, so that the best may lie beyond: C = 1 (highest of 2)']
    """
    together: dict[str, list[Choice]] = {}
    for choice in choices:
        together.setdefault(choice.name, []).append(choice)
    said = []
    for name, of in together.items():
        for edge in ("lowest", "highest"):
            there = [choice for choice in of if choice.edge == edge]
            if not there:
                continue
            place = f"{edge} of {len(there[0].scores)}"
            said.append(
                f"{name} = {there[0].value:g} ({place})"
                if len(of) == 1
                else f"{name} ({place} in {len(there)} of {len(of)} fits)"
            )
    return [f"on the edge of what was tried, so that the best may lie beyond: {', '.join(said)}"] if said else []
