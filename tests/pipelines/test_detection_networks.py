"""What stands behind a backbone's maps: a cascade against its formula, cached and live maps."""

from __future__ import annotations

import math
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
from featurebank.pipelines.jobs.detection.federated import Federated
from featurebank.pipelines.jobs.detection.heads import Head, Shape, total
from featurebank.pipelines.jobs.detection.job import Job
from featurebank.pipelines.jobs.detection.question import Detect
from featurebank.pipelines.jobs.maps.levels import fitted, levels_of, with_levels
from featurebank.pipelines.training.phase import rate_at

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


def detector(name: str, head: Head = "faster", strides: tuple[int, ...] = (8, 16, 32), **options: Any) -> Detector:
    spec = fitted(backbones.resolve(name), SIDE)
    levels = levels_of(spec, strides)
    small: dict[str, Any] = {"channels": 16, "anchor": 4.0, "width": 32, "proposals": 50, "sampled": 32}
    shape = Shape(head=head, strides=strides, **small, **options)
    network = backbones.trainable(with_levels(spec, levels))
    return Detector(network, levels, shape=shape, classes=CLASSES, side=SIDE, seed=0)


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


def cascade(stages: int, **options: Any) -> CascadeHeads:
    torch.manual_seed(0)
    heads = [Flat() for _ in range(stages)]
    predictors: list[Any] = [CascadeHeads.predictor(WIDTH, CLASSES) for _ in range(stages)]
    for predictor in predictors:
        nn.init.normal_(predictor.bbox_pred.weight, std=0.3)  # boxes that move
    return CascadeHeads(
        MultiScaleRoIAlign(["0"], 7, 2),
        heads,
        predictors,
        **{"overlaps": OVERLAPS[:stages], "weights": WEIGHTS[:stages], **options},
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
    model: CascadeHeads,
    features: Any,
    proposals: Any,
    targets: Any,
    *,
    overlap: tuple[float, ...] = OVERLAPS,
    beta: float = 1 / 9,
    giou: bool = False,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Losses of each stage, classes and boxes, written out image by image and box by box."""
    regions = [torch.cat([own, one["boxes"]]) for own, one in zip(proposals, targets, strict=True)]
    classes, boxes = [], []
    for stage in range(len(model.box_head)):
        labels, wanted, true = [], [], []
        for own, one in zip(regions, targets, strict=True):
            for region in own:
                overlaps = box_iou(one["boxes"], region[None])[:, 0]
                hit = len(overlaps) > 0 and float(overlaps.max()) >= overlap[stage]
                labels.append(int(one["labels"][overlaps.argmax()]) if hit else 0)
                wanted.append(
                    encoded(one["boxes"][overlaps.argmax()], region, WEIGHTS[stage]) if hit else torch.zeros(4)
                )
                true.append(one["boxes"][overlaps.argmax()] if hit else torch.zeros(4))
        pooled = model.box_roi_pool(features, regions, SHAPES)
        logits, moves = model.box_predictor[stage](model.box_head[stage](pooled))
        target = torch.tensor(labels)
        classes.append(F.cross_entropy(logits, target))
        off = (moves - torch.stack(wanted))[target > 0].abs()
        loss = torch.where(off < beta, off**2 / (2 * beta), off - beta / 2).sum()
        if giou:
            found = decoded(moves.double(), torch.cat(regions).double(), WEIGHTS[stage])
            pairs = zip(found[target > 0], torch.stack(true)[target > 0], strict=True)
            loss = 10 * torch.stack([1 - overlap_of(*pair) for pair in pairs]).sum()
        boxes.append(loss / len(target))
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


def overlap_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of two boxes, less the share of their hull that neither covers (Rezatofighi et al. 2019)."""
    sides = [torch.minimum(a[2 + i], b[2 + i]) - torch.maximum(a[i], b[i]) for i in (0, 1)]
    both = sides[0].clamp(min=0) * sides[1].clamp(min=0)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    hull = (torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])).prod()
    return both / either - (hull - either) / hull


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({}, {}),
        ({"box_loss": "giou", "shares": (1.0, 0.5, 0.25)}, {"giou": True}),
        ({"overlaps": (0.5, 0.5, 0.5), "beta": 1.0}, {"overlap": (0.5, 0.5, 0.5), "beta": 1.0}),
    ],
)
def test_a_cascade_has_the_losses_of_its_formula(options: dict[str, Any], written: dict[str, Any]) -> None:
    model, (features, proposals, targets) = cascade(3, **options), inputs()
    features["0"].requires_grad_(True)
    _, losses = model(features, [own.clone() for own in proposals], SHAPES, targets)
    classes, boxes = reference(model, features, proposals, targets, **written)
    shares = options.get("shares", (1.0, 1.0, 1.0))
    for stage, (share, own, box) in enumerate(zip(shares, classes, boxes, strict=True), 1):
        torch.testing.assert_close(losses[f"loss_classifier_{stage}"], share * own)
        torch.testing.assert_close(losses[f"loss_box_reg_{stage}"], share * box.float())
    assert all((box > 0).item() for box in boxes)
    (ours,) = torch.autograd.grad(total(losses), [features["0"]])
    theirs = sum(share * (own + box) for share, own, box in zip(shares, classes, boxes, strict=True))
    (whole,) = torch.autograd.grad(theirs, [features["0"]])
    torch.testing.assert_close(ours, whole / 3)  # each stage sends its share to the maps, and none to earlier boxes


