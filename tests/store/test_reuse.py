"""A second project that depends on featurebank alone, built and run in an environment of its own, made offline."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from feature_sets import KEY

from featurebank.store import FeatureSetWriter, FeatureStore, Output, Records
from featurebank.store.fingerprint import fingerprint

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "reuse"
ALLOWED = {"numpy", "h5py", "xxhash"}
N, D = 400, 16


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def built(project: Path, folder: Path) -> Path:
    """The wheel of a project."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds wheels, is not installed")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=project)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def needed(wheel: Path) -> set[str]:
    """What a wheel requires without any extra."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = importlib.metadata.PathDistribution(zipfile.Path(wheel) / name.removesuffix("METADATA"))
        return {re.split(r"[^\w.-]", line)[0] for line in metadata.requires or () if "extra ==" not in line}


def link_installed(name: str, site: Path) -> None:
    """Puts an installed distribution into another environment of the same interpreter."""
    distribution = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        source = Path(str(distribution.locate_file(top)))
        if source.exists():
            (site / top).symlink_to(source)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    wheels = {project.name: built(project, folder / project.name) for project in (ROOT, EXAMPLE)}
    assert needed(wheels[EXAMPLE.name]) == {"featurebank"}
    assert needed(wheels[ROOT.name]) == ALLOWED
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as file:
            file.extractall(site)
    for name in sorted(ALLOWED):
        link_installed(name, site)
    return folder / "env" / "bin" / "python"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Three classes around three centres, a fifth of the rows far from all."""
    store = FeatureStore(tmp_path / "features")
    centres = np.random.default_rng(0).standard_normal((3, D))
    for seed, split in enumerate(("train", "test")):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 3, N)
        values = centres[labels] + 0.3 * generator.standard_normal((N, D))
        values[::5] = generator.standard_normal((len(values[::5]), D))
        key = {**KEY, "dataset": {"name": "demo", "split": split}}
        records = Records(ids=[str(row) for row in range(N)], labels=labels, content_hash=np.zeros((N, 16), np.uint8))
        path = store.path_for("demo", split, "tiny/net", fingerprint(key))
        with FeatureSetWriter.create(path, key=key, outputs=[Output(name="pooled", shape=(D,))], records=records) as w:
            w.write_chunk("pooled", 0, values.astype(np.float16))
            w.mark_ok(0, N)
            w.seal().close()
    return store


def reference(store: FeatureStore) -> float:
    """The same by NumPy's least squares: the penalty as rows below."""

    def rows(split: str) -> tuple[np.ndarray, np.ndarray]:
        with store.open(f"demo/{split}", "tiny/net") as fs:
            X = fs["pooled"].astype(np.float64)
            return np.c_[X / np.linalg.norm(X, axis=1, keepdims=True), np.ones(N)], np.array(fs.labels)

    (X, y), (Z, truth) = rows("train"), rows("test")
    padded = np.r_[X, np.sqrt(1e-3) * np.eye(D + 1)]
    weight = np.linalg.lstsq(padded, np.r_[np.eye(3)[y], np.zeros((D + 1, 3))], rcond=None)[0]
    return float(((Z @ weight).argmax(axis=1) == truth).mean())


@pytest.mark.slow
def test_a_project_with_featurebank_alone_trains_on_a_store(
    environment: Path, store: FeatureStore, tmp_path: Path
) -> None:
    places = ("demo/train", "demo/test", "tiny/net")
    done = run(environment, "-m", "ridge_on_features", store.root, *places, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["rows"] == N
    assert result["accuracy"] == pytest.approx(reference(store), abs=0.005)
    assert 0.6 < result["accuracy"] < 1


@pytest.mark.slow
def test_nothing_else_is_there(environment: Path, tmp_path: Path) -> None:
    script = "import featurebank.store, importlib.util as u; print([n for n in {names!r} if u.find_spec(n)])"
    names = ["torch", "sklearn", "PIL", "rich", "pydantic", "yaml", "timm", "pytest"]
    done = run(environment, "-c", script.format(names=names), cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
