"""What a question's sets are called, and how its table is laid out."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Layout"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a question's sets are called, and how its table is laid out.

    Attributes:
        fitted: the role that is fitted on, or searched for: ``train`` or ``queries``.
        scored: the role that is scored, or searched: ``test`` or ``gallery``.
        index: the columns of `Row` that tell a table's rows apart; the others go into the headings.
        shown: the metrics of the table, where it is not all of them.
        alone: whether a KEY of one set means that it is fitted, or searched, in itself.
        apart: roles of further sets of which no set may have two, nor be the KEY's.
        within: two roles, of which the first takes its sets out of the second, where both have them.
        grouped: whether lines stay in the order of the backbones.
        rivals: whether the best number is sought among all scores, such as ways to the same end; else each score, such
            as boxes and masks, measures something else and has its own.
    """

    fitted: str = "train"
    scored: str = "test"
    index: tuple[str, ...] = ("backbone",)
    shown: tuple[str, ...] = ()
    alone: bool = False
    apart: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    grouped: bool = False
    rivals: bool = True
