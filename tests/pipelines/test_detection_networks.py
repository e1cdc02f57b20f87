"""What stands behind a backbone's maps: levels of every family, a cascade against its formula, cached and live maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models.detection._utils import BoxCoder  # type: ignore[import-untyped]
from torchvision.ops import MultiScaleRoIAlign, box_iou  # type: ignore[import-untyped]

from featurebank.extract import backbones
from featurebank.pipelines.jobs.detection.cascade import OVERLAPS, WEIGHTS, CascadeHeads
from featurebank.pipelines.jobs.detection.detector import Detector, Truth
from featurebank.pipelines.jobs.detection.heads import Head, Shape, total
from featurebank.pipelines.jobs.detection.levels import fitted, levels_of, with_levels

SIDE, CLASSES, WIDTH, CHANNELS = 128, 3, 12, 5
SHAPES = [(SIDE, SIDE)] * 2


def truth(*, masks: bool = False) -> Truth:
    one = {
        "boxes": torch.tensor([[10.0, 12.0, 50.0, 60.0], [70.0, 64.0, 120.0, 100.0]]),
        "labels": torch.tensor([1, 3]),
    }
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    if masks:
        drawn = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
        for mask, box in zip(drawn, one["boxes"].int(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = 1
        one["masks"], none["masks"] = drawn, drawn[:0]
    return Truth([one, none])


def detector(name: str, head: Head = "faster", strides: tuple[int, ...] = (8, 16, 32)) -> Detector:
    spec = fitted(backbones.resolve(name), SIDE)
    levels = levels_of(spec, strides)
    shape = Shape(head=head, channels=16, strides=strides, anchor=4.0, width=32, proposals=50, sampled=32)
    network = backbones.trainable(with_levels(spec, levels))
    return Detector(network, levels, shape=shape, classes=CLASSES, side=SIDE, seed=0)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("timm:test_resnet@random", [4, 8, 16, 32]),
        ("timm:test_efficientnet@random", [4, 8, 16, 32]),
        ("timm:test_convnext@random", [4, 8, 16, 32]),
        ("timm:test_vit@random", [16]),
        ("mobilenetv2", [4, 8, 16, 32]),
    ],
)
def test_maps_of_a_family_have_their_strides_and_go_through_the_pyramid(name: str, strides: list[int]) -> None:
    spec = fitted(backbones.resolve(name), SIDE)
    levels = levels_of(spec, (4, 8, 16, 32))
    assert [level.stride for level in levels] == strides
    network = backbones.trainable(with_levels(spec, levels))
    model = Detector(network, levels, shape=Shape(channels=8, width=8), classes=1, side=SIDE, seed=0)
    with torch.no_grad():
        maps = model.maps(torch.randn(2, 3, SIDE, SIDE))
        pyramid = model.neck(maps)
    for level, one in zip(levels, maps, strict=True):
        assert one.shape == (2, level.channels, SIDE // level.stride, SIDE // level.stride)
    assert [tuple(one.shape) for one in pyramid.values()] == [
        (2, 8, -(-SIDE // stride), -(-SIDE // stride)) for stride in model.neck.strides
    ]
    assert model.neck.strides == (4, 8, 16, 32, 64)


def test_tokens_lie_in_the_rows_of_the_image() -> None:
    """A patch's own token: where one place of the image changes, only there the embedding of patches changes."""
    spec = fitted(backbones.resolve("timm:test_vit@random"), SIDE)
    levels = levels_of(spec, (16,))
    network = backbones.trainable(with_levels(spec, [replace(levels[0], output="blocks.0.tokens")]))
    model = Detector(
        network, [replace(levels[0], output="blocks.0.tokens")], shape=Shape(), classes=1, side=SIDE, seed=0
    )
    images = torch.zeros(1, 3, SIDE, SIDE)
    changed = images.clone()
    changed[..., 32:48, 80:96] = 5.0  # row 2, column 5
    with torch.no_grad():
        (before,), (after,) = model.maps(images), model.maps(changed)
    change = (after - before).abs().sum(1)[0]
    assert divmod(int(change.argmax()), change.shape[1]) == (2, 5)


