"""Images to features, without scikit-learn."""

from pathlib import Path

import numpy as np
from PIL import Image
from toy import absent

from featurebank.extract import backbones, datasets
from featurebank.extract.datasets import DatasetSpec
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.wanted import Request, want
from featurebank.store import FeatureStore

absent("sklearn", "faiss", "dask")
for k in range(4):
    path = Path("pets") / f"class{k % 2}" / f"{k}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
split = datasets.open_split(DatasetSpec(name="folder:pets", split="all"))
request = Request(backbone=backbones.resolve("timm:test_vit.r160_in1k@random:0"), split=0)
sets = want([request], [split], FeatureStore("features"), precision="float32")
outcomes = extract(sets, [split], execution=Execution(device="cpu", compile="never"))
assert [outcome.state for outcome in outcomes] == ["sealed"], outcomes
