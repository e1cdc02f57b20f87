"""What a question needs to be known, and to be answered from what is known, is imported at once; nothing heavy is."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import PATIENCE, featurebank_
from ood_sets import write_backbone

from featurebank.pipelines import asking, questions
from featurebank.store import FeatureStore

HEAVY = ("torch", "sklearn", "scipy", "pandas", "PIL", "faiss", "pydantic")
FOR_PEOPLE = ("table", "page", "images", "verb")  # of asking: what draws, opens images or reads a command line
IMPORTED = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if heavy := sorted({heavy} & sys.modules.keys()):
        sys.exit(f"{{name}} imports {{heavy}}")
"""
ASKED = """
import sys
from featurebank.pipelines.cli import _run, app
code = _run(app)
print(sorted({heavy} & sys.modules.keys()), file=sys.stderr)
sys.exit(code)
"""


def modules() -> list[str]:
    """Every module of asking but those that show something, and every question; what a folder keeps for run is left."""
    found = [f"{asking.__name__}.{module.name}" for module in pkgutil.iter_modules(asking.__path__)]
    found = [name for name in found if name.rpartition(".")[2] not in FOR_PEOPLE]
    return [*found, *(f"{questions.__name__}.{module.name}" for module in pkgutil.iter_modules(questions.__path__))]


def run(script: str, heavy: Sequence[str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script.format(heavy=set(heavy)), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)


def test_questions_and_how_they_are_asked_import_nothing_heavy() -> None:
    names = modules()
    assert len(names) > 20
    done = run(IMPORTED, HEAVY, *names)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = FeatureStore(tmp_path_factory.mktemp("imports"))
    write_backbone(made, "net")
    return made.root


@pytest.mark.parametrize(
    "words",
    [
        ("linear", "pets"),
        ("probe", "pets", "--task", "linear", "--task", "knn", "--k", "5"),
        ("retrieve", "pets/test"),
        ("ood", "pets", "--ood", "shapes", "--ood", "noise", "--score", "msp", "--score", "mds", "--resamples", "10"),
        ("duplicates", "pets/train:test"),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_known_answer_imports_nothing_heavy(store: Path, words: tuple[str, ...], form: tuple[str, ...]) -> None:
    first = featurebank_(*words, "--store", store)
    assert first.code == 0, first.err
    # typer itself imports pydantic where it is installed
    done = run(ASKED, [name for name in HEAVY if name != "pydantic"], *words, "--store", str(store), *form)
    assert done.returncode == 0, done.stderr
    assert ('"known": true' if form else "0 computed, ") in done.stdout
    assert '"known": false' not in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"
