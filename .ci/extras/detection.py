"""Detections are scored, boxes and masks, with intervals over images; without the reference that tests compare with."""

import numpy as np
from toy import absent

from featurebank.extract.datasets.objects import Objects
from featurebank.pipelines.jobs.detection.evaluation import Detections, evaluate
from featurebank.pipelines.jobs.detection.pasting import encode

absent("pycocotools", "faiss", "dask")
box = np.array([[4.0, 6.0, 40.0, 50.0]])
runs = (encode(np.ones((28, 28), np.float32), box[0], 64, 80),)
label = np.zeros(1, np.int64)
truth = Objects(height=64, width=80, boxes=box, labels=label, crowd=np.zeros(1, bool), masks=runs)
found = Detections(boxes=box, scores=np.array([0.9]), labels=label, masks=runs)
for kind in ("box", "mask"):
    result = evaluate([truth] * 3, [found] * 3, ["tree"], kind=kind)
    assert round(result.numbers["AP"], 9) == round(result.intervals["AP50"][0], 9) == 1, result.numbers
