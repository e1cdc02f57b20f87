"""Which questions there are: those of `featurebank.pipelines.questions`, of installed packages, and of this process."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
from typing import TYPE_CHECKING

from featurebank.extract.errors import nearest

if TYPE_CHECKING:
    from featurebank.pipelines.asking.question import Question

__all__ = ["find_question", "forget", "question_names", "register"]

HOME = "featurebank.pipelines.questions"
ENTRY_POINTS = "featurebank.questions"
_known: dict[str, type[Question]] = {}


def register(question: type[Question]) -> None:
    """Makes a question known by its name."""
    _known[question.name] = question


def forget(name: str) -> None:
    """Makes a question of this process unknown again."""
    _known.pop(name, None)


def question_names() -> list[str]:
    """Names of all questions, of which none need be imported."""
    spec = importlib.util.find_spec(HOME)
    own = [module.name for module in pkgutil.iter_modules(spec.submodule_search_locations if spec else [])]
    others = [point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)]
    return list(dict.fromkeys([*own, *others, *_known]))


def find_question(name: str) -> type[Question]:
    """The question of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in question_names():
        raise nearest("question", name, question_names())
    if name not in _known:
        points = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
        for point in points:
            point.load()
        if not points:
            importlib.import_module(f"{HOME}.{name}")
    return _known[name]
