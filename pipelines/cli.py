"""The command line: one verb each. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done, 1 something failed, 2 wrong use (arguments, a configuration, a name that does not exist),
3 nothing is known to be damaged but not all could be checked (`verify`), 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from featurebank import __version__
from featurebank.pipelines.asking.register import help_of, is_question, question_names
from featurebank.pipelines.streams import closed_streams, console, open_streams, show_messages, show_others
from featurebank.store.places import expanded
from featurebank.store.requirements import EXTRAS, advice
from featurebank.store.text import shown

__all__ = ["app", "main"]

VERBS = {  # what is no question, and the module that it is a function of
    "features": "extracting.command", "texts": "extracting.texts", "finetune": "extracting.working",
    "detect": "extracting.working", "segment": "extracting.working",
    "results": "summaries.results", "rank": "summaries.rank", "report": "summaries.report.command",
    "efficiency": "jobs.efficiency.command", "choose": "jobs.choose.command",
    "ls": "keeping.inspection", "show": "keeping.inspection", "verify": "keeping.inspection",
    "doctor": "keeping.doctor", "backbones": "keeping.backbones", "datasets": "keeping.datasets",
    "export": "keeping.export", "gc": "keeping.upkeep", "merge": "keeping.upkeep", "pack": "keeping.upkeep",
    "unpack": "keeping.upkeep", "index": "keeping.upkeep",
}  # fmt: skip
PROBE = "Ask several questions of train and test sets at once: the main numbers of each in one table."
DOCSTRING = r'\ndef {}\(.*?\n    """(.*?)(?:\n\n|""")'
NEEDS = {"retrieve": "retrieval", "duplicates": "retrieval"}  # the extra of a question's packages, where not probes
INTERRUPTED = 130  # what typer makes of Ctrl-C


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


class _Verbs(TyperGroup):
    """All verbs, each of them imported when it is asked for; the list of them knows their help alone."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (as the base has it)
        return [*VERBS, "probe", *question_names()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS and cmd_name != "probe" and not is_question(cmd_name):
            return None
        return _command(cmd_name) if ctx.resilient_parsing else TyperCommand(cmd_name, help=_help(cmd_name))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {name: TyperCommand(name) for name in self.list_commands(ctx)}  # the nearest are suggested
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _command(name), rest


def _command(name: str) -> Any:
    """A verb with all of its options."""
    if name in VERBS:
        run = getattr(import_module(f"featurebank.pipelines.{VERBS[name]}"), name)
    else:
        from featurebank.pipelines.asking.verb import probe, verb

        run = probe(PROBE) if name == "probe" else verb(name)
    alone = typer.Typer(add_completion=False)
    alone.command(name, cls=_Verb)(run)
    return get_command(alone)


def _help(name: str) -> str:
    """The first sentences of a verb's docstring, without importing it."""
    if name == "probe":
        return PROBE
    if name not in VERBS:
        return help_of(name)
    source = Path(__file__).parent.joinpath(*VERBS[name].split(".")).with_suffix(".py").read_text(encoding="utf-8")
    match = re.search(DOCSTRING.format(name), source, re.DOTALL)
    return " ".join(match[1].split()) if match else ""


app = typer.Typer(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Extract every backbone's frozen features once; ask the cached features anything.",
)


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
        asked = next((word for word in sys.argv[1:] if word == "probe" or is_question(word)), "")
        text = f" this {advice(error.name or '', NEEDS.get(asked, 'probes') if asked else '')}"
        console(stderr=True).print(Text.assemble(("error:", "red"), text), soft_wrap=True)
        return 1
    return 0


def _text(error: Exception) -> str:
    """What an error says, on one line unless it is a list; line breaks of names in it are shown, not made."""
    from featurebank.extract.errors import WeightsError
    from featurebank.pipelines.errors import ConfigError
    from featurebank.store import AmbiguousError

    lists = isinstance(error, (AmbiguousError, ConfigError, WeightsError))
    return shown(str(error), keep="\n" if lists else "") or type(error).__name__


def _exit_code(error: Exception) -> int:
    from featurebank.pipelines.errors import ConfigError

    return 2 if isinstance(error, (KeyError, ConfigError)) else 1
