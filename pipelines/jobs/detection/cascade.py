"""Heads in a cascade: each stage judges the boxes that the one before has moved, at a stricter overlap.

Cai and Vasconcelos 2018, arXiv:1712.00726. Shapes: B images, R regions of all of them, K classes without background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everywhere)
from torchvision.models.detection._utils import BoxCoder, Matcher  # type: ignore[import-untyped]
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss  # type: ignore[import-untyped]
from torchvision.ops import boxes as box_ops  # type: ignore[import-untyped]
from torchvision.ops import generalized_box_iou_loss

from featurebank.pipelines.jobs.detection.federated import Federated

__all__ = ["OVERLAPS", "WEIGHTS", "BoxLoss", "CascadeHeads", "exactly"]

BoxLoss = Literal["l1", "giou"]

OVERLAPS = (0.5, 0.6, 0.7)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
GIOU = 10.0  # of the loss; about what smooth L1 of the weighted numbers is

Targets = list[dict[str, Tensor]]


class CascadeHeads(RoIHeads):  # type: ignore[misc]
    """Stages of heads whose boxes are the same for all classes.

    Regions are sampled, with the true boxes among them, before the first stage alone; every later stage takes all boxes
    that the one before has moved, clipped to the image and cut off from its gradients, without empty ones in training.
    Each stage sends its gradients to the maps in its share. Scores are the mean of all stages' probabilities, boxes the
    last stage's. Masks are learnt from the regions of the first stage.

    Args:
        pool: of boxes.
        heads: (R, C, 7, 7) to (R, D), one a stage.
        predictors: as `predictor` makes them, one a stage.
        overlaps: with a true box from which a region counts as its object, by stage.
        weights: of the four numbers of a box, by stage.
        shares: of the losses, by stage.
        box_loss: of boxes: smooth L1 of their four numbers, or the generalised overlap of the boxes that they stand for
            (Rezatofighi et al. 2019, arXiv:1902.09630), ten times.
        beta: where smooth L1 turns from squares to lines.
        federated: of classes; without it a softmax and its cross-entropy.
        options: of torchvision's `RoIHeads`.
    """

    def __init__(
        self,
        pool: nn.Module,
        heads: Sequence[nn.Module],
        predictors: Sequence[nn.Module],
        *,
        overlaps: Sequence[float] = OVERLAPS,
        weights: Sequence[tuple[float, float, float, float]] = WEIGHTS,
        shares: Sequence[float] = (1.0, 1.0, 1.0),
        box_loss: BoxLoss = "l1",
        beta: float = 1 / 9,
        federated: Federated | None = None,
        **options: Any,
    ) -> None:
        options |= {"fg_iou_thresh": overlaps[0], "bg_iou_thresh": overlaps[0], "bbox_reg_weights": weights[0]}
        super().__init__(pool, nn.ModuleList(heads), nn.ModuleList(predictors), **options)
        self._matchers = [Matcher(overlap, overlap, allow_low_quality_matches=False) for overlap in overlaps]
        self._coders = [BoxCoder(own) for own in weights]
        self._shares, self._box_loss, self._beta = tuple(shares), box_loss, beta
        self.federated = federated
        if federated is not None:
            federated.begin(predictors)

    @staticmethod
    def predictor(width: int, classes: int) -> nn.Module:
        """(R, D) to the logits (R, K + 1) and the four numbers of a box."""
        return _Predictor(width, classes)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's: detections of each image, or in training losses by name."""
        if not self.training:
            return self._detected(features, proposals, image_shapes), {}
        assert targets is not None  # noqa: S101 - narrows the type
        losses: dict[str, Tensor] = {}
        first, matched, labels, regression = self.select_training_samples(proposals, targets)
        sampled, first_labels = first, labels
        for stage in range(len(self.box_head)):
            if stage:
                first, labels, regression = self._matched(stage, first, targets)
            judged = self._judged(stage, features, first, image_shapes)
            losses |= self._losses(stage, judged, first, labels, regression)
            first = self._moved(stage, judged[1], first, image_shapes)
        if self.has_mask():
            objects = [own > 0 for own in first_labels]
            boxes = [own[kept] for own, kept in zip(sampled, objects, strict=True)]
            indices = [own[kept] for own, kept in zip(matched, objects, strict=True)]
            losses["loss_mask"] = self._mask_loss(features, boxes, image_shapes, targets, indices)
        return [], losses

    def _judged(
        self, stage: int, features: dict[str, Tensor], regions: list[Tensor], shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        pooled = self.box_roi_pool(features, regions, shapes)
        share = 1.0 / len(self.box_head)
        pooled = pooled * share + pooled.detach() * (1.0 - share)
        logits, moves = self.box_predictor[stage](self.box_head[stage](pooled))
        return logits, moves

    def _losses(
        self,
        stage: int,
        judged: tuple[Tensor, Tensor],
        regions: list[Tensor],
        labels: list[Tensor],
        regression: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Of a stage: cross-entropy, and the loss of the boxes of objects over all regions."""
        classes = torch.cat(labels)
        objects = classes > 0
        moves, wanted = judged[1][objects], torch.cat(list(regression))[objects]
        if self._box_loss == "giou":
            at = torch.cat(regions)[objects]
            boxes, own = (self._coders[stage].decode_single(some, at) for some in (moves, wanted))
            box = GIOU * generalized_box_iou_loss(boxes, own, reduction="sum")
        else:
            box = F.smooth_l1_loss(moves, wanted, beta=self._beta, reduction="sum")
        judge = F.cross_entropy if self.federated is None else self.federated.loss
        share, named = self._shares[stage], f"_{stage + 1}"
        return {
            f"loss_classifier{named}": share * judge(judged[0], classes),
            f"loss_box_reg{named}": share * (box / max(1, len(classes))),
        }

    def _moved(self, stage: int, moves: Tensor, regions: list[Tensor], shapes: list[tuple[int, int]]) -> list[Tensor]:
        """Boxes as a stage has moved them, clipped; empty ones are left out in training."""
        boxes = self._coders[stage].decode(moves.detach(), regions)[:, 0].split([len(own) for own in regions])
        clipped = [box_ops.clip_boxes_to_image(own, shape) for own, shape in zip(boxes, shapes, strict=True)]
        return [own[box_ops.remove_small_boxes(own, 1e-2)] for own in clipped] if self.training else clipped

    def _matched(
        self, stage: int, regions: list[Tensor], targets: Targets
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """All regions of a later stage with their labels and what their boxes should become."""
        self.proposal_matcher = self._matchers[stage]
        true = [target["boxes"].to(regions[0].dtype) for target in targets]
        matched, labels = self.assign_targets_to_proposals(regions, true, [target["labels"] for target in targets])
        self.proposal_matcher = self._matchers[0]
        own = [
            boxes[index] if len(boxes) else torch.zeros_like(some)
            for boxes, index, some in zip(true, matched, regions, strict=True)
        ]
        return regions, labels, self._coders[stage].encode(own, regions)

    def _detected(
        self, features: dict[str, Tensor], regions: list[Tensor], shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        probabilities, stages = torch.zeros(()), len(self.box_head)
        for stage in range(stages):
            logits, moves = self._judged(stage, features, regions, shapes)
            own = logits.softmax(-1) if self.federated is None else self.federated.probabilities(logits)
            probabilities = probabilities + own / stages
            regions = self._moved(stage, moves, regions, shapes)
        scores = torch.split(probabilities, [len(own) for own in regions])
        found = [self._best(boxes, own) for boxes, own in zip(regions, scores, strict=True)]
        if self.has_mask():
            pooled = self.mask_roi_pool(features, [one["boxes"] for one in found], shapes)
            masks = maskrcnn_inference(self.mask_predictor(self.mask_head(pooled)), [one["labels"] for one in found])
            found = [{**one, "masks": own} for one, own in zip(found, masks, strict=True)]
        return found

    def _best(self, boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
        """Of an image's boxes (r, 4) and scores (r, K + 1) the detections, as torchvision chooses them."""
        rows, labels = torch.where(scores[:, 1:] > self.score_thresh)
        boxes, scores, labels = boxes[rows], scores[rows, labels + 1], labels + 1
        large = box_ops.remove_small_boxes(boxes, 1e-2)
        kept = large[box_ops.batched_nms(boxes[large], scores[large], labels[large], self.nms_thresh)]
        kept = kept[: self.detections_per_img]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}

    def _mask_loss(
        self,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        shapes: list[tuple[int, int]],
        targets: Targets,
        indices: list[Tensor],
    ) -> Tensor:
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, shapes)))
        masks, classes = [one["masks"] for one in targets], [one["labels"] for one in targets]
        return maskrcnn_loss(logits, boxes, masks, classes, indices)  # type: ignore[no-any-return]


def exactly(tensor: Tensor) -> torch.autocast:
    """Within it, nothing is rounded to bfloat16, whose eight bits place a box to two or four pixels."""
    return torch.autocast(tensor.device.type, enabled=False)


class _Predictor(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, classes + 1)
        self.bbox_pred = nn.Linear(width, 4)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        with exactly(regions):
            regions = regions.float()
            return self.cls_score(regions), self.bbox_pred(regions)
