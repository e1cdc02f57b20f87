"""A package that is not installed is one line with the extra that brings it, and stops what needs it alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import PATIENCE

from featurebank.store import FeatureStore

WITHOUT = """
import importlib.util, sys
missing = set(sys.argv.pop(1).split(","))
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
known = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name.partition(".")[0] in missing else known(name)
from featurebank.pipelines.cli import main
sys.argv[0] = "featurebank"
main()
"""
CONFIG = 'backbones: [mobilenetv2]\ndatasets: [{name: "folder:pets", splits: [train]}]\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("missing")
    store = FeatureStore(made / "features")
    labels = np.arange(12) % 3
    rows = np.eye(3, 8)[labels] + np.linspace(0, 0.1, 96).reshape(12, 8)
    for split in ("train", "test"):
        store.add(f"pets/{split}", "net", rows, labels=labels)
    (made / "run.yaml").write_text(CONFIG)
    return made


@pytest.mark.parametrize(
    ("missing", "words", "advice"),
    [
        ("torch", "linear pets", "torch: pip install 'featurebank[probes]'"),
        ("sklearn", "linear pets", "sklearn: pip install 'featurebank[probes]'"),
        ("torch", "mlp pets", "torch: pip install 'featurebank[probes]'"),
        ("faiss", "retrieve pets/test --index Flat", "faiss: pip install 'featurebank[retrieval]'"),
        ("yaml", "features run.yaml", "yaml: pip install 'featurebank[cli]'"),
        ("torchvision,torch,timm", "features run.yaml", "pip install 'featurebank[extract]'"),
        ("pyarrow", "export pets/test net out.parquet", "pyarrow: pip install 'featurebank[extract]'"),
        ("hdf5plugin", "pack packed", "hdf5plugin: pip install 'featurebank[pack]'"),
        ("distributed,dask", "features run.yaml --workers 2", "install them with: pip install 'featurebank[scale]'"),
        ("torch,torchvision,timm,sklearn,faiss,pandas", "doctor", ""),
        ("torch,torchvision,timm,sklearn,faiss,pandas,PIL,scipy", "ls", ""),
        ("torch,torchvision,timm,sklearn,faiss,pandas,PIL,scipy", "show pets/test net", ""),
        ("torch,torchvision,timm,sklearn,faiss,pandas,PIL,scipy", "verify", ""),
        ("torch,torchvision,timm,sklearn,faiss,pandas,PIL,scipy", "export pets/test net out.safetensors", ""),
        ("torch,torchvision,timm,sklearn,faiss,pandas,PIL,scipy", "duplicates pets/test --exact", ""),
        ("torch,torchvision,timm,sklearn,faiss,pandas,PIL,scipy", "linear --help", ""),
        ("torch,torchvision,timm,sklearn,faiss,pandas,scipy", "backbones", ""),
    ],
)
def test_d1_a_missing_package_is_one_line(folder: Path, missing: str, words: str, advice: str) -> None:
    command = [sys.executable, "-c", WITHOUT, missing, *words.split()]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=PATIENCE)
    said = " ".join((done.stdout + done.stderr).replace("│", " ").split())
    assert "Traceback" not in said
    assert advice in said
    assert done.returncode == (0 if not advice else 2 if "--workers" in words else 1), said
