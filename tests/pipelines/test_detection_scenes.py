"""What an epoch sees of annotated images: where they lie, how often they come, and what they show there."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from featurebank.extract.datasets.masks import Polygons
from featurebank.extract.datasets.objects import Objects
from featurebank.extract.errors import DatasetError
from featurebank.extract.preprocessing import Preprocessing
from featurebank.pipelines.jobs.detection.geometry import bordered
from featurebank.pipelines.jobs.detection.scenes import Scenes

SIDE = 64
RECORD = bordered(
    Preprocessing(
        height=224,
        width=224,
        resize_height=256,
        resize_width=256,
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    SIDE,
)
SIZES = [(48, 64), (64, 40), (50, 50)]
BOX = np.array([[8.0, 12, 32, 36]])


class Squares:
    """Images of one white square on black, each with its box and mask."""

    spec = SimpleNamespace(name="squares", split="train")
    ids = ("a", "b", "c")
    class_names = ("square",)

    def __len__(self) -> int:
        return len(SIZES)

    def read(self, index: int) -> bytes:
        pixels = np.zeros((*SIZES[index], 3), np.uint8)
        pixels[12:36, 8:32] = 255
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    def objects(self, index: int) -> Objects:
        x1, y1, x2, y2 = BOX[0]
        mask = Polygons([np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])])
        height, width = SIZES[index]
        return Objects(
            height=height, width=width, boxes=BOX, labels=np.zeros(1, np.int64), crowd=np.zeros(1, bool), masks=(mask,)
        )


def scenes(split: Any = None, **options: Any) -> Scenes:
    own = {"masks": True, "flip": 0.5, "seed": 3, "workers": 0, "scales": (0.4, 2.0), **options}
    split = Squares() if split is None else split
    return Scenes(split=split, rows=np.arange(len(split)), preprocessing=RECORD, **own)


def seen(own: Scenes, epoch: int, *windows: list[int]) -> dict[int, tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Image and truth of each row, by row."""
    arrays = [np.array(window) for window in windows]
    found = {}
    for window, images in zip(arrays, own.batches(epoch, arrays), strict=True):
        for row, image, shown in zip(window.tolist(), images, own.truth(epoch, window).images, strict=True):
            found[row] = (image, shown)
    return found


def test_of_an_image_of_a_drawn_size_boxes_and_masks_are_where_its_pixels_are() -> None:
    own, areas = scenes(), set()
    for epoch in range(8):
        for image, shown in seen(own, epoch, [0, 1, 2]).values():
            white = image[0].numpy() > 0.5
            if not len(shown["boxes"]):
                assert white.sum() <= 2 * SIDE
                continue
            rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
            around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(shown["boxes"][0], around, atol=1)
            assert (shown["masks"][0].numpy() != white).sum() <= 2 * sum(map(len, (rows, columns)))
            areas.add(len(rows) * len(columns))
    assert max(areas) > 6 * min(areas)


def test_draws_are_of_seed_epoch_and_row_whatever_was_drawn_before() -> None:
    whole, rest = seen(scenes(), 5, [2, 0], [1]), seen(scenes(workers=1), 5, [1])
    assert torch.equal(whole[1][0], rest[1][0])
    assert torch.equal(whole[1][1]["boxes"], rest[1][1]["boxes"])
    assert not torch.equal(seen(scenes(), 6, [1])[1][0], rest[1][0])
    assert not torch.equal(seen(scenes(seed=4), 5, [1])[1][0], rest[1][0])


def test_evaluation_draws_nothing() -> None:
    plain = scenes(scales=(1.0, 1.0), flip=0.0)
    for row, (image, _) in seen(scenes(), -1, [0, 1, 2]).items():
        assert torch.equal(image, seen(plain, 0, [row])[row][0])


def test_an_image_of_another_size_than_its_annotations_is_named() -> None:
    class Turned(Squares):
        def objects(self, index: int) -> Objects:
            shown = super().objects(index)
            return Objects(height=64, width=48, boxes=shown.boxes, labels=shown.labels, crowd=shown.crowd)

    with pytest.raises(DatasetError, match="squares/train: a: an image must have the size of its annotations, 48 x 64"):
        seen(scenes(Turned(), masks=False), 0, [0])
