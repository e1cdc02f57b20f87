"""What users write themselves, by name: ``package.module:NAME``, or ``FILE.py:NAME`` for a file wherever it lies."""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from featurebank.store.places import expanded

__all__ = ["in_file", "own_object"]


def in_file(place: str) -> bool:
    """Whether a place is one in a file.

    >>> in_file("nets.py:tiny"), in_file("package.nets:tiny")
    (True, False)
    """
    return ".py:" in place


def own_object(place: str) -> tuple[Any, ModuleType]:
    """The object at a place, and the module that holds it, with the file that it was read from as ``__file__``.

    A module is imported once for a process; a file is read again when it has changed.

    Raises:
        ImportError: there is no such module, file or object, or the code fails when it is imported.

    >>> own_object("math:pi")[0]
    3.141592653589793
    """
    where, _, attribute = place.rpartition(":")
    if not (where and attribute):
        raise ImportError(f"expected python:MODULE:NAME or python:FILE.py:NAME, found python:{place}")
    module = _of_file(expanded(where).absolute()) if in_file(place) else _of_module(where)
    if not hasattr(module, attribute):
        raise ImportError(f"{where} has no attribute {attribute!r}")
    return getattr(module, attribute), module


class _Source(importlib.abc.FileLoader, importlib.abc.SourceLoader):  # type: ignore[misc]
    """Compiles a file anew: bytecode beside it may be of an earlier version, one of the same second and size."""


def _of_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, AttributeError, OSError, SyntaxError, ValueError) as error:
        raise ImportError(
            f"cannot import {name}: {error}; install it, put its folder on PYTHONPATH, or name its file: "
            "python:FILE.py:NAME"
        ) from error


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    name = f"featurebank_own_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, str(path)))
    assert spec is not None  # noqa: S101 - a loader is given
    assert spec.loader is not None  # noqa: S101 - a loader is given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, ImportError | AttributeError | OSError | SyntaxError | ValueError):
            raise ImportError(f"{path} cannot be imported: {error}") from error
        raise
    return module
