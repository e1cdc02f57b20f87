"""Which questions there are: those of `featurebank.pipelines.questions`, of installed packages, and of this process."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from featurebank.extract.errors import fault
from featurebank.pipelines.asking.question import DECLARED, Question
from featurebank.pipelines.errors import ConfigError
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["find_question", "forget", "help_of", "is_question", "question_names", "questions"]

HOME = "featurebank.pipelines.questions"
ENTRY_POINTS = "featurebank.questions"


def forget(name: str) -> None:
    """Makes a question of this process unknown again."""
    DECLARED.pop(name, None)


def question_names() -> list[str]:
    """Names of all questions, of which none need be imported."""
    own = [module.name for module in pkgutil.iter_modules(_folders())]
    others = [point.name for point in _entry_points()]
    return list(dict.fromkeys([*own, *others, *DECLARED]))


def is_question(name: str) -> bool:
    """Whether there is a question of that name; of those of this project without looking at installed packages."""
    return name.isidentifier() and (_is_own(name) or name in question_names())


def help_of(name: str) -> str:
    """The first sentences of a question's docstring; those of `HOME` are read without importing them."""
    pattern = re.compile(
        rf'class \w+\([^\n]*\n    """((?:(?!""").)*?)(?:\n\n|""")(?:(?!\nclass ).)*? = "{name}"\n', re.DOTALL
    )
    for folder in _folders():
        place = Path(folder, name)
        for file in sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            match = pattern.search(file.read_text(encoding="utf-8")) if file.is_file() else None
            if match:
                return " ".join(match[1].split())
    try:
        return (find_question(name).__doc__ or "").partition("\n\n")[0]
    except ConfigError as error:
        return str(error)


def questions() -> dict[str, type[Question]]:
    """All questions by name, but those of packages that cannot be loaded."""
    known = {}
    for name in question_names():
        with suppress(ConfigError):
            known[name] = find_question(name)
    return known


def find_question(name: str) -> type[Question]:
    """The question of that name.

    Raises:
        UnknownNameError: there is none.
        ConfigError: the package that has it cannot be loaded.
    """
    if not is_question(name):
        raise unknown_name("question", name, question_names())
    if name not in DECLARED:
        if _is_own(name):
            importlib.import_module(f"{HOME}.{name}")
        else:
            _load(name)
    return DECLARED[name]


def _is_own(name: str) -> bool:
    places = (Path(folder, name + ending) for folder in _folders() for ending in (".py", "/__init__.py"))
    return any(map(Path.is_file, places))


def _load(name: str) -> None:
    """Imports what an installed package declares under a name."""
    for point in _entry_points():
        if point.name == name:
            try:
                point.load()
            except Exception as error:
                raise ConfigError(f"question {name!r} cannot be loaded: {fault(error)}") from error
    if name not in DECLARED:
        raise ConfigError(f"question {name!r} cannot be loaded: its package declares no question {name!r}")


def _folders() -> list[str]:
    spec = importlib.util.find_spec(HOME)
    return list(spec.submodule_search_locations or ()) if spec else []


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINTS)
