"""Where the commands write: tables for people and JSON for programs to stdout, messages to stderr."""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

__all__ = ["JsonOption", "console", "print_json", "show_messages"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables for people.")]

WIDTH_WITHOUT_TERMINAL = 150


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or of a fixed width where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else WIDTH_WITHOUT_TERMINAL)


def print_json(value: object) -> None:
    """Writes indented JSON to stdout; what JSON does not know, as text."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def show_messages(screen: Console) -> None:
    """Shows what the project logs, from INFO on, on a console instead of wherever it went."""
    handler = RichHandler(console=screen, show_time=False, show_path=False, show_level=False, markup=False)
    log = logging.getLogger("featurebank")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