def test_images_without_objects_have_a_box_loss_of_zero() -> None:
    model, (features, proposals, targets) = cascade(3, box_loss="giou"), inputs()
    _, losses = model(features, proposals, SHAPES, [targets[1], targets[1]])
    assert [losses[f"loss_box_reg_{stage}"].item() for stage in (1, 2, 3)] == [0.0] * 3


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


def test_classes_that_are_judged_on_their_own_have_scores_on_their_own() -> None:
    """At first each is rare; a second stage makes of the first's probabilities the mean."""
    model, (features, proposals, targets) = cascade(2, federated=Federated(CLASSES, 2)), inputs()
    for predictor in model.box_predictor:
        nn.init.zeros_(predictor.cls_score.weight)
    nn.init.constant_(model.box_predictor[1].cls_score.bias, 1.0)
    _, losses = model(features, [own.clone() for own in proposals], SHAPES, targets)
    low, high = -2 * math.log(0.99), -math.log(0.99) - math.log(0.01)  # the batch shows two classes, which are judged
    assert low < losses["loss_classifier_1"].item() < high
    share = (losses["loss_classifier_1"].item() - low) / (high - low)
    assert share * 27 == pytest.approx(round(share * 27), abs=1e-4), "of 25 regions and 2 objects so many are objects"
    model.eval()
    with torch.no_grad():
        (found, _), _ = model(features, proposals, SHAPES)
    expected = (0.01 + 1 / (1 + math.exp(-1))) / 2
    assert found["scores"].tolist() == pytest.approx([expected] * len(found["scores"]))
    assert set(found["labels"].tolist()) == {1, 2, 3}


@pytest.mark.parametrize("head", ["faster", "cascade"])
def test_boxes_of_a_pass_in_bfloat16_are_not_rounded_to_its_bits(head: Head) -> None:
    model = detector("timm:test_resnet@random", head)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.cat([one["boxes"] for one in model(images)])
    inside = found[(found > 0) & (found < SIDE)]
    assert len(inside) > 50
    assert (inside == inside.bfloat16().float()).float().mean() < 0.1


@pytest.mark.parametrize(
    ("name", "strides", "norm", "other", "convolutions"),
    [
        ("timm:test_resnet@random", (8, 16, 32), nn.BatchNorm2d, nn.LayerNorm, 1),
        ("timm:test_vit@random", (16,), nn.LayerNorm, nn.BatchNorm2d, 2),
    ],
)
def test_a_study_with_two_kinds_of_heads_has_both(
    name: str, strides: tuple[int, ...], norm: type[nn.Module], other: type[nn.Module], convolutions: int
) -> None:
    def count(part: nn.Module, kind: type[nn.Module]) -> int:
        return sum(isinstance(module, kind) for module in part.modules())

    model = detector(name, "cascade-mask", strides, box_head="4conv1fc", heads="bob")
    own: Any = model.heads
    plain = len(strides) == 1
    assert [count(own.box_head, kind) for kind in (norm, other)] == [12, 0]
    assert count(own.mask_head, nn.LayerNorm) == (4 if plain else 0)
    assert count(model.rpn.head.conv, nn.Conv2d) == convolutions
    assert count(model.rpn.head, nn.LayerNorm) == (2 if plain else 0)
    assert [matcher.high_threshold for matcher in own._matchers] == [0.5, 0.5 if plain else 0.6, 0.5 if plain else 0.7]
    model.freeze(-1)
    model.train()
    losses = model(torch.randn(2, 3, SIDE, SIDE), truth(masks=True))
    torch.autograd.backward(total(losses))
    assert all(value.grad is not None for part in (model.neck, model.rpn, own) for value in part.parameters())


def test_options_reach_the_network_and_the_schedule() -> None:
    asked = Detect(
        head="cascade",
        tuned=True,
        drop_path=0.3,
        batch_norm="train",
        schedule="step",
        epochs=36,
        px=SIDE,
        strides=(32,),
    )
    spec = fitted(backbones.resolve("timm:test_resnet@random"), SIDE)
    levels = levels_of(spec, asked.training.shape.strides)
    job = Job.__new__(Job)  # what a run would find out from images
    job.__dict__.update(training=asked.training, spec=with_levels(spec, levels), levels=levels, class_names=("one",))
    model = job.model(0).train()
    dropped = [getattr(module, "drop_prob", 0.0) for module in model.network.modules()]
    norms = [module for module in model.network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert max(dropped) == pytest.approx(0.3)
    assert norms
    assert all(norm.training for norm in norms)
    shares = [rate_at(asked.training.phase, epoch * 20, 20) for epoch in (5, 26, 27, 32, 33, 35)]
    assert shares == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop_path": 0.1}, "drop_path must be 0"),
        ({"batch_norm": "train"}, "batch_norm fixed, without tuned"),
        ({"box_loss": "giou"}, "must have a cascade; found head faster"),
        ({"head": "mask", "heads": "bob"}, "must have a cascade; found head mask"),
        ({"head": "mask", "federated": 50}, "must have a cascade; found head mask"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Detect(**options)
