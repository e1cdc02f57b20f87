"""One option of a question: a field of its record, from which follow its flag, its YAML form and its part of a key."""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from featurebank.pipelines.errors import ConfigError
from featurebank.store.places import expanded

__all__ = ["PAGE", "Option", "file_of", "flag_of", "option", "options_of", "parameters", "validated"]

PAGE = "The page"


@dataclass(frozen=True, kw_only=True)
class Option:
    """What the command line says of a field.

    Attributes:
        help: one sentence.
        flag: ``--name``; from the field's name if empty.
        metavar: of its value.
        role: the field names further sets, DATASET or DATASET/SPLIT, which play the part of that name.
        suffixes: of files that may stand in place of a set; a file's name ends so.
        folder: a path of it is a folder's, not a file's.
        hashed: whether it changes the answer, and so the result's name.
        least: of a number.
        panel: heading that the help lists it under; those of `PAGE` come with ``--html`` only.
    """

    help: str
    flag: str = ""
    metavar: str | None = None
    role: bool = False
    suffixes: tuple[str, ...] = ()
    folder: bool = False
    hashed: bool = True
    least: float | None = None
    panel: str | None = None


def option(default: Any = MISSING, help: str = "", **details: Any) -> Any:  # noqa: A002 (as everywhere)
    """A field of a question that is an option of its verb; ``details`` as `Option` has them."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, **details)})


def options_of(question: Any) -> dict[str, tuple[dataclasses.Field[Any], Option]]:
    """The fields of a question that are options, by name."""
    every = {field.name: field for field in dataclasses.fields(question)}
    return {name: (field, field.metadata["option"]) for name, field in every.items() if "option" in field.metadata}


def flag_of(question: Any, name: str) -> str:
    """What an option is called on the command line."""
    own = options_of(question).get(name)
    return (own and own[1].flag) or "--" + name.replace("_", "-")


def parameters(question: Any, *, panels: Mapping[str, str] | None = None) -> Iterator[tuple[str, Any]]:
    """Name and annotation of each option, and of `Question.extra`, as typer reads them; all of them may be left out.

    Args:
        question: the question.
        panels: heading of options in the help, instead of their own.
    """
    hints = typing.get_type_hints(question)
    for name, (field, own) in options_of(question).items():
        default = field.default if field.default not in (MISSING, None, (), "", False) else None
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        about = replace(
            own,
            flag=flag_of(question, name),
            help=own.help + (f" [{shown}]" if shown is not None else ""),
            panel=(panels or {}).get(name, own.panel),
        )
        yield name, _parameter(hints[name], about)
    for name, (kind, own) in question.extra.items():
        yield name, _parameter(kind, replace(own, flag=own.flag or "--" + name.replace("_", "-")))


def _parameter(kind: Any, own: Option) -> Any:
    import typer

    info = typer.Option(
        own.flag,
        help=own.help,
        metavar=own.metavar or "|".join(choices_of(kind)) or None,
        min=own.least,
        exists=_plain(kind) is Path,
        dir_okay=_plain(kind) is not Path or own.folder,
        file_okay=not own.folder,
        rich_help_panel=own.panel,
    )
    return Annotated[_of_command_line(kind), info]


def choices_of(kind: Any) -> tuple[str, ...]:
    """The values that a `Literal` allows."""
    plain = _plain(kind)
    return get_args(plain) if get_origin(plain) is Literal else ()


def validated(question: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options from YAML in the types of their fields.

    Raises:
        ConfigError: an option that the question does not have, or a value of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    hints, known, faults, given = typing.get_type_hints(question), options_of(question), [], {}
    for name, value in values.items():
        if name not in known:
            faults.append(f"{name}: no option of {question.name}; its options: {', '.join(known)}")
            continue
        try:
            given[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            faults += [f"{name}: {one['msg']}; found {one['input']!r}" for one in error.errors()[:1]]
    if faults:
        raise ConfigError("\n  ".join(faults))
    return given


def key_of(question: Any, *, but: str = "") -> dict[str, Any]:
    """The options that change the answer and are not at their default, as plain JSON; files by their SHA-256."""
    from featurebank.store.fingerprint import is_default

    return {
        name: plain(question, name)
        for name, (field, own) in options_of(question).items()
        if own.hashed and name != but and not is_default(field, getattr(question, name))
    }


def file_of(question: Any, name: str) -> Path | None:
    """The file that an option names, ``~`` and variables as in a shell; None where it names a set.

    Raises:
        ValueError: there is none.
    """
    value, own = getattr(question, name), options_of(question)[name][1]
    if not isinstance(value, str) or not own.suffixes or not value.endswith(own.suffixes):
        return None
    if not expanded(value).is_file():
        raise ValueError(f"{flag_of(question, name)}: expected a file at {value}, found none")
    return expanded(value)


def plain(question: Any, name: str) -> Any:
    """A value of an option as JSON; a file by its SHA-256."""
    return _json(file_of(question, name) or getattr(question, name))


def _json(value: Any) -> Any:
    if isinstance(value, Path):
        with value.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return [_json(item) for item in value] if isinstance(value, tuple) else value


def _plain(kind: Any) -> Any:
    """The type without ``None``."""
    if get_origin(kind) in (UnionType, typing.Union):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    return kind


def _of_command_line(kind: Any) -> Any:
    kind = _plain(kind)
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        return list[first] | None if others == [...] else kind | None  # type: ignore[valid-type]
    return (str if choices_of(kind) else kind) | None
