"""What a page tells of detections: pairs against COCO's matches, confusions by hand, masks as lines, what is kept."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featurebank.extract.datasets.masks import RLE
from featurebank.extract.datasets.objects import Objects
from featurebank.pipelines.jobs.confusion import confusion_html
from featurebank.pipelines.jobs.detection.evaluation import Detections, evaluate
from featurebank.pipelines.jobs.detection.kept import Kept
from featurebank.pipelines.jobs.detection.pairs import Pairs
from featurebank.pipelines.jobs.drawing import mask_path

NAMES = ("a", "b", "c")


def boxes(generator: np.random.Generator, n: int) -> NDArray[np.float64]:
    low = generator.uniform(0, 40, (n, 2))
    return np.concatenate([low, low + generator.uniform(8, 20, (n, 2))], 1)


def shown(given_: NDArray[np.float64], labels: Any, crowd: Any = None) -> Objects:
    labels = np.asarray(labels, np.int64)
    crowds = np.zeros(len(labels), bool) if crowd is None else np.asarray(crowd, bool)
    return Objects(height=64, width=64, boxes=given_, labels=labels, crowd=crowds)


def found(given_: NDArray[np.float64], scores: Any, labels: Any) -> Detections:
    return Detections(boxes=given_, scores=np.asarray(scores, np.float64), labels=np.asarray(labels, np.int64))


def scenes(seed: int, images: int = 12) -> tuple[list[Objects], list[Detections]]:
    """Objects, some of them crowds, and detections near them and elsewhere, the best first."""
    generator = np.random.default_rng(seed)
    truth, detections = [], []
    for _ in range(images):
        own = boxes(generator, int(generator.integers(0, 7)))
        near = own + generator.normal(0, 1.5, own.shape)
        every = np.concatenate([near, boxes(generator, 3)])
        every = every[(every[:, 2:] > every[:, :2]).all(1)]
        truth.append(shown(own, generator.integers(0, 3, len(own)), generator.random(len(own)) < 0.2))
        scores = np.sort(generator.choice(np.linspace(0.1, 0.9, 9), len(every)))[::-1]
        detections.append(found(every[generator.permutation(len(every))], scores, generator.integers(0, 3, len(every))))
    return truth, detections


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("agnostic", [False, True])
def test_pairs_are_those_of_coco(seed: int, agnostic: bool) -> None:
    truth, detections = scenes(seed)
    pairs = Pairs.of(truth, detections, agnostic=agnostic)
    matches = evaluate(truth, detections, NAMES, agnostic=agnostic, resamples=2).matches[""]
    for image in range(len(truth)):
        own = matches.image == image
        assert (pairs.objects[image] >= 0).sum() == matches.hit[0, own].sum()
        assert (pairs.objects[image] == -2).sum() == matches.ignored[0, own].sum()


@pytest.mark.parametrize("seed", range(4))
def test_detections_are_looked_at_from_the_score_of_the_best_f_on(seed: int) -> None:
    truth, detections = scenes(seed)
    pairs = Pairs.of(truth, detections)
    total = sum((~one.crowd).sum() for one in truth)

    def f_score(least: float) -> float:
        kept = [own[(one.scores >= least) & (own != -2)] for own, one in zip(pairs.objects, detections, strict=True)]
        own = np.concatenate(kept)
        return float(2 * (own >= 0).sum() / (len(own) + total))

    scores = np.unique(np.concatenate([one.scores for one in detections]))
    assert f_score(pairs.least) == max(f_score(score) for score in scores)


def confused() -> tuple[list[Objects], list[Detections]]:
    """An image: an a that is found, a b taken for c, a c that is missed, a false a, an a on a crowd; an empty one."""
    at = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [0, 30, 30, 60]], np.float64)
    false = np.array([[50, 50, 60, 60]], np.float64)
    truth = [shown(at, [0, 1, 2, 0], [0, 0, 0, 1]), shown(at[:0], [])]
    seen = np.concatenate([at[:2], false, at[3:] - [0, 0, 10, 10]])
    return truth, [found(seen, [0.9, 0.8, 0.9, 0.7], [0, 2, 0, 0]), found(at[:0], [], [])]


def test_confusions_by_hand() -> None:
    truth, detections = confused()
    pairs = replace(Pairs.of(truth, detections), least=0.5)
    assert pairs.confusion(3).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    assert replace(pairs, least=0.85).confusion(3).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]]
    assert pairs.missed(0).tolist() == [1, 2]
    assert pairs.f_score(0) == 2 * 1 / (3 + 3)
    assert np.isnan(pairs.f_score(1))


def test_the_best_and_the_worst_images_are_others() -> None:
    truth, detections = scenes(0)
    pairs = Pairs.of(truth, detections)
    best, worst = pairs.extremes(4)
    scores = [pairs.f_score(image) for image in range(len(truth))]
    assert not {*best} & {*worst}
    assert [scores[image] for image in worst] == sorted(score for score in scores if not np.isnan(score))[:4]
    assert min(scores[image] for image in best) >= max(scores[image] for image in worst)


def test_of_many_classes_those_with_most_mistakes_are_shown_and_no_count_is_called_wrong_that_is_right() -> None:
    counts = np.diag(np.full(31, 5))
    counts[3, 30] = counts[30, 7] = counts[20, 21] = 9
    counts[30, 30] = 0
    text = confusion_html(counts, [f"class {k}" for k in range(30)], "confusions", beyond=("none", "missed"))
    heads = re.findall(r'<th scope="col">([^<]*)</th>', text)
    assert {"class 3", "class 7", "class 20", "class 21"} < {*heads}
    assert heads[-2:] == ["other classes", "missed"]
    assert len(heads) == 14
    right = [int(n) for n in re.findall(r'class="right".*?>(\d+)</text>', text)]
    assert right == [5] * 12 + [90]
    assert sorted(int(n) for n in re.findall(r'class="wrong".*?>(\d+)</text>', text)) == [9, 9, 9]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**20))
def test_a_mask_as_lines_has_the_same_pixels_inside(height: int, width: int, seed: int) -> None:
    """By the even-odd rule: along a row of pixels' middles, each vertical line is a border."""
    mask = np.random.default_rng(seed).random((height, width)) < 0.6
    crossings = np.zeros((height, width + 1), np.int64)
    for loop in mask_path(mask, (2 * height, width)).split("Z")[:-1]:
        (x, y), points = map(float, re.findall(r"[\d.]+", loop.split("H")[0].split("V")[0])), []
        points = [(x, y)]
        for sign, value in re.findall(r"([HV])([\d.]+)", loop):
            x, y = (float(value), y) if sign == "H" else (x, float(value))
            points.append((x, y))
        for (x1, y1), (x2, y2) in pairwise([*points, points[0]]):
            if x1 == x2:
                low, high = sorted((int(y1) // 2, int(y2) // 2))
                crossings[low:high, int(x1)] += 1
    assert np.array_equal(np.cumsum(crossings, 1)[:, :-1] % 2 == 1, mask)


def test_what_is_kept_comes_back() -> None:
    truth, detections = scenes(3)
    pixels = np.zeros((64, 64), bool)
    pixels[10:20, 5:9] = True
    truth = [replace(one, masks=tuple([RLE.of(pixels)] * len(one))) for one in truth]
    detections = [replace(one, masks=tuple([RLE.of(pixels.T)] * len(one.scores))) for one in detections]
    ids = tuple(f"image {at}" for at in range(12))
    kept = Kept(
        class_names=NAMES, rows=np.arange(12) + 5, ids=ids, truth=truth, found=detections, best=(4, 2), worst=(7,)
    )
    back = Kept.read(kept.arrays(masks=True))
    assert (back.class_names, back.rows.tolist(), back.ids) == (NAMES, kept.rows.tolist(), ids)
    assert (back.best, back.worst) == ((4, 2), (7,))
    for image, (one, other) in enumerate(zip(truth, back.truth, strict=True)):
        assert (one.boxes.tolist(), one.labels.tolist()) == (other.boxes.tolist(), other.labels.tolist())
        assert one.crowd.tolist() == other.crowd.tolist()
        was, now = detections[image], back.found[image]
        np.testing.assert_allclose(now.boxes, was.boxes, rtol=1e-6)
        assert (len(other.masks), len(now.masks)) == ((len(one), len(was.scores)) if image in {2, 4, 7} else (0, 0))
        assert all(np.array_equal(mask.full(64, 64), pixels) for mask in other.masks)
        assert all(np.array_equal(mask.full(64, 64), pixels.T) for mask in now.masks)
    assert not any(one.masks for one in Kept.read(kept.arrays(masks=False)).truth)
