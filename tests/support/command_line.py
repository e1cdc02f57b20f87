"""The command line, run in this process or in one of its own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from featurebank.pipelines.cli import _run, app

__all__ = ["PATIENCE", "Done", "featurebank_", "subprocess_", "words"]

PATIENCE = 120.0


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def featurebank_(*arguments: str | Path) -> Done:
    """Runs the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    words = ["featurebank", *(str(argument) for argument in arguments)]
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run(app)
    assert "Traceback" not in err.getvalue()
    return Done(code, out.getvalue(), err.getvalue())


def subprocess_(*arguments: str | Path) -> Done:
    """Runs it in a process of its own."""
    words = [sys.executable, "-m", "featurebank", *map(str, arguments)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=PATIENCE)
    return Done(done.returncode, done.stdout, done.stderr)


def words(text: str) -> str:
    """Without the frames and the line breaks that depend on the width."""
    return " ".join(text.replace("│", " ").split())
