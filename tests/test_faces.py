"""The public faces of packages: exactly their modules' public names, each of which resolves, and cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

WHOLE = ("featurebank.probes", "featurebank.probes.ood", "featurebank.retrieval")
FACES = ("featurebank.extract", *WHOLE)


def types_only(package: str) -> dict[str, list[str]]:
    """What type checkers read: module to the names that the package takes from it."""
    tree = ast.parse(Path(str(import_module(package).__file__)).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    names: dict[str, list[str]] = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        assert line.module is not None
        given = [alias.name for alias in line.names]
        names.setdefault(line.module, []).extend(import_module(line.module).__all__ if given == ["*"] else given)
    return names


@pytest.mark.parametrize("package", FACES)
def test_a_face_has_exactly_its_public_names(package: str) -> None:
    face = import_module(package)
    assert face.__all__ == sorted(name for names in types_only(package).values() for name in names)
    assert len(set(face.__all__)) == len(face.__all__)
    assert dir(face) == face.__all__
    for module, names in types_only(package).items():
        for name in names:
            assert getattr(face, name) is getattr(import_module(module), name), name
            assert name in import_module(module).__all__
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        face.nothing  # noqa: B018


@pytest.mark.parametrize("package", WHOLE)
def test_no_public_module_is_forgotten(package: str) -> None:
    folder = Path(str(import_module(package).__file__)).parent
    public = {
        f"{package}.{path.stem}"
        for path in folder.glob("[a-z]*.py")
        if "__all__ = [" in path.read_text(encoding="utf-8")
    }
    assert types_only(package).keys() == public


@pytest.mark.parametrize("package", FACES)
def test_importing_a_face_is_cheap_and_a_star_brings_its_names(package: str) -> None:
    script = (
        f"import sys, {package} as face; dir(face); "
        "print(*{name.partition('.')[0] for name in sys.modules} & {'numpy', 'torch', 'sklearn', 'faiss', 'PIL'}); "
        f"names = {{}}; exec('from {package} import *', names); print(*sorted(set(names) - {{'__builtins__'}}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded, names = done.stdout.splitlines()
    assert loaded == ""
    assert names.split() == import_module(package).__all__
