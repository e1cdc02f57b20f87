"""A folder of JPEG photographs of about 500 x 375, made on the spot from scikit-learn's two sample photographs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]

__all__ = ["photographs"]

QUALITY = 92  # gives files of about 100 kB, as ImageNet's


@contextmanager
def photographs(n: int, *, folder: Path | None = None, classes: int = 10, seed: int = 0) -> Iterator[Path]:
    """An image folder of ``n`` JPEGs in ``classes`` classes: random crops, scales and flips of real photographs."""
    with TemporaryDirectory(dir=folder) as temporary:
        root = Path(temporary) / "photographs"
        generator = np.random.default_rng(seed)
        sources = [Image.fromarray(image) for image in load_sample_images().images]
        for index in range(n):
            target = root / f"class_{index % classes}" / f"{index:06}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_jpeg(sources[int(generator.integers(len(sources)))], generator))
        yield root


def _jpeg(source: Image.Image, generator: np.random.Generator) -> bytes:
    width, height = int(generator.integers(480, 521)), int(generator.integers(360, 391))
    scale = float(generator.uniform(0.55, 0.85))
    w, h = source.width * scale, source.height * scale
    x, y = generator.uniform(0, source.width - w), generator.uniform(0, source.height - h)
    image = source.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
