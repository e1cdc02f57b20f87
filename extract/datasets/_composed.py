"""``emoji_scenes``: emoji on photographs, composed by rule, so that every box and mask is exact.

A scene is 256 x 256 pixels of one of two photographs (scikit-learn's, CC BY 2.0) with two to six drawings of 24 to 96
pixels, of five categories. The drawings of test scenes are no drawings of training scenes. ``twitter`` has the scenes
of ``test`` with the other vendor's drawings of the same emoji.

Every draw is a function of the split and the scene's number.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.assets import fetch, sha256_of
from featurebank.extract.datasets._annotations import AnnotatedReader, gathered
from featurebank.extract.datasets._packaged_files import EMOJI, FileSet, drawn_by_both
from featurebank.extract.datasets._reading import read_file, reason
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.datasets.masks import RLE
from featurebank.extract.errors import AssetError

if TYPE_CHECKING:
    from PIL import Image

CATEGORIES: Final = ("Animals & Nature", "Food & Drink", "Objects", "Smileys & Emotion", "Travel & Places")
PHOTOGRAPHS: Final = {
    "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
}
SCENES: Final = {"train": 400, "test": 100, "twitter": 100}
SEEDS: Final = {"train": 0, "test": 1, "twitter": 1}
SIDE: Final = 256
FEWEST, MOST = 2, 6
SMALLEST, LARGEST = 24, 96
TRAINED: Final = 0.7
"""The share of all drawings that training scenes are made of."""
OPAQUE: Final = 128
"""The alpha from which a pixel belongs to the drawing on it."""
COVERED: Final = 0.3
"""The share of a drawing's square that those above it may cover."""
TRIES: Final = 50


@dataclass(frozen=True, kw_only=True)
class Sticker:
    """One drawing on a scene.

    Attributes:
        file: its image.
        category: index of its category.
        pixels: (h, w, 4) RGBA, resized.
        top: first row on the scene.
        left: first column.
    """

    file: str
    category: int
    pixels: NDArray[np.uint8]
    top: int
    left: int

    @property
    def solid(self) -> NDArray[np.bool_]:
        """(h, w): what of it is no background."""
        return self.pixels[..., 3] >= OPAQUE

    def on(self, scene: NDArray[Any]) -> NDArray[Any]:
        """The part of an array of the scene, (256, 256, …), that it lies on."""
        height, width = self.pixels.shape[:2]
        return scene[self.top : self.top + height, self.left : self.left + width]


def _emoji_scenes(spec: DatasetSpec) -> Split:
    vendor = "twitter" if spec.split == "twitter" else "google"
    folder = fetch(EMOJI[vendor]) if spec.root is None else spec.root
    drawings = _drawings(folder, trained=spec.split == "train")
    ids = [f"{spec.split}/{number:04d}" for number in range(SCENES[spec.split])]
    images = folder / "img" / vendor / "64"
    layouts = [_layout(images, drawings, SEEDS[spec.split], number) for number in range(len(ids))]
    shown = [
        (row, sticker.category, mask)
        for row, layout in enumerate(layouts)
        for sticker, mask in zip(layout, visible(layout), strict=True)
        if mask.area
    ]
    masks = [mask for _, _, mask in shown]
    annotations = gathered(
        f"emoji_scenes {spec.split!r}",
        ids,
        sizes=[(SIDE, SIDE)] * len(ids),
        rows=[row for row, _, _ in shown],
        boxes=[box for mask in masks if (box := mask.bounds((0, 0, SIDE, SIDE))) is not None],
        labels=[category for _, category, _ in shown],
        crowd=np.zeros(len(masks), bool),
        masks=masks,
    )

    def read(row: int) -> NDArray[np.uint8]:
        return composed(_background(SEEDS[spec.split], row), layouts[row])

    return AnnotatedReader(
        spec,
        ids,
        annotations.shown(len(CATEGORIES)),
        CATEGORIES,
        {"boxes": annotations.counts},
        read=read,
        reopen=_emoji_scenes,
        annotations=annotations,
    ).subset()


def _drawings(folder: Path, *, trained: bool) -> Sequence[tuple[str, int]]:
    """File and category of the drawings for training scenes, or of all others."""
    entries = [entry for entry in drawn_by_both(folder / "emoji.json") if entry["category"] in CATEGORIES]
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(entries))
    n = int(TRAINED * len(entries))
    chosen = np.sort(order[:n] if trained else order[n:])
    return [(entries[k]["image"], CATEGORIES.index(entries[k]["category"])) for k in chosen]


