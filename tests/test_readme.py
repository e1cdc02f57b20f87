"""The README's Python runs, in its order and in one namespace, beside a small store of the demo's shape."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from featurebank.store import FeatureSetWriter, FeatureStore, Output, Records
from featurebank.store.fingerprint import fingerprint

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DEMO = yaml.safe_load((ROOT / "pipelines" / "extracting" / "demo.yaml").read_text(encoding="utf-8"))
N_ROWS, N_FEATURES, N_CLASSES = 120, 32, 10


def python_blocks() -> list[tuple[int, str]]:
    """The line where each block of Python begins, and its text."""
    text = README.read_text(encoding="utf-8")
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start(1)) + 1, block[1]) for block in blocks]


def write_feature_set(store: FeatureStore, dataset: str, split: str, backbone: str) -> None:
    """Seals features that tell the classes apart, so that whatever reads them has something to find."""
    rng = np.random.default_rng(0 if split == "train" else 1)
    labels = np.arange(N_ROWS) % N_CLASSES
    values = np.eye(N_CLASSES, N_FEATURES)[labels] + rng.normal(scale=0.1, size=(N_ROWS, N_FEATURES))
    records = Records(
        ids=[f"{split}/{row:05d}" for row in range(N_ROWS)],
        labels=labels,
        content_hash=rng.integers(0, 256, (N_ROWS, 16), dtype=np.uint8),
    )
    key = {"backbone": {"name": backbone}, "dataset": {"name": dataset, "split": split}}
    path = store.path_for(dataset, split, backbone, fingerprint(key))
    with FeatureSetWriter.create(
        path, key=key, outputs=[Output(name="pooled", shape=(N_FEATURES,))], records=records
    ) as writer:
        rows = writer.chunk_rows("pooled")
        for chunk in range(-(-N_ROWS // rows)):
            writer.write_chunk("pooled", chunk, values[chunk * rows : (chunk + 1) * rows].astype(np.float16))
        writer.mark_ok(0, N_ROWS)
        writer.seal()


@pytest.fixture
def demo_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the working one, in which ``features/`` holds each backbone of the demo on each of its splits."""
    monkeypatch.chdir(tmp_path)
    store = FeatureStore(DEMO["store"])
    for backbone in DEMO["backbones"]:
        for dataset in DEMO["datasets"]:
            for split in dataset["splits"]:
                name = backbone if isinstance(backbone, str) else backbone["name"]
                write_feature_set(store, dataset["name"], split["split"], name)
    return tmp_path


@pytest.mark.usefixtures("demo_store")
def test_the_python_of_the_readme_runs() -> None:
    blocks = python_blocks()
    assert blocks, "the README must show how features are read"
    namespace: dict[str, object] = {}
    for line, block in blocks:
        code = compile("\n" * (line - 1) + block, str(README), "exec")  # a traceback shows the README's own line
        exec(code, namespace)  # noqa: S102 - running it is the test
