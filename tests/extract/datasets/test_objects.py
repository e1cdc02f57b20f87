"""Boxes and masks, against pycocotools; what annotations of strangers hold is dropped with a count, or refused."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco  # type: ignore[import-untyped]

from featurebank.extract.datasets._annotations import MOST, gathered
from featurebank.extract.datasets.masks import RLE, Mask, Polygons
from featurebank.extract.datasets.objects import Objects
from featurebank.extract.errors import DatasetError

SQUARE = np.array([[2.0, 1.0], [6.0, 1.0], [6.0, 4.0], [2.0, 4.0]])


def theirs(polygons: list[NDArray[np.float64]], height: int, width: int) -> NDArray[np.bool_]:
    flat = [polygon.reshape(-1).tolist() for polygon in polygons]
    with warnings.catch_warnings():
        # Theirs is not ready for NumPy 2.
        warnings.simplefilter("ignore", DeprecationWarning)
        decoded: NDArray[np.uint8] = coco.decode(coco.merge(coco.frPyObjects(flat, height, width)))
    return decoded.astype(bool)


def drawn(seed: int) -> tuple[list[NDArray[np.float64]], int, int]:
    """Polygons that cross themselves, reach beyond the image, or have repeated and whole-numbered points."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 50, 2))
    polygons = []
    for _ in range(rng.integers(1, 3)):
        points = rng.uniform(-0.5, 1.5, (rng.integers(3, 12), 2)) * (width, height)
        points = np.round(points * 5) / 5 if seed % 3 == 0 else points
        points = np.clip(points, 0, (width, height)) if seed % 2 else points
        if seed % 5 == 0:
            points[1] = points[0]
        polygons.append(points)
    return polygons, height, width


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_polygons_are_filled_as_by_pycocotools_to_the_pixel(first: int) -> None:
    for seed in range(first, first + 100):
        polygons, height, width = drawn(seed)
        assert np.array_equal(Polygons(polygons).full(height, width), theirs(polygons, height, width)), seed


def test_a_polygon_that_reaches_far_costs_no_more_than_its_image() -> None:
    far = np.array([[0.0, 0.0], [2.0**27, 5.0], [2.0**27, 2.0**27], [5.0, 2.0**27]])
    assert Polygons([far]).full(8, 8)[4:, 5:].all()


def test_runs_are_written_and_read_as_by_pycocotools_to_the_byte() -> None:
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        for height, width in ((1, 1), (1, 7), (7, 1), (40, 30), (300, 200)):
            pixels = rng.random((height, width)) < density
            expected = coco.encode(np.asfortranarray(pixels, np.uint8))
            runs = RLE.of(pixels)
            assert runs.text == expected["counts"]
            assert runs.area == coco.area(expected)
            read = RLE.parsed(expected["counts"].decode(), (height, width))
            assert np.array_equal(read.counts, runs.counts)
            assert np.array_equal(read.full(height, width), pixels)


def test_a_part_is_encoded_without_the_whole_image() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        top, left, below, beside = rng.integers(0, 3, 4)
        part = rng.random(rng.integers(1, 6, 2)) < 0.7
        whole = np.pad(part, ((top, below), (left, beside)))
        runs = RLE.of(part, corner=(int(top), int(left)), size=whole.shape)
        assert runs.text == coco.encode(np.asfortranarray(whole, np.uint8))["counts"]
    with pytest.raises(ValueError, match="must lie inside 4 x 4"):
        RLE.of(np.ones((3, 3), bool), corner=(2, 0), size=(4, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be whole"),
        ("0!", "of the characters '0' to 'o'"),
        ("0P", "must be whole"),
        ("P" * 9 + "0", "at most 7 characters; found 10"),
        ("54", r"must add up to 4 x 4 = 16 pixels; found 9"),
        ("O", "runs must be 0 to 16"),
    ],
)
def test_compressed_runs_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLE.parsed(text, (4, 4))


@pytest.mark.parametrize("size", [(0, 5), (1 << 20, 1 << 20)])
def test_runs_of_a_size_that_no_image_has(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"the size of a mask must be 1 to 178,956,970 pixels"):
        RLE(size, np.array([size[0] * size[1]]))


