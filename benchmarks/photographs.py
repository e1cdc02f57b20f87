"""A folder of JPEG photographs of about 500 x 375, made on the spot from scikit-learn's two sample photographs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]

__all__ = ["photographs", "places"]

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


def places(folder: Path, sizes: Mapping[str, int], *, per_photograph: int = 5, spread: float = 0.12) -> None:
    """Image folders, one for each split, whose classes are places in the two photographs that overlap.

    Args:
        folder: gets ``SPLIT/CLASS/NUMBER.jpg``.
        sizes: images of each split.
        per_photograph: classes of each photograph, from left to right.
        spread: standard deviation of where a crop lies, as a share of where it may lie; the smaller, the easier.
    """
    generator = np.random.default_rng(0)
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    for split, size in sizes.items():
        for index in range(size):
            which, place = divmod(index % (len(sources) * per_photograph), per_photograph)
            target = folder / split / f"photograph_{which}_place_{place}" / f"{index:06}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            across = float(np.clip(generator.normal((place + 0.5) / per_photograph, spread), 0, 1))
            target.write_bytes(_jpeg(sources[which], generator, across))


def _jpeg(source: Image.Image, generator: np.random.Generator, across: float | None = None) -> bytes:
    width, height = int(generator.integers(480, 521)), int(generator.integers(360, 391))
    scale = float(generator.uniform(0.55, 0.85))
    w, h = source.width * scale, source.height * scale
    x, y = generator.uniform(0, source.width - w), generator.uniform(0, source.height - h)
    if across is not None:
        x = across * (source.width - w)
    image = source.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
