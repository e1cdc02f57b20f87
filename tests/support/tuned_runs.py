"""Pictures of three classes, and configurations that tune a tiny network on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["NETWORK", "configuration", "pictures"]

NETWORK = "timm:test_efficientnet.r160_in1k@random:0@64px"
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


def pictures(folder: Path, n: int, seed: int) -> None:
    """Noise around one colour a class, too noisy to tell all of it apart."""
    generator = np.random.default_rng(seed)
    for index in range(n):
        place = folder / f"class{index % 3}" / f"{index:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.normal(COLOURS[index % 3], 120, (40, 44, 3))
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(place)


def configuration(folder: Path, **options: Any) -> Path:
    """With a section ``finetune``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "store": str(folder / "store"),
        "backbones": [NETWORK],
        "datasets": [{"name": f"folder:{folder}/data", "label": "toy", "splits": ["train", "test"]}],
        "extraction": {"precision": "float32", "dtype": "float32", "device": "cpu"},
        "finetune": [{"of": "toy", "options": {"epochs": 2, "batch_size": 16, "precision": "float32", **options}}],
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config))
    return path
