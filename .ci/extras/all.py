"""From images to a report, with everything in one environment: no two of the extras are in each other's way."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from toy import absent

absent("pytest", "mypy", "pycocotools")
for place in ("pets/train", "pets/test", "walls"):
    for k in range(24):
        pixels = np.random.default_rng(k).integers(0, 128, (40, 50, 3), dtype=np.uint8)
        pixels[:, :, k % 2] += 120
        path = Path(place) / f"class{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
Path("run.yaml").write_text(
    "backbones: ['timm:test_vit.r160_in1k@random:0']\n"
    "datasets: [{name: folder:pets, splits: [train, test]}, {name: folder:walls, splits: [all]}]\n"
    "questions: [{question: linear, of: pets}, {question: retrieve, of: pets/test}]\n"
)
for words in (
    ("features", "run.yaml"),
    ("ood", "pets", "--ood", "walls", "--score", "energy"),
    ("pack", "pets/train"),
    ("verify",),
    ("report", "features", "-o", "report.html"),
):
    done = subprocess.run([sys.executable, "-m", "featurebank", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
assert Path("report.html").stat().st_size > 10_000
