"""A small network is tuned on a few images, by the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from toy import absent

absent("faiss", "dask", "hotcoco")
for split in ("train", "test"):
    for k in range(12):
        pixels = np.random.default_rng(k).integers(0, 128, (40, 50, 3), dtype=np.uint8)
        pixels[:, :, k % 2] += 120
        path = Path("pets") / split / f"class{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
options = {"epochs": 1, "batch_size": 4}
config = {
    "backbones": ["timm:test_vit.r160_in1k@random:0"],
    "datasets": [{"name": "folder:pets", "splits": ["train", "test"]}],
    "extraction": {"precision": "float32"},
    "finetune": [{"of": "pets", "options": options}],
}
Path("run.yaml").write_text(json.dumps(config), "utf-8")
done = subprocess.run(
    [sys.executable, "-m", "featurebank", "finetune", "run.yaml", "--json"], capture_output=True, text=True, check=False
)
assert done.returncode == 0, done.stderr
(answer,) = json.loads(done.stdout)["answers"]
assert any(row["score"] == "tuned" and row["metric"] == "accuracy" for row in answer["rows"]), answer["rows"]
