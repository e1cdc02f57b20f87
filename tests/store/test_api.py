"""The public face: `__all__` is exactly it, and the error tree in the docstring is the real one."""

from __future__ import annotations

import re

import pytest

from featurebank import store
from featurebank.store import errors

NAMES: list[str] = vars(store)["__all__"]
ERRORS = [name for name in errors.__all__ if name.endswith("Error")]


def test_all_is_exactly_the_public_names() -> None:
    assert dir(store) == NAMES == sorted(set(NAMES))
    for name in NAMES:
        assert getattr(store, name).__module__.startswith("featurebank.store")
    assert set(vars(store)) >= set(NAMES)


def test_errors_are_drawn_as_they_are() -> None:
    assert errors.__doc__ is not None
    lines = re.findall(r"^    ([│├└─ ]*)(\w+Error)(?: +\((\w+)\))?", errors.__doc__, re.MULTILINE)
    above: list[type[Exception]] = []
    seen = set()
    for branch, name, builtin in lines:
        depth = len(branch) // 4
        error = getattr(errors, name)
        seen.add(name)
        if depth:
            assert issubclass(error, above[depth - 1])
        if builtin:
            assert issubclass(error, getattr(__import__("builtins"), builtin))
        above[depth:] = [error]
    assert sorted(seen) == ERRORS
    assert set(ERRORS) <= set(NAMES)


@pytest.mark.parametrize("name", ERRORS)
def test_messages_are_shown_as_written(name: str) -> None:
    assert str(getattr(errors, name)("expected 'a'\nfound 'b'")) == "expected 'a'\nfound 'b'"
