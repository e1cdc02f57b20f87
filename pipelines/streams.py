"""Where the commands write: tables for people and JSON for programs to stdout, messages to stderr."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment

from featurebank.store.text import json_text, shown

__all__ = ["JsonOption", "Screen", "console", "print_json", "show_messages", "show_others"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables for people.")]

WIDTH_WITHOUT_TERMINAL = 150


class Screen(Console):
    """A console on which no text can do anything: no markup, no emoji codes, no character that orders or hides.

    A name or a message may come from a stranger's file. What shall have a style is a `rich.text.Text`. Line breaks
    pass, because messages have several lines; in tables they do not, see `featurebank.pipelines.tables`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's, with the texts made visible; orders of rich itself stay."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(shown(segment.text, keep="\n"), segment.style)


def console(*, stderr: bool = False) -> Screen:
    """A console as wide as the terminal, or of a fixed width where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Screen(stderr=stderr, width=None if stream.isatty() else WIDTH_WITHOUT_TERMINAL)


def print_json(value: object) -> None:
    """Writes indented JSON to stdout; what JSON does not know, as text."""
    sys.stdout.write(json_text(value, indent=2) + "\n")


def show_messages(screen: Console) -> None:
    """Shows what the project logs, from INFO on, on a console instead of wherever it went."""
    handler = RichHandler(console=screen, show_time=False, show_path=False, show_level=False, markup=False)
    log = logging.getLogger("featurebank")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def show_others() -> None:
    """Makes visible what warnings and the logs of other libraries say, which may quote a file too."""
    plain = warnings.formatwarning
    warnings.formatwarning = lambda *about, **more: shown(plain(*about, **more), keep="\n")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Visible())


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record), keep="\n")
