"""What an epoch sees of annotated images: where they lie, how often they come, and what they show there."""

from __future__ import annotations

from dataclasses import replace
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
from featurebank.pipelines.jobs.detection.scenes import CachedScenes, Scenes, repeat_factors
from featurebank.pipelines.jobs.maps.geometry import bordered
from featurebank.pipelines.training.order import Repeats

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
    class_names: tuple[str, ...] = ("square",)

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


def objects(labels: list[int], crowd: list[int] | None = None) -> Objects:
    boxes = np.tile(BOX, (len(labels), 1)) if labels else np.zeros((0, 4))
    crowds = np.array(crowd or [0] * len(labels), bool)
    return Objects(height=48, width=64, boxes=boxes, labels=np.array(labels, np.int64), crowd=crowds)


def test_an_image_comes_as_often_as_its_rarest_class_asks() -> None:
    """By hand: class 0 is in 4 of 5 images, class 1 in 1, class 2 in none but as a crowd, class 3 nowhere."""
    shown = [objects([0, 0, 1]), objects([0]), objects([0, 2], [0, 1]), objects([0]), objects([])]
    expected = [(0.9 / 0.2) ** 0.5, *[(0.9 / 0.8) ** 0.5] * 3, 1.0]
    np.testing.assert_allclose(repeat_factors(shown, 4, 0.9), expected)
    assert repeat_factors(shown, 4, 0.0).tolist() == [1.0] * 5


def test_an_epoch_sees_rows_as_often_as_their_factors_say() -> None:
    factors = np.array([1.0, 2.25, 1.0, 1.75, 30.5, 1.0])
    repeats = Repeats(factors)
    counts = np.array([
        np.bincount([repeats.row(7, epoch, place) for place in range(len(repeats))], minlength=6)
        for epoch in range(400)
    ])  # fmt: skip
    assert len(repeats) == 38
    np.testing.assert_allclose(counts.mean(0), factors * 38 / factors.sum(), atol=0.1)
    assert counts.min() == 1
    assert (np.ptp(counts, axis=0) <= 1).all()


class Rare(Squares):
    """As squares, of which the last alone is of a second class."""

    class_names = ("square", "other")

    def objects(self, index: int) -> Objects:
        shown = super().objects(index)
        return shown if index < 2 else replace(shown, labels=np.ones(1, np.int64))


def test_what_is_repeated_is_drawn_anew_at_each_place() -> None:
    own = scenes(Rare(), repeat=0.99, seed=1)
    assert len(own.repeats) == 5
    first, second = [place for place in range(5) if own.row(0, place) == 2]
    found = seen(own, 0, [0, 1, 2, 3, 4])
    assert {tuple(shown["labels"].tolist()) for _, shown in (found[first], found[second])} <= {(2,), ()}
    assert not torch.equal(found[first][0], found[second][0])


def test_maps_of_the_cache_are_those_of_the_repeated_image() -> None:
    maps = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 4, 4), np.float32)
    own = CachedScenes(
        split=Rare(),  # type: ignore[arg-type]
        rows=np.array([2, 0]), preprocessing=RECORD, masks=False, flip=0.5, seed=1, workers=0, repeat=0.99,
        views=[[maps], [maps + 10]],
    )  # fmt: skip
    places = np.arange(len(own.repeats))
    ((level,),) = own.batches(0, [places])
    expected = [own.rows[own.row(0, place)] + 10 * own.mirrored(0, place) for place in places.tolist()]
    assert level[:, 0, 0, 0].tolist() == expected