@pytest.mark.parametrize(
    ("polygons", "message"),
    [([], "one polygon or more"), ([SQUARE[:2]], "three points or more"), ([SQUARE * np.nan], "must be finite")],
)
def test_polygons_that_are_none(polygons: list[NDArray[np.float64]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Polygons(polygons)


def test_a_box_shows_a_polygon_as_if_the_image_had_been_cut_out_and_enlarged() -> None:
    shown = Polygons([SQUARE]).inside((0, 0, 8, 8), (16, 16))
    assert np.array_equal(shown, Polygons([SQUARE * 2]).full(16, 16))
    assert Polygons([SQUARE]).inside((3, 2, 5, 3), (28, 28)).all()


def test_a_box_shows_runs_by_area() -> None:
    pixels = np.zeros((8, 8), bool)
    pixels[1:4, 2:6] = True
    runs = RLE.of(pixels)
    assert np.array_equal(runs.inside((0, 0, 8, 8), (8, 8)), pixels)
    assert np.array_equal(runs.inside((0, 0, 8, 8), (16, 16)), np.kron(pixels, np.ones((2, 2))) > 0)
    assert np.array_equal(runs.inside((-2, -1, 6, 7), (8, 8))[:7], np.pad(pixels, ((1, 0), (2, 0)))[:7, :8])
    blocks = pixels.reshape(4, 2, 4, 2).mean((1, 3))
    assert np.array_equal(runs.inside((0, 0, 8, 8), (4, 4)), blocks >= 0.5)
    assert not runs.inside((20, 20, 24, 24), (4, 4)).any()


@pytest.mark.parametrize("mask", [Polygons([SQUARE]), RLE.of(np.ones((8, 8), bool))])
def test_boxes_without_area_show_nothing_and_the_smallest_a_point(mask: Mask) -> None:
    for empty in ((3, 2, 3, 4), (3, 4, 5, 2), (np.nan, 0, 1, 1)):
        assert not mask.inside(empty, (28, 28)).any()
    assert mask.inside((3, 2, 3 + 1e-9, 2 + 1e-9), (28, 28)).all()


def both(seed: int) -> tuple[Mask, Mask, NDArray[np.bool_]]:
    pixels = np.zeros((12, 16), bool)
    pixels[:] = np.random.default_rng(seed).random((12, 16)) < 0.4
    pixels[3:7, 5:9] = True
    return Polygons([SQUARE + np.array([seed % 5, seed % 3])]), RLE.of(pixels), pixels


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 100),
    scale=st.tuples(st.sampled_from([-2.0, -1.0, 0.5, 1.0, 3.0]), st.sampled_from([-1.0, 0.5, 1.0, 2.0])),
    shift=st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
)
def test_what_was_moved_and_moved_back_is_the_same_to_the_pixel(
    seed: int, scale: tuple[float, float], shift: tuple[int, int]
) -> None:
    back = (1 / scale[0], 1 / scale[1]), (-shift[0] / scale[0], -shift[1] / scale[1])
    for mask in both(seed)[:2]:
        again = mask.moved(scale, shift).moved(*back)
        # Thirds are no binary numbers: the points return to within the fineness of the raster.
        assert np.array_equal(again.full(12, 16), mask.full(12, 16))
        before, after = (found.bounds((0, 0, 16, 12)) for found in (mask, again))
        assert before is not None
        assert after is not None
        np.testing.assert_allclose(after, before, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_mirrored_runs_are_the_mirrored_pixels(seed: int) -> None:
    _, runs, pixels = both(seed)
    mirrored = runs.moved((-1, 1), (16, 0))
    assert np.array_equal(mirrored.full(12, 16), pixels[:, ::-1])
    assert np.array_equal(runs.moved((1, -1), (0, 12)).full(12, 16), pixels[::-1])
    shifted = mirrored.moved((1, 1), (3, 2)).full(20, 24)
    assert np.array_equal(shifted, np.pad(pixels[:, ::-1], ((2, 6), (3, 5))))


def test_bounds_are_those_of_what_a_box_holds() -> None:
    polygon, runs = Polygons([SQUARE]), RLE.of(np.pad(np.ones((3, 4), bool), ((1, 4), (2, 2))))
    for mask in (polygon, runs):
        for box, expected in (
            ((0, 0, 8, 8), (2, 1, 6, 4)),
            ((3, 0, 5.5, 2.5), (3, 1, 5.5, 2.5)),
            ((2.5, 1.25, 8, 8), (2.5, 1.25, 6, 4)),
        ):
            found = mask.bounds(box)
            assert found is not None
            assert found.tolist() == list(expected)
        assert mask.bounds((6.5, 5, 8, 8)) is None
    triangle = Polygons([np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])])
    found = triangle.bounds((5, 0, 10, 10))
    assert found is not None
    assert found.tolist() == [5, 0, 10, 5], "the corner below is cut off with the triangle's side"


