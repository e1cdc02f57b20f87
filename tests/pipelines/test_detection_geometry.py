"""Boxes and masks follow the pixels, and come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.datasets.masks import RLE, Polygons
from featurebank.extract.datasets.objects import Objects
from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.transform import Transform
from featurebank.pipelines.jobs.maps.geometry import Placing, bordered, jittered, mirrored, placed

RECORD = bordered(
    Preprocessing(
        height=224,
        width=224,
        resize_height=256,
        resize_width=256,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        fill=(9, 9, 9),
    ),
    64,
)
SIZES = st.tuples(st.integers(5, 90), st.integers(5, 90))


def shown(height: int, width: int, seed: int = 0) -> Objects:
    """Rectangles of whole pixels, by turns as polygons and as runs; the first covers the image."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, (width, height), (4, 2))
    high = np.minimum(low + rng.integers(1, 30, (4, 2)), (width, height))
    boxes = np.concatenate([[[0, 0, width, height]], np.concatenate([low, high], 1)]).astype(np.float64)
    masks = []
    for row, (x1, y1, x2, y2) in enumerate(boxes.astype(int).tolist()):
        pixels = np.zeros((height, width), bool)
        pixels[y1:y2, x1:x2] = True
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)
        masks.append(RLE.of(pixels) if row % 2 else Polygons([corners]))
    return Objects(
        height=height,
        width=width,
        boxes=boxes,
        labels=np.arange(5),
        crowd=np.arange(5) == 1,
        masks=tuple(masks),
    )


def ways(height: int, width: int, seed: int) -> list[Placing]:
    fit = placed(RECORD, height, width)
    jitter = jittered(RECORD, height, width, np.random.default_rng(seed), least=0.1, most=2)
    return [fit, mirrored(fit), jitter, mirrored(jitter)]


@settings(max_examples=60, deadline=None)
@given(size=SIZES, seed=st.integers(0, 1000))
def test_boxes_come_back_as_they_were(size: tuple[int, int], seed: int) -> None:
    boxes = shown(*size, seed).boxes
    for placing in ways(*size, seed):
        np.testing.assert_allclose(placing.back(placing.boxes(boxes)), boxes, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(size=SIZES, seed=st.integers(0, 1000))
def test_masks_come_back_as_they_were(size: tuple[int, int], seed: int) -> None:
    masks = shown(*size, seed).masks
    for placing in ways(*size, seed):
        (sx, sy), (tx, ty) = placing.scale, placing.shift
        for mask in masks:
            back = mask.moved((sx, sy), (tx, ty)).moved((1 / sx, 1 / sy), (-tx / sx, -ty / sy))
            assert np.array_equal(back.full(*size), mask.full(*size))


@settings(max_examples=60, deadline=None)
@given(size=SIZES, seed=st.integers(0, 1000))
def test_a_box_and_the_mask_that_fills_it_stay_together(size: tuple[int, int], seed: int) -> None:
    for placing in ways(*size, seed):
        found = placing.objects(shown(*size, seed))
        for box, mask in zip(found.boxes, found.masks, strict=True):
            assert mask.inside(box, (7, 7)).all()
            bounds = mask.bounds((0, 0, 64, 64))
            assert bounds is not None
            np.testing.assert_allclose(bounds, box, atol=1e-9)


def painted(placing: Placing, box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a white box on black is on the canvas, by its pixels."""
    pixels = np.zeros((placing.height, placing.width, 3), np.uint8)
    x1, y1, x2, y2 = box.astype(int).tolist()
    pixels[y1:y2, x1:x2] = 255
    white = placing.pixels(Image.fromarray(pixels))[..., 0] > 127
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_are_where_the_pixels_are(seed: int) -> None:
    height, width = np.random.default_rng(seed).integers(30, 90, 2).tolist()
    box = np.array([[10.0, 5, 25, 22]])
    for placing in ways(height, width, seed):
        expected = np.clip(placing.boxes(box), 0, 64)[0]
        if (expected[2:] - expected[:2] >= 2).all():
            np.testing.assert_allclose(painted(placing, box[0]), expected, atol=1)


def test_the_pixels_are_those_of_extraction() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((31, 64), (90, 17), (64, 64), (200, 150)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        for record in (RECORD, replace(RECORD, flip=True, channels="BGR"), replace(RECORD, resize="shorter")):
            assert np.array_equal(placed(record, height, width).pixels(image), Transform(record)(image))
    narrow = placed(RECORD, 64, 32).pixels(Image.new("RGB", (32, 64), (200, 0, 0)))
    assert (narrow[:, 16:48, 0] == 200).all()
    assert (narrow[:, :16] == 9).all(), "the border is on both sides"


def test_jitter_is_from_a_tenth_to_twice_and_anywhere() -> None:
    rng = np.random.default_rng(0)
    found = [jittered(RECORD, 32, 32, rng, least=0.1, most=2) for _ in range(400)]
    sizes = np.array([placing.rows.size for placing in found])
    assert (sizes.min(), sizes.max()) == (6, 127)
    assert {placing.rows.first for placing in found if placing.rows.size == 100} <= set(range(37))
    assert {min(placing.columns.border, 1) for placing in found if placing.rows.size < 60} == {0, 1}
    assert all(placing.rows.kept == min(placing.rows.size, 64) for placing in found)


def test_what_leaves_the_canvas_is_cut_off_or_gone() -> None:
    cut = replace(placed(RECORD, 64, 64), columns=placed(RECORD, 64, 64).columns._replace(first=40, kept=24))
    triangle = Polygons([np.array([[0.0, 0.0], [60.0, 0.0], [0.0, 60.0]])])
    boxes = np.array([[0.0, 0, 60, 60], [0, 0, 30, 30], [38, 5, 40.5, 9]])
    given_ = Objects(
        height=64,
        width=64,
        boxes=boxes,
        labels=np.array([5, 6, 7]),
        crowd=np.array([True, False, False]),
    )
    alone = cut.objects(given_)
    assert alone.boxes.tolist() == [[0, 0, 20, 60]]
    assert (alone.labels.tolist(), alone.crowd.tolist()) == ([5], [True])
    with_masks = cut.objects(replace(given_, masks=(triangle, triangle, triangle)))
    np.testing.assert_allclose(with_masks.boxes, [[0, 0, 20, 20]], atol=1e-9)
    assert cut.objects(given_, least=0.25).labels.tolist() == [5, 7]


def test_an_image_or_objects_of_another_size_are_refused() -> None:
    placing = placed(RECORD, 20, 30)
    with pytest.raises(ValueError, match="annotations, 30 x 20, once it is upright; found 20 x 30"):
        placing.pixels(Image.new("RGB", (20, 30)))
    with pytest.raises(ValueError, match="those of an image of 30 x 20; found 20 x 30"):
        placing.objects(shown(30, 20))
