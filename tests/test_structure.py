"""The layout: folders, links and wheel in step, storeys kept apart, nothing of one machine in what is committed."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import shutil
import sys
import threading
import tomllib
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT, command, committed, loaded

PACKAGE = ROOT / "src" / "featurebank"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}


def modules_loaded_by(imports: str, *, after: str = "sys") -> set[str]:
    """The top-level modules outside the standard library that a fresh interpreter loads for an import."""
    done = command(
        sys.executable,
        "-c",
        f"import sys, {after}; before = set(sys.modules); import {imports}; print(*(set(sys.modules) - before))",
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names


# Folders, links, wheel.


def test_each_folder_has_one_relative_link() -> None:
    links = {path.name: path.readlink().as_posix() for path in PACKAGE.iterdir() if path.is_symlink()}
    assert links == {name: f"../../{name}" for name in FOLDERS}


def test_the_wheel_mapping_names_each_folder() -> None:
    build = PYPROJECT["tool"]["hatch"]["build"]
    own = {path.relative_to(ROOT).as_posix() for path in PACKAGE.iterdir() if path.is_file() and path.suffix != ".pyc"}
    assert set(build["only-include"]) == FOLDERS | own
    assert build["targets"]["wheel"]["sources"] == {
        "src/featurebank": "featurebank",
        **{name: f"featurebank/{name}" for name in FOLDERS},
    }


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    done = command(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {
        "featurebank/py.typed",
        "featurebank/pipelines/extracting/demo.yaml",
        "featurebank/store/FORMAT.md",
    } <= names
    wanted = {name.removeprefix("src/") for name in committed() if name.startswith("src/featurebank/")}
    assert names == wanted | {f"featurebank/{name}" for name in committed() if name.partition("/")[0] in FOLDERS}


# Storeys.


def test_importing_the_store_loads_numpy_h5py_and_xxhash_only() -> None:
    loaded = modules_loaded_by("featurebank.store", after="h5py, numpy, xxhash")
    assert loaded - {"h5py", "numpy", "xxhash"} == {"featurebank"}


def test_importing_extract_loads_no_package_of_the_command_line() -> None:
    assert modules_loaded_by("featurebank.extract").isdisjoint({"pydantic", "rich", "sklearn", "typer", "yaml"})


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("store/errors.py", "import featurebank.extract.errors", "storeys"),
        ("probes/__init__.py", "import featurebank.extract.errors", "probes and retrieval"),
        ("retrieval/__init__.py", "import featurebank.probes", "storeys"),
        ("extract/backbones/contract.py", "import featurebank.pipelines", "storeys"),
        ("store/errors.py", "import pandas", "the store needs"),
        ("extract/errors.py", "from yaml import safe_load", "extraction needs"),
        ("probes/__init__.py", "import timm", "probes and retrieval"),
    ],
)
def test_the_import_rules_refuse(file: str, line: str, broken: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / file).open("a", encoding="utf-8") as module:
        module.write(f"\n{line}\n")
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = command(sys.executable, "-c", lint, "--no-cache", cwd=tmp_path, PYTHONPATH=str(tmp_path / "src"))
    contracts = [entry["name"] for entry in PYPROJECT["tool"]["importlinter"]["contracts"]]
    told = " ".join(done.stdout.split())  # names are wrapped
    assert done.returncode == 1, done.stdout + done.stderr
    assert [name for name in contracts if f"{name} BROKEN" in told] == [
        name for name in contracts if name.startswith(broken)
    ]


# Circles.


def import_graph(package: Path) -> dict[str, set[str]]:
    """Module to the modules of the package that it imports: at its top, in a function, or for types only."""
    files = {}
    for folder, _, names in os.walk(package, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".py":
                module = ".".join((package.name, *path.relative_to(package).with_suffix("").parts))
                files[module.removesuffix(".__init__")] = path
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= {name if name in files else str(node.module) for name in inner}
        graph[module] = imported & files.keys()
    return graph


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = import_graph(PACKAGE)
    assert "featurebank.store.reader" in graph["featurebank.store"]
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "line",
    [
        "import toy.low",
        "from toy.low import name",
        "from toy import low",
        "def f():\n    from toy import low",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.low import name",
    ],
)
def test_a_circle_is_found_wherever_its_imports_stand(line: str, tmp_path: Path) -> None:
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "low.py").write_text("from toy.high import other\n", encoding="utf-8")
    (package / "high.py").write_text(line, encoding="utf-8")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(import_graph(package)).prepare()


# What is committed.


def lines_with(pattern: str) -> list[str]:
    """Where a pattern stands in the committed text, as ``file:line: text``; binary files are passed over."""
    found = []
    for name in committed():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content:
            lines = content.decode("utf-8", errors="replace").splitlines()
            found += [f"{name}:{number}: {line}" for number, line in enumerate(lines, 1) if re.search(pattern, line)]
    return found


def test_no_registry_is_named_by_its_address() -> None:
    registries = r"pypi|pythonhosted|npmjs|debian|download\.pytorch|conda|crates"  # no address, so not found here
    assert lines_with(rf"\b(?:{registries})\.(?:org|com|io)\b") == []


def test_no_path_of_one_machine_is_named() -> None:
    assert lines_with(r"(?<![\w.~})\]-])/(?:work|home|root|Users)/[\w.]") == []


def test_constraints_pin_each_package_once_by_name_and_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][\w.!+]*", line)] == []
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))


def test_d16_looking_for_children_outlives_threads_that_end_meanwhile() -> None:
    conftest = loaded(ROOT / "tests" / "conftest.py")
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()

    busy = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in busy:
        thread.start()
    try:
        assert all(conftest._children() == set() for _ in range(200))
    finally:
        stop.set()
        for thread in busy:
            thread.join()