@pytest.mark.parametrize("head", ["faster", "mask", "cascade-mask"])
def test_cached_and_live_maps_give_the_same_losses_and_gradients_behind_a_frozen_backbone(head: Head) -> None:
    model = detector("timm:test_resnet@random", head)
    model.freeze(-1)
    model.train()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = model.maps(images)
    found = []
    for inputs in (images, maps):
        model.zero_grad()
        torch.manual_seed(1)
        losses = model(inputs, truth(masks=head != "faster"))
        torch.autograd.backward(total(losses))
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        found.append((losses, gradients))
    (live, own), (cached, other) = found
    assert live.keys() == cached.keys()
    assert all(torch.isfinite(value) for value in live.values())
    for name, value in live.items():
        torch.testing.assert_close(cached[name], value)
    assert own.keys() == other.keys()
    assert not any(name.startswith("network.") for name in own)
    for name, value in own.items():
        torch.testing.assert_close(other[name], value)


def test_a_tuned_backbone_gets_gradients_and_a_frozen_one_keeps_all_it_has() -> None:
    model = detector("timm:test_resnet@random")
    for blocks, trained in ((0, True), (-1, False)):
        model.freeze(blocks)
        model.train()
        before = {name: value.clone() for name, value in model.network.state_dict().items()}
        model.zero_grad()
        losses = model(torch.randn(2, 3, SIDE, SIDE), truth())
        torch.autograd.backward(total(losses))
        assert any(value.grad is not None for value in model.network.parameters()) == trained
        for name, value in model.network.state_dict().items():
            assert torch.equal(value, before[name])  # statistics of batch norms too


class Flat(nn.Module):
    """A head of one layer, whose gradients can be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(CHANNELS * 49, WIDTH)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.fc(pooled.flatten(1)).relu()  # type: ignore[no-any-return]


def cascade(stages: int) -> CascadeHeads:
    torch.manual_seed(0)
    heads = [Flat() for _ in range(stages)]
    predictors: list[Any] = [CascadeHeads.predictor(WIDTH, CLASSES) for _ in range(stages)]
    for predictor in predictors:
        nn.init.normal_(predictor.bbox_pred.weight, std=0.3)  # boxes that move
    return CascadeHeads(
        MultiScaleRoIAlign(["0"], 7, 2),
        heads,
        predictors,
        overlaps=OVERLAPS[:stages],
        weights=WEIGHTS[:stages],
        batch_size_per_image=1000,  # all of them: nothing is drawn
        positive_fraction=1.0,
        score_thresh=0.0,
        nms_thresh=0.5,
        detections_per_img=100,
    )


def inputs() -> tuple[dict[str, torch.Tensor], list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    features = {"0": torch.randn(2, CHANNELS, 16, 16, generator=generator)}
    targets = truth().images
    near = targets[0]["boxes"][torch.arange(20) % 2] + torch.randn(20, 4, generator=generator) * 4
    return features, [near.clamp(0, SIDE), near[:5].clamp(0, SIDE)], targets


def reference(
    model: CascadeHeads, features: Any, proposals: Any, targets: Any
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Losses of each stage, classes and boxes, written out image by image and box by box."""
    regions = [torch.cat([own, one["boxes"]]) for own, one in zip(proposals, targets, strict=True)]
    classes, boxes = [], []
    for stage in range(len(model.box_head)):
        labels, wanted = [], []
        for own, one in zip(regions, targets, strict=True):
            for region in own:
                overlaps = box_iou(one["boxes"], region[None])[:, 0]
                hit = len(overlaps) > 0 and float(overlaps.max()) >= OVERLAPS[stage]
                labels.append(int(one["labels"][overlaps.argmax()]) if hit else 0)
                wanted.append(
                    encoded(one["boxes"][overlaps.argmax()], region, WEIGHTS[stage]) if hit else torch.zeros(4)
                )
        pooled = model.box_roi_pool(features, regions, SHAPES)
        logits, moves = model.box_predictor[stage](model.box_head[stage](pooled))
        target = torch.tensor(labels)
        classes.append(F.cross_entropy(logits, target))
        off = (moves - torch.stack(wanted))[target > 0].abs()
        boxes.append(torch.where(off < 1 / 9, 4.5 * off**2, off - 1 / 18).sum() / len(target))
        moved = decoded(moves.detach(), torch.cat(regions), WEIGHTS[stage]).clamp(0, SIDE)
        regions = [
            own[((own[:, 2:] - own[:, :2]) >= 1e-2).all(1)] for own in torch.split(moved, [len(own) for own in regions])
        ]
    return classes, boxes


