"""Where the commands write: tables for people and JSON for programs to stdout, messages to stderr."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment

from featurebank.store.text import json_text, shown

__all__ = [
    "HtmlOption",
    "JsonOption",
    "Screen",
    "closed_streams",
    "console",
    "open_streams",
    "print_json",
    "show_messages",
    "show_others",
]

HtmlOption = Annotated[
    Path | None, typer.Option("--html", dir_okay=False, help="Write one offline page of the answers.")
]
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
    text = json_text(value, indent=2)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # the escapes of `open_streams` are not JSON's
        text = json.dumps(value, indent=2, default=str)
    sys.stdout.write(text + "\n")


def open_streams() -> None:
    """Makes streams that are closed swallow what is written, and those of few characters write others as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - until the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def closed_streams(code: int) -> int:
    """The exit code, once all is written; who has closed a pipe has read enough, which is no fault."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.EBADF}:
                raise
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - until the end
    return code


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
