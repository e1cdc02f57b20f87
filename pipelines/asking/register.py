"""Which questions there are: those of `featurebank.pipelines.questions`, of installed packages, and of this process."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil

from featurebank.extract.errors import nearest
from featurebank.pipelines.asking.question import DECLARED, Question

__all__ = ["find_question", "forget", "question_names"]

HOME = "featurebank.pipelines.questions"
ENTRY_POINTS = "featurebank.questions"


def forget(name: str) -> None:
    """Makes a question of this process unknown again."""
    DECLARED.pop(name, None)


def question_names() -> list[str]:
    """Names of all questions, of which none need be imported."""
    spec = importlib.util.find_spec(HOME)
    own = [module.name for module in pkgutil.iter_modules(spec.submodule_search_locations if spec else [])]
    others = [point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)]
    return list(dict.fromkeys([*own, *others, *DECLARED]))


def find_question(name: str) -> type[Question]:
    """The question of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in question_names():
        raise nearest("question", name, question_names())
    if name not in DECLARED:
        points = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
        for point in points:
            point.load()
        if not points:
            importlib.import_module(f"{HOME}.{name}")
    return DECLARED[name]