# Objects.


def objects(**facts: Any) -> Objects:
    given: dict[str, Any] = {
        "height": 10,
        "width": 20,
        "boxes": np.array([[0.0, 0.0, 20.0, 10.0], [1.0, 2.0, 3.0, 4.0]]),
        "labels": np.array([0, 1]),
        "crowd": np.array([True, False]),
    }
    return Objects(**{**given, **facts})


def test_objects_are_taken_by_row_or_by_mask() -> None:
    masks = (Polygons([SQUARE]), Polygons([SQUARE + 1]))
    found = objects(masks=masks)
    part = found.take(~found.crowd)
    assert (len(part), part.labels.tolist(), part.masks) == (1, [1], masks[1:])
    assert found.take(np.array([1, 0])).labels.tolist() == [1, 0]
    assert len(found.take(np.array([], np.int64))) == 0


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"boxes": np.array([[0, 0, 21.0, 10], [1, 2, 3, 4]])}, "within 20 x 10"),
        ({"boxes": np.array([[0, 0, np.nan, 10], [1, 2, 3, 4]])}, "within 20 x 10"),
        ({"boxes": np.array([[5.0, 0, 5, 10], [1, 2, 3, 4]])}, "x1 < x2"),
        ({"labels": np.array([0])}, r"must be \(n, 4\), \(n,\) and \(n,\)"),
        ({"masks": (Polygons([SQUARE]),)}, r"one an object \(2\) or none at all; found 1"),
    ],
)
def test_objects_that_are_none(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objects(**facts)


def test_bad_boxes_are_dropped_or_cut_off_and_counted() -> None:
    boxes: list[list[float]] = [
        [1, 1, 5, 5],
        [-3, 2, 4, 30],
        [-0.4, 0, 10.3, 10],
        [5, 5, 5, 9],
        [5, 9, 4, 3],
        [40, 1, 50, 2],
        [1, np.inf, 3, 4],
        [2, 2, 3, 3],
    ]
    found = gathered(
        "set",
        ["a.png", "b.png", "c.png"],
        sizes=[(10, 10)] * 3,
        rows=[2, 0, 2, 0, 0, 0, 0, 0],
        boxes=boxes,
        labels=range(8),
        crowd=[False] * 7 + [True],
        passed=Counter({"dropped: of no category": 2}),
    )
    assert found.counts.tolist() == [2, 0, 2]
    assert found.of(0, (10, 10)).boxes.tolist() == [[0, 2, 4, 10], [2, 2, 3, 3]]
    assert found.of(0, (10, 10)).crowd.tolist() == [False, True]
    assert found.of(2, (10, 10)).boxes.tolist() == [[1, 1, 5, 5], [0, 0, 10, 10]]
    assert len(found.of(1, (10, 10))) == 0
    assert list(found.notes) == [
        "1 object clipped: a box that reaches beyond its image",
        "1 object dropped: a box outside its image",
        "1 object dropped: a box that ends before it begins",
        "1 object dropped: a box that is no finite numbers",
        "1 object dropped: a box without area",
        "2 objects dropped: of no category",
    ]
    part = found.take(np.array([2, 2, 1]))
    assert (part.counts.tolist(), part.labels.tolist()) == ([2, 2, 0], [0, 2, 0, 2])
    assert found.shown(8)[0].tolist() == [0, 1, 0, 0, 0, 0, 0, 1]


def test_an_image_of_too_many_objects_is_named() -> None:
    n = MOST + 1
    with pytest.raises(DatasetError, match=r"at most 10,000 objects; found 10,001 in b\.png: cut it into tiles"):
        gathered(
            "set",
            ["a.png", "b.png"],
            sizes=[(9, 9)] * 2,
            rows=np.ones(n),
            boxes=np.ones((n, 4)),
            labels=np.zeros(n),
            crowd=np.zeros(n, bool),
        )