def _layout(images: Path, drawings: Sequence[tuple[str, int]], seed: int, number: int) -> list[Sticker]:
    """The stickers of one scene, the lowest first; one that would cover too much of another is drawn again.

    What covers what is decided by their squares, so that the scenes of two vendors are laid out alike.
    """
    generator = np.random.Generator(np.random.PCG64([seed, number, 0]))
    wanted = int(generator.integers(FEWEST, MOST + 1))
    stickers: list[Sticker] = []
    squares = np.zeros((SIDE, SIDE), np.int64)
    for _ in range(TRIES):
        file, category = drawings[int(generator.integers(len(drawings)))]
        size = int(generator.integers(SMALLEST, LARGEST + 1))
        left, top = generator.integers(0, SIDE - size + 1, 2).tolist()
        tried = squares.copy()
        tried[top : top + size, left : left + size] = len(stickers) + 1
        seen = np.bincount(tried.reshape(-1), minlength=len(stickers) + 1)[1:]
        if all(area >= (1 - COVERED) * len(one.pixels) ** 2 for area, one in zip(seen, stickers, strict=False)):
            stickers.append(
                Sticker(file=file, category=category, pixels=_resized(images / file, size), top=top, left=left)
            )
            squares = tried
        if len(stickers) == wanted:
            break
    return stickers


def visible(stickers: Sequence[Sticker]) -> list[RLE]:
    """The pixels of each sticker that no other one covers."""
    owner = np.zeros((SIDE, SIDE), np.int64)
    for number, sticker in enumerate(stickers, 1):
        sticker.on(owner)[sticker.solid] = number
    return [
        RLE.of(sticker.on(owner) == number, corner=(sticker.top, sticker.left), size=(SIDE, SIDE))
        for number, sticker in enumerate(stickers, 1)
    ]


def composed(background: NDArray[np.uint8], stickers: Sequence[Sticker]) -> NDArray[np.uint8]:
    """(256, 256, 3): the background with the stickers on it, edges blended."""
    scene = background.astype(np.float32)
    for sticker in stickers:
        part = sticker.on(scene)
        alpha = sticker.pixels[..., 3:].astype(np.float32) / 255
        part += alpha * (sticker.pixels[..., :3] - part)
    return np.rint(scene).astype(np.uint8)


def _background(seed: int, number: int) -> NDArray[np.uint8]:
    """A square part of a photograph, of 256 pixels a side up to all of its height, mirrored by chance."""
    from PIL import Image

    generator = np.random.Generator(np.random.PCG64([seed, number, 1]))
    photograph = _photographs()[int(generator.integers(len(PHOTOGRAPHS)))]
    side = int(generator.integers(SIDE, photograph.height + 1))
    left, top = (int(generator.integers(room - side + 1)) for room in photograph.size)
    part = photograph.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    pixels = np.asarray(part)
    return pixels[:, ::-1] if generator.random() < 0.5 else pixels


def _resized(path: Path, size: int) -> NDArray[np.uint8]:
    """A drawing at a size, RGBA; resized with its alpha, so that no border of another colour appears."""
    from PIL import Image

    try:
        with Image.open(BytesIO(read_file(path)), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGBA").resize((size, size), Image.Resampling.BILINEAR))
    except Exception as error:  # Damaged files make Pillow raise nearly every built-in exception.
        raise AssetError(f"{path}: expected a drawing, found: {reason(error)}; check the root") from error


@functools.cache
def _photographs() -> Sequence[Image.Image]:
    from PIL import Image

    # Found, not imported: importing scikit-learn takes a second.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise AssetError(
            "emoji_scenes: expected scikit-learn, which carries the photographs, found none; pip install scikit-learn"
        )
    folder = Path(spec.origin).parent / "datasets" / "images"
    for name, expected in PHOTOGRAPHS.items():
        if (found := sha256_of(folder / name)) != expected:
            raise AssetError(f"{folder / name}: expected SHA-256 {expected}, found {found}; install scikit-learn anew")
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]


COMPOSED_SETS: Final = {"emoji_scenes": FileSet(splits=tuple(SCENES), open=_emoji_scenes)}
