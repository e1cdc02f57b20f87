"""Tiny scenes of two kinds of objects with boxes and masks, in COCO's format, and what is asked of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

__all__ = ["KINDS", "NETWORK", "configured", "scenes", "weights_of"]

NETWORK = "timm:test_efficientnet.r160_in1k@random:0"
KINDS = ("square", "bar")


def scenes(folder: Path, split: str, n: int, seed: int, names: tuple[str, ...] = KINDS) -> None:
    """White squares and bars on noise, one or two an image; the last image shows none. With a file in COCO's format."""
    generator = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        pixels = generator.integers(0, 90, (96, 128, 3), dtype=np.uint8)
        for _ in range(0 if index == n - 1 else int(generator.integers(1, 3))):
            kind = int(generator.integers(2))
            wide, high = (28, 28) if kind == 0 else (60, 14)
            x, y = int(generator.integers(0, 128 - wide)), int(generator.integers(0, 96 - high))
            pixels[y : y + high, x : x + wide] = 255
            corners = [x, y, x + wide, y, x + wide, y + high, x, y + high]
            annotations.append({
                "id": len(annotations) + 1, "image_id": index, "category_id": 7 * kind + 3, "bbox": [x, y, wide, high],
                "area": wide * high, "iscrowd": 0, "segmentation": [corners],
            })  # fmt: skip
        file = f"{split}{index:02}.png"
        Image.fromarray(pixels).save(folder / file)
        images.append({"id": index, "file_name": file, "height": 96, "width": 128})
    categories = [{"id": 3, "name": names[0]}, {"id": 10, "name": names[1]}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"objects_{split}.json").write_text(json.dumps(document))


def configured(verb: str, folder: Path, store: str, options: dict[str, Any]) -> Path:
    """A file that asks a verb of ``toy`` below a folder, and has the test scenes of ``other`` there too."""
    config = {
        "store": str(folder / store),
        "backbones": [NETWORK],
        "datasets": [
            {"name": f"coco:{folder}/toy/objects_*.json", "splits": ["train", "test"]},
            {"name": f"coco:{folder}/other/objects_*.json", "splits": ["test"]},
        ],
        "extraction": {"precision": "float32", "dtype": "float32", "device": "cpu"},
        verb: [{"of": "toy", "options": options}],
    }
    path = folder / f"{store}.yaml"
    path.write_text(json.dumps(config))
    return path


def weights_of(store: Path, kind: str) -> dict[str, str]:
    """The SHA-256 of each tensor of the one network of a kind, such as ``detectors``, that a store has."""
    (path,) = (store / kind).glob("*/weights.safetensors")
    return {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in load_file(path).items()}
