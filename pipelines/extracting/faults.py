"""What is wrong with a configuration, all of it at once: keys given twice, and what the records refuse."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

__all__ = ["explained", "parsed"]


class _Loader(yaml.SafeLoader):
    """A safe loader that notes each key that a mapping has twice, of which YAML's own would keep the last."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.twice: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            number = key.start_mark.line + 1
            if key.value in seen:
                self.twice.append(f"line {number}: {key.value!r} stands in line {seen[key.value]} already; keep one")
            seen.setdefault(key.value, number)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes on, off, yes and no for truth values; here they are words, as in YAML 1.2: an option is called on.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), [*"tTfF"])


def parsed(text: str) -> tuple[object, list[str]]:
    r"""What a YAML file holds, and a line for each key that stands twice in one mapping.

    >>> parsed("a: 1\na: 2")
    ({'a': 2}, ["line 2: 'a' stands in line 1 already; keep one"])

    Raises:
        yaml.YAMLError: it is no YAML, or of more than plain values.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data(), loader.twice
    finally:
        loader.dispose()


def explained(error: ValidationError, records: Mapping[str, type[BaseModel]]) -> list[str]:
    """A line for each thing that does not fit, once.

    Args:
        error: what validation found.
        records: the key in a configuration to the record that stands there; ``""`` to that of the whole.
    """
    return list(dict.fromkeys(_lines(error, records)))


def _lines(error: ValidationError, records: Mapping[str, type[BaseModel]]) -> Iterator[str]:
    problems = error.errors()
    meant = {  # a key that is there under a wrong name is not missing as well
        (*problem["loc"][:-1], close)
        for problem in problems
        if problem["type"] == "extra_forbidden" and (close := _close(problem["loc"], records))
    }
    within = {problem["loc"][:depth] for problem in problems for depth in range(len(problem["loc"]))}
    for problem in problems:
        place, kind, loc = ".".join(map(str, problem["loc"])), problem["type"], problem["loc"]
        if kind == "extra_forbidden":
            close = _close(loc, records)
            advice = f"did you mean {close!r}? " if close else ""
            yield f"{place}: unknown key; {advice}known keys: {', '.join(_record(loc[:-1], records).model_fields)}"
        elif kind == "missing":
            if loc not in meant:
                yield f"{place}: required, and missing"
        elif kind in {"model_type", "model_attributes_type", "dict_type"}:
            fields = ", ".join(_record(loc, records).model_fields)
            yield f"{place}: expected a mapping with keys of {fields}, found {problem['input']!r}"
        elif kind == "tuple_type":
            yield f"{place}: expected a list, found {problem['input']!r}"
        elif kind == "too_short":
            if loc in within:  # items that do not fit are not counted; there are enough
                continue
            yield f"{place}: expected a list of at least one, found {problem['input']!r}"
        elif kind == "value_error":
            yield from (f"{place}: {line.strip()}" for line in str(problem["ctx"]["error"]).splitlines())
        else:
            yield f"{place}: {problem['msg']}, found {problem['input']!r}"


def _close(loc: tuple[str | int, ...], records: Mapping[str, type[BaseModel]]) -> str:
    return next(iter(difflib.get_close_matches(str(loc[-1]), _record(loc[:-1], records).model_fields, n=1)), "")


def _record(loc: tuple[str | int, ...], records: Mapping[str, type[BaseModel]]) -> type[BaseModel]:
    return records[next((part for part in reversed(loc) if isinstance(part, str) and part in records), "")]
