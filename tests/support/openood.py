"""A folder laid out as OpenOOD's download leaves it, with tiny images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["CLASSES", "ROWS", "make_openood"]

CLASSES = (0, 417, 999)
ROWS = {
    "train_imagenet.txt": ("images_largescale", "imagenet_1k/train", True, 24),
    "val_imagenet.txt": ("images_largescale", "imagenet_1k/val", True, 9),
    "test_imagenet.txt": ("images_largescale", "imagenet_1k/val", True, 12),
    "test_ssb_hard.txt": ("images_largescale", "ssb_hard", False, 6),
    "test_ninco.txt": ("images_largescale", "ninco/NINCO_OOD_classes", False, 5),
    "test_inaturalist.txt": ("images_largescale", "inaturalist/images", False, 6),
    "test_textures.txt": ("images_classic", "texture/banded", False, 5),
    "test_openimage_o.txt": ("images_largescale", "openimage_o/images", False, 6),
    "val_openimage_o.txt": ("images_largescale", "openimage_o/images", False, 7),
    "test_imagenet_v2.txt": ("images_largescale", "imagenet_v2", True, 9),
    "test_imagenet_c.txt": ("images_largescale", "imagenet_c", True, 9),
    "test_imagenet_r.txt": ("images_largescale", "imagenet_r", True, 9),
}
"""Of ImageNet-1k: list to folder of images, where in it, whether its rows have classes, and rows."""


def make_openood(folder: Path) -> Path:
    """The lists and images of ImageNet-1k: three of its classes, some rows each, all images different."""
    generator = np.random.default_rng(0)
    for name, (root, place, known, rows) in ROWS.items():
        lines = []
        for row in range(rows):
            label = CLASSES[row % len(CLASSES)] if known else -1
            path = f"{place}/{name.removesuffix('.txt')}_{row:03}.{'JPEG' if row % 2 else 'png'}"
            pixels = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            target = folder / root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((40 + row, 36), Image.Resampling.BICUBIC).save(target)
            lines.append(f"{path} {label}\n")
        listed = folder / "benchmark_imglist" / "imagenet" / name
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(lines), encoding="utf-8")
    return folder
