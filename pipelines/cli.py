"""The command line: one verb each. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done, 1 something failed, 2 wrong use (arguments, a configuration, a name that does not exist),
3 nothing is known to be damaged but not all could be checked (`verify`), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from featurebank import __version__
from featurebank.pipelines.backbones import backbones
from featurebank.pipelines.datasets import datasets
from featurebank.pipelines.doctor import doctor
from featurebank.pipelines.duplicates import duplicates
from featurebank.pipelines.export import export
from featurebank.pipelines.extracting.texts import texts
from featurebank.pipelines.extraction import features
from featurebank.pipelines.inspection import ls, show, verify
from featurebank.pipelines.keeping import gc, merge, pack, unpack
from featurebank.pipelines.ood.command import ood
from featurebank.pipelines.probing.command import probe
from featurebank.pipelines.retrieving.command import retrieve
from featurebank.pipelines.streams import closed_streams, console, open_streams, show_messages, show_others
from featurebank.store.places import expanded
from featurebank.store.requirements import EXTRAS, advice
from featurebank.store.text import shown

__all__ = ["app", "main"]


class _Verb(TyperCommand):
    """A verb whose paths are written as in a shell, wherever they come from: ``--store=~/x`` no shell expands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        ctx.params = {name: _expanded(value) for name, value in ctx.params.items()}
        return rest


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    return expanded(value) if isinstance(value, Path) else value


app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Extract every backbone's frozen features once; ask the cached features anything.",
)

NEEDS = {"probe": "probes", "ood": "probes", "retrieve": "retrieval"}  # verbs whose packages are in several extras
INTERRUPTED = 130  # what typer makes of Ctrl-C

for verb in (
    features, texts, probe, retrieve, ood, ls, show, verify, doctor, backbones, datasets, duplicates, export, gc, merge,
    pack, unpack,
):  # fmt: skip
    app.command(cls=_Verb)(verb)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # noqa: ARG001 - its callback has answered
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Extract every backbone's frozen features once; ask the cached features anything."""
    show_messages(console(stderr=True))


def main() -> None:
    """The console script: every error the project raises on purpose is one clear message, not a traceback."""
    open_streams()
    show_others()
    try:
        code = _run(app)
    except Exception:  # a fault of ours; what it tells may quote a stranger's file all the same
        sys.stderr.write(shown(traceback.format_exc(), keep="\n"))
        code = 1
    if code == INTERRUPTED:
        # Threads may be inside of torch, which ends the process by SIGABRT where it finds them so at its own end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(closed_streams(code))


def _run(application: Callable[..., Any]) -> int:
    from featurebank.extract.errors import ExtractError
    from featurebank.store import StoreError

    try:
        application()
    except SystemExit as done:
        if isinstance(done.__context__, BrokenPipeError):  # who reads has read enough
            return 0
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
        if code == INTERRUPTED:
            console(stderr=True).print("interrupted; what was committed is kept, run again to go on", style="yellow")
        return code
    except (StoreError, ExtractError, OSError, ValueError) as error:
        text = _text(error)
        console(stderr=True).print(Text.assemble(("error:", "red"), f" {text}"), soft_wrap=True)
        return _exit_code(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS:
            raise
        text = f" this {advice(error.name or '', next((NEEDS[word] for word in sys.argv if word in NEEDS), ''))}"
        console(stderr=True).print(Text.assemble(("error:", "red"), text), soft_wrap=True)
        return 1
    return 0


def _text(error: Exception) -> str:
    """What an error says, on one line unless it is a list; line breaks of names in it are shown, not made."""
    from featurebank.extract.errors import WeightsError
    from featurebank.pipelines.config import ConfigError
    from featurebank.store import AmbiguousError

    lists = isinstance(error, (AmbiguousError, ConfigError, WeightsError))
    return shown(str(error), keep="\n" if lists else "") or type(error).__name__


def _exit_code(error: Exception) -> int:
    from featurebank.pipelines.config import ConfigError

    return 2 if isinstance(error, (KeyError, ConfigError)) else 1
