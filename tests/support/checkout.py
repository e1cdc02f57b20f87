"""What the checkout holds, and commands run in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

__all__ = ["ROOT", "command", "committed", "loaded"]

ROOT = Path(__file__).parent.parent.parent


def command(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )


def committed() -> list[str]:
    """The files that git holds and those that it would take, from the root."""
    done = (
        command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard") if shutil.which("git") else None
    )
    if done is None or done.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in sorted(set(done.stdout.split("\0")) - {""}) if (ROOT / name).is_file()]


def loaded(script: Path) -> ModuleType:
    """A script as a module, wherever it lies."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
