"""Semantic masks made of objects, on the canvas and back; segmenters on cached and on live maps."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from featurebank.extract import backbones
from featurebank.extract.datasets.mask_files import IGNORED
from featurebank.extract.datasets.masks import RLE
from featurebank.extract.datasets.objects import Objects
from featurebank.pipelines.asking.inputs import SplitRows
from featurebank.pipelines.jobs.maps.geometry import bordered, jittered, mirrored, placed
from featurebank.pipelines.jobs.maps.levels import fitted, levels_of, maps_of, with_levels
from featurebank.pipelines.jobs.segmentation.job import part_of
from featurebank.pipelines.jobs.segmentation.network import Head, Segmenter, Shape
from featurebank.pipelines.jobs.segmentation.pictures import Pictures, drawn, on_canvas
from featurebank.pipelines.jobs.segmentation.task import pixel_losses

SIDE = 64


def objects(*shown: tuple[tuple[int, int, int, int], int, bool], size: tuple[int, int] = (6, 8)) -> Objects:
    """Rectangles x1, y1, x2, y2 of a class, single or crowd."""
    masks = []
    for (x1, y1, x2, y2), _, _ in shown:
        full = np.zeros(size, bool)
        full[y1:y2, x1:x2] = True
        masks.append(RLE.of(full))
    return Objects(
        height=size[0], width=size[1], boxes=np.array([box for box, _, _ in shown], np.float64).reshape(-1, 4),
        labels=np.array([label for _, label, _ in shown], np.int64),
        crowd=np.array([crowd for _, _, crowd in shown], bool), masks=tuple(masks),
    )  # fmt: skip


def test_smaller_objects_lie_over_larger_ones_and_single_ones_over_crowds() -> None:
    shown = objects(((2, 1, 4, 3), 1, False), ((0, 0, 6, 4), 0, False), ((3, 2, 8, 6), 0, True))
    labels = drawn(shown, np.array([1, 2], np.uint8))
    expected = [
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 2, 2, 1, 1, 0, 0],
        [1, 1, 2, 2, 1, 1, 255, 255],
        [1, 1, 1, 1, 1, 1, 255, 255],
        [0, 0, 0, 255, 255, 255, 255, 255],
        [0, 0, 0, 255, 255, 255, 255, 255],
    ]
    assert labels.tolist() == expected


def test_objects_of_classes_that_are_not_learnt_do_not_count_and_none_at_all_is_background() -> None:
    labels = drawn(objects(((0, 0, 2, 2), 1, False)), np.array([1, IGNORED], np.uint8))
    assert (labels[:2, :2] == IGNORED).all()
    assert (labels == 0).sum() == labels.size - 4
    assert not drawn(objects(), np.array([1], np.uint8)).any()


@pytest.mark.parametrize("size", [(6, 8), (48, 64), (31, 100), (90, 17)])
@pytest.mark.parametrize("way", ["fitted", "mirrored", "jittered"])
def test_classes_lie_on_the_canvas_where_the_pixels_do(size: tuple[int, int], way: str) -> None:
    """Colours of a picture and its classes, both put on the canvas: a class is where its colour is, but for edges."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(1, 3, (3, 4)).astype(np.uint8)
    rows, columns = (np.arange(length) * parts // length for length, parts in zip(size, coarse.shape, strict=True))
    labels = coarse[np.ix_(rows, columns)]
    record = bordered(backbones.resolve("timm:test_resnet@random").preprocessing, SIDE)
    record = replace(record, interpolation="bilinear", fill=(0, 0, 0))
    placing = placed(record, *size) if way != "jittered" else jittered(record, *size, generator, least=0.5, most=1.5)
    placing = mirrored(placing) if way == "mirrored" else placing
    seen = placing.pixels(Image.fromarray(np.repeat(labels[..., None] * 100, 3, 2)))[..., 0].astype(int)
    canvas = on_canvas(labels, placing)
    beside = canvas == IGNORED
    assert (seen[beside] == 0).all()
    assert (seen[~beside] > 0).all()
    differing = np.rint(seen[~beside] / 100) != canvas[~beside]
    assert differing.mean() < 0.06


def test_classes_come_back_in_the_size_of_the_image() -> None:
    labels = np.random.default_rng(1).integers(0, 3, (6, 8)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    record = bordered(backbones.resolve("timm:test_resnet@random").preprocessing, SIDE)
    placing = placed(record, *labels.shape)
    canvas = torch.from_numpy(on_canvas(labels, placing).astype(np.int64))
    logits = torch.nn.functional.one_hot(canvas % IGNORED, 3).permute(2, 0, 1).float()
    scenes: Any = SimpleNamespace(placing=lambda *_: placing)
    back = Pictures(scenes=scenes, labels=lambda *_: labels).classes(0, logits)
    assert np.array_equal(back, labels)


def segmenter(name: str, head: Head) -> Segmenter:
    spec = fitted(backbones.resolve(name), SIDE)
    levels = levels_of(spec, (4, 8, 16, 32))
    network = backbones.trainable(with_levels(spec, levels))
    return Segmenter(network, levels, shape=Shape(head=head, channels=8), classes=3, side=SIDE, seed=0)


@pytest.mark.parametrize("head", ["fcn", "upernet"])
@pytest.mark.parametrize("name", ["timm:test_resnet@random", "timm:test_vit@random"])
def test_cached_and_live_maps_give_the_same_losses_and_gradients_behind_a_frozen_backbone(
    name: str, head: Head
) -> None:
    model = segmenter(name, head)
    model.freeze(-1)
    model.train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, SIDE, SIDE, generator=generator)
    truth = torch.randint(0, 3, (2, SIDE, SIDE), generator=generator)
    with torch.no_grad():
        maps = maps_of(model.network, model.levels, images)
    live, cached = (losses_and_gradients(model, inputs, truth) for inputs in (images, maps))
    assert live.keys() == cached.keys() == {""} | {one for one, _ in model.named_parameters() if one[:5] == "head."}
    for part, value in live.items():
        torch.testing.assert_close(cached[part], value)


def losses_and_gradients(model: Segmenter, inputs: Any, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """By the name of the parameter; the losses under none."""
    model.zero_grad()
    losses = pixel_losses(model(inputs), truth)
    torch.autograd.backward(losses.sum())
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return {"": losses, **gradients}


def test_the_loss_of_an_image_is_the_mean_over_its_pixels_that_count() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    truth = torch.full((2, 4, 4), IGNORED)
    truth[0, 1, 2], truth[0, 3, 0] = 2, 0
    losses = pixel_losses(logits, truth)
    one, other = logits[0, :, 1, 2].softmax(0)[2], logits[0, :, 3, 0].softmax(0)[0]
    assert losses.tolist() == pytest.approx([float(-(one.log() + other.log()) / 2), 0.0])


def test_a_smaller_share_is_part_of_a_larger_one_and_never_empty() -> None:
    n = 40
    rows = SplitRows(
        name="a/train", path=None, features=np.zeros((n, 2)), labels=np.zeros(n, np.int64), class_names=(),  # type: ignore[arg-type]
        rows=np.arange(n), failed=0, total=n,
    )  # fmt: skip
    shares = [set(part_of(rows, share, 0).rows.tolist()) for share in (0.01, 0.1, 0.5, 1.0)]
    assert [len(one) for one in shares] == [1, 4, 20, n]
    assert all(small < large for small, large in pairwise(shares))
