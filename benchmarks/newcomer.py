"""Follows the tutorials as a newcomer does: from an empty folder, block by block, until the printed result.

python benchmarks/newcomer.py                        every tutorial; the times of each, and what its last block printed
python benchmarks/newcomer.py PAGE --folder FOLDER   one page of Markdown, in a folder
python benchmarks/newcomer.py --python ENV/bin/python   with the commands and packages of another environment

In a page, blocks of `sh` and `python` are run in their order, those of Python in one namespace. A comment before a
block says what else is to be done with it: `<!-- file: run.yaml -->` writes it to that file, `<!-- not run: why -->`
leaves it. A block of `text` behind a block that ran shows what that printed: each of its lines must be among the
printed ones, but for numbers and widths; `<!-- shown: why -->` before it leaves it unchecked.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Block", "blocks_of", "follow", "missing_lines"]

TUTORIALS = Path(__file__).resolve().parent.parent / "docs" / "tutorials"
WIDTH = "132"  # of the terminal that pages show
BLOCK = re.compile(
    r"(?:^<!--[ ]*(?P<mark>file|not[ ]run|shown):\s*(?P<value>.*?)\s*-->\n\n?)?"
    r"^(?P<fence>```+)(?P<language>\w*)\n(?P<text>.*?)^(?P=fence)$",
    flags=re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block of a page: where its text begins, its language, and what the comment before it says."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    value: str

    @property
    def runs(self) -> bool:
        """Whether it is a command or code that is run as it stands."""
        return self.language in ("sh", "python") and self.mark in ("", "shown")


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page of Markdown, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, block.start("text")) + 1,
            language=block["language"],
            text=block["text"],
            mark=block["mark"] or "",
            value=block["value"] or "",
        )
        for block in BLOCK.finditer(text)
    ]


def follow(page: Path) -> Iterator[tuple[Block, float, str]]:
    """Does what a page says, in the working directory: each block that ran, its seconds, and what it printed."""
    namespace: dict[str, object] = {"__name__": "__page__"}
    printed = ""
    for block in blocks_of(page):
        if block.mark == "file":
            Path(block.value).parent.mkdir(parents=True, exist_ok=True)
            Path(block.value).write_text(block.text, encoding="utf-8")
        elif block.runs:
            start = time.monotonic()
            printed = _python(block, namespace) if block.language == "python" else _shell(block)
            yield block, time.monotonic() - start, printed
        elif block.language == "text" and block.mark != "shown" and (lacks := missing_lines(block.text, printed)):
            raise RuntimeError(f"{page}:{block.line}: shown, but not printed:\n{lacks}\nprinted:\n{printed}")


def missing_lines(shown: str, printed: str) -> str:
    """The lines that a page shows and a command did not print, but for numbers and widths; "…" stands for anything."""
    there = {_masked(line) for line in printed.splitlines()}
    return "\n".join(line for line in shown.splitlines() if "…" not in line and _masked(line) not in there)


def _masked(line: str) -> str:
    numbers = re.sub(r"(?:(?<=\s)[-+])?[\d.,]*\d[\d.,]*", "#", f" {line}")
    return " ".join(re.sub(r"[-─━═]{3,}", "-", numbers).split())


def _python(block: Block, namespace: dict[str, object]) -> str:
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")  # a traceback shows the page's line
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, namespace)  # noqa: S102 - running it is what a page is followed for
    return out.getvalue()


def _shell(block: Block) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],  # noqa: S607 - as a reader has it
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"{block.page}:{block.line}: exit status {done.returncode}\n{block.text}\n"
            f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done.stdout


def _follow_here(page: Path) -> None:
    """Follows a page in the working directory, and says how long each block took."""
    sys.path[0] = ""  # what a page wrote can be imported, as it can from a script of its own
    total, out = 0.0, ""
    for block, seconds, out in follow(page):  # noqa: B007 - what the last one printed is shown below
        total += seconds
        print(f"{page.name}:{block.line}: {seconds:6.1f} s  {block.text.strip().splitlines()[0][:90]}", flush=True)
    print(f"{page.name}: {total:.1f} s; the last block printed:\n{out.rstrip()}")


def _one(python: str, page: Path, folder: Path) -> int:
    """Follows a page in a process of its own, with an environment's commands first."""
    path = os.pathsep.join([str(Path(python).absolute().parent), os.environ.get("PATH", "")])
    quiet = {"COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb", "PYTHONWARNINGS": "ignore"}
    here = [python, str(Path(__file__).resolve()), str(page.resolve()), "--here"]
    kept = {name: value for name, value in os.environ.items() if name != "FEATUREBANK_STORE"}
    return subprocess.run(here, cwd=folder, env={**kept, **quiet, "PATH": path}, check=False).returncode


def main() -> int:
    """Follows one page, or every tutorial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="*", help="a page of Markdown; every tutorial if not given")
    parser.add_argument("--folder", type=Path, help="where it is followed; an empty one if not given")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environment")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        _follow_here(*given.page)
        return 0
    worst = 0
    for page in given.page or sorted(TUTORIALS.glob("*.md")):
        with tempfile.TemporaryDirectory() as empty:
            start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            status = _one(given.python, page, given.folder or Path(empty))
            took, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        worst = max(worst, abs(status))
        if status == 0:
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            figures = {"ours": round(took, 1), "reference": "", "ratio": "", "unit": "s", "cpu_seconds": round(cpu, 1)}
            print(json.dumps({"name": f"{page.stem}, from an empty folder", **figures}), flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
