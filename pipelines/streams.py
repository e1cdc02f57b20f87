"""Where the commands write: tables for people and JSON for programs to stdout, messages to stderr."""

from __future__ import annotations

import json
import sys

from rich.console import Console

__all__ = ["console", "print_json"]

WIDTH_WITHOUT_TERMINAL = 150


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or of a fixed width where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else WIDTH_WITHOUT_TERMINAL)


def print_json(value: object) -> None:
    """Writes indented JSON to stdout; what JSON does not know, as text."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