def encoded(box: torch.Tensor, region: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
    size, centre = region[2:] - region[:2], (region[2:] + region[:2]) / 2
    own, middle = box[2:] - box[:2], (box[2:] + box[:2]) / 2
    return torch.cat([(middle - centre) / size, (own / size).log()]) * torch.tensor(weights)


def decoded(moves: torch.Tensor, regions: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
    size, centre = regions[:, 2:] - regions[:, :2], (regions[:, 2:] + regions[:, :2]) / 2
    shift, grow = torch.split(moves / torch.tensor(weights), 2, 1)
    middle, half = centre + shift * size, size * grow.clamp(max=4.135166556742356).exp() / 2
    return torch.cat([middle - half, middle + half], 1)


def test_a_cascade_has_the_losses_of_its_formula() -> None:
    model, (features, proposals, targets) = cascade(3), inputs()
    _, losses = model(features, [own.clone() for own in proposals], SHAPES, targets)
    classes, boxes = reference(model, features, proposals, targets)
    for stage, (own, box) in enumerate(zip(classes, boxes, strict=True), 1):
        torch.testing.assert_close(losses[f"loss_classifier_{stage}"], own)
        torch.testing.assert_close(losses[f"loss_box_reg_{stage}"], box)
    assert all((box > 0).item() for box in boxes)


def test_each_stage_sends_its_share_of_gradients_to_the_maps_and_none_to_earlier_boxes() -> None:
    model, (features, proposals, targets) = cascade(3), inputs()
    features["0"].requires_grad_(True)
    _, losses = model(features, [own.clone() for own in proposals], SHAPES, targets)
    (ours,) = torch.autograd.grad(total(losses), [features["0"]])
    classes, boxes = reference(model, features, proposals, targets)
    (whole,) = torch.autograd.grad(torch.stack([*classes, *boxes]).sum(), [features["0"]])
    torch.testing.assert_close(ours, whole / 3)


def test_a_cascade_of_one_stage_is_a_class_agnostic_fast_rcnn() -> None:
    model, (features, proposals, _) = cascade(1), inputs()
    model.eval()
    with torch.no_grad():
        found, _ = model(features, proposals, SHAPES)
        logits, moves = model.box_predictor[0](model.box_head[0](model.box_roi_pool(features, proposals, SHAPES)))
        plain = model.postprocess_detections(logits, moves.repeat(1, CLASSES + 1), proposals, SHAPES)
    for one, boxes, scores, labels in zip(found, *plain, strict=True):
        torch.testing.assert_close(one["scores"], scores)
        torch.testing.assert_close(one["boxes"], boxes, atol=1e-4, rtol=0)
        assert torch.equal(one["labels"], labels)
    assert isinstance(model.box_coder, BoxCoder)


def test_scores_are_the_mean_of_the_stages_and_boxes_the_last_ones() -> None:
    model, (features, proposals, _) = cascade(2), inputs()
    model.eval()
    model.score_thresh, model.nms_thresh = -1.0, 1.0
    model.detections_per_img = 10_000
    with torch.no_grad():
        (found, _), _ = model(features, proposals, SHAPES)
        regions, mean = torch.cat(proposals), torch.zeros(())
        for stage in range(2):
            parts = list(torch.split(regions, [len(own) for own in proposals]))
            pooled = model.box_roi_pool(features, parts, SHAPES)
            logits, moves = model.box_predictor[stage](model.box_head[stage](pooled))
            mean = mean + logits.softmax(-1) / 2
            regions = decoded(moves, regions, WEIGHTS[stage]).clamp(0, SIDE)
    expected = {
        (label, round(float(mean[row, label]), 5)): regions[row] for row in range(20) for label in range(1, CLASSES + 1)
    }
    assert len(found["scores"]) > 40
    for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
        key = min(expected, key=lambda one: (one[0] != int(label), abs(one[1] - float(score))))
        assert abs(key[1] - float(score)) < 2e-5
        torch.testing.assert_close(box, expected[key], atol=1e-3, rtol=0)
