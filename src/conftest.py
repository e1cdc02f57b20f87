"""Doctests run in an empty folder: one that names ``features`` must not meet the store of this checkout."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves the test into a new folder and back."""
    monkeypatch.chdir(tmp_path)
