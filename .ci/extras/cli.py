"""The command line alone: it lists and verifies, and names the extra that a question lacks, in one line."""

import subprocess
import sys
from pathlib import Path

from toy import absent, stored

absent("torch", "sklearn", "faiss", "PIL")
stored(Path("store"), "train", 0)
stored(Path("store"), "test", 1)
stored(Path("store"), "far", 2)
Path("run.yaml").write_text("backbones: [efficientnet_lite0]\ndatasets: [{name: digits, splits: [all]}]\n")


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command; a traceback is never right."""
    done = subprocess.run([sys.executable, "-m", "featurebank", *words], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


STORE = ("--store", "store")
for words in (
    ("--help",),
    ("ls", *STORE),
    ("show", "toy/train", "tiny", *STORE),
    ("verify", *STORE),
    ("duplicates", "toy/test", *STORE),
):
    done = run(*words)
    assert done.returncode == 0, (words, done.stderr)
for words, extra in (
    (("probe", "toy", *STORE), "probes"),
    (("knn", "toy", *STORE), "probes"),
    (("retrieve", "toy/test", *STORE), "retrieval"),
    (("ood", "toy", "--ood", "toy/far", *STORE), "probes"),
    (("features", "run.yaml", *STORE), "extract"),
    (("doctor",), "extract"),
    (("pack", "toy/train", *STORE), "pack"),
):
    done = run(*words)
    assert done.returncode == 1, (words, done)
    assert f"pip install 'featurebank[{extra}]'" in " ".join((done.stderr + done.stdout).split()), (words, done)
