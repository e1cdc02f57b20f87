"""What a detector has behind a pyramid: proposals, and heads that judge them, by torchvision's parts.

Shapes: B images, C channels of the pyramid, R regions, K classes without the background, whose number is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator  # type: ignore[import-untyped]
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead  # type: ignore[import-untyped]
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor  # type: ignore[import-untyped]
from torchvision.models.detection.roi_heads import RoIHeads  # type: ignore[import-untyped]
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead  # type: ignore[import-untyped]
from torchvision.ops import MultiScaleRoIAlign  # type: ignore[import-untyped]

from featurebank.pipelines.jobs.detection.cascade import OVERLAPS, BoxLoss, CascadeHeads, exactly
from featurebank.pipelines.jobs.detection.federated import Federated

__all__ = ["Shape", "Style", "proposals", "region_heads"]

Head = Literal["faster", "mask", "cascade", "cascade-mask"]
RATIOS = (0.5, 1.0, 2.0)
IN_TRAINING, IN_TESTING = "training", "testing"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a detector is built; one for all backbones.

    Attributes:
        head: Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), Mask R-CNN (He et al. 2017, arXiv:1703.06870), or
            Cascade R-CNN (Cai and Vasconcelos 2018, arXiv:1712.00726), with or without masks.
        channels: of the pyramid, and of convolutions behind it.
        strides: of the backbone's maps that are used.
        anchor: side of an anchor, in strides of its level.
        box_head: two linear layers, or four convolutions with layer norm and one.
        width: of the linear layers.
        box_loss: of boxes, in a cascade: see `CascadeHeads`.
        heads: one kind for all backbones, or those of Battle of the Backbones (Goldblum et al. 2023, arXiv:2310.19909),
            which differ between plain transformers and others: see `Style`.
        proposals: that are judged, of an image; twice as many are chosen from in training.
        sampled: regions of an image that are trained on.
        federated: in a cascade, classes of a batch that are judged, each on its own; 0 for a softmax over all.
    """

    head: Head = "faster"
    channels: int = 256
    strides: tuple[int, ...] = (4, 8, 16, 32)
    anchor: float = 8.0
    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    width: int = 1024
    box_loss: BoxLoss = "l1"
    heads: Literal["one", "bob"] = "one"
    proposals: int = 1000
    sampled: int = 512
    federated: int = 0

    def style(self, *, plain: bool) -> Style:
        """The heads behind the one map of a plain transformer, or behind maps of several strides."""
        if self.heads == "one":
            return ONE
        return BOB_PLAIN if plain else BOB_STAGES

    @property
    def masks(self) -> bool:
        """Whether objects have masks."""
        return self.head.endswith("mask")


@dataclass(frozen=True, kw_only=True)
class Style:
    """What differs between the heads of a study that has several kinds.

    Attributes:
        norm: behind the convolutions of a box head.
        normed: whether those of the mask head, and of the proposals' head, have a layer norm too.
        depth: convolutions of the proposals' head.
        overlaps: of a cascade's stages, with a true box from which a region counts as its object.
        shares: of the stages' losses.
        beta: of smooth L1.
    """

    norm: Literal["layer", "batch"] = "layer"
    normed: bool = False
    depth: int = 1
    overlaps: tuple[float, ...] = OVERLAPS
    shares: tuple[float, ...] = (1.0, 1.0, 1.0)
    beta: float = 1 / 9


ONE = Style()
BOB_STAGES = Style(norm="batch", shares=(1.0, 0.5, 0.25), beta=1.0)
BOB_PLAIN = Style(normed=True, depth=2, overlaps=(0.5, 0.5, 0.5), shares=(1.0, 0.5, 0.25), beta=1.0)


def proposals(shape: Shape, strides: Sequence[int], style: Style = ONE) -> RegionProposalNetwork:
    """Boxes that may hold an object: an anchor of three ratios at each place of each level."""
    anchors = AnchorGenerator(tuple((round(shape.anchor * stride),) for stride in strides), (RATIOS,) * len(strides))
    most = {IN_TRAINING: 2 * shape.proposals, IN_TESTING: shape.proposals}
    return RegionProposalNetwork(
        anchors,
        _ProposalsHead(shape.channels, style),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=most,
        post_nms_top_n=most,
        nms_thresh=0.7,
    )


def region_heads(shape: Shape, classes: int, levels: int, style: Style = ONE) -> RoIHeads:
    """What judges proposals: classes, boxes and, where they are asked for, masks.

    Args:
        shape: how.
        classes: K.
        levels: of the pyramid, of which the coarsest proposes alone.
        style: see `Shape.style`.
    """
    names = [str(number) for number in range(levels - 1)]
    options: dict[str, Any] = {
        "fg_iou_thresh": 0.5,
        "bg_iou_thresh": 0.5,
        "batch_size_per_image": shape.sampled,
        "positive_fraction": 0.25,
        "bbox_reg_weights": None,
        "score_thresh": 0.05,
        "nms_thresh": 0.5,
        "detections_per_img": 100,
    }
    if shape.masks:
        layers = (shape.channels,) * 4
        options |= {
            "mask_roi_pool": MultiScaleRoIAlign(names, 14, 2),
            "mask_head": MaskRCNNHeads(shape.channels, layers, 1, LayerNorm2d if style.normed else None),
            "mask_predictor": MaskRCNNPredictor(shape.channels, shape.channels, classes + 1),
        }
    pool = MultiScaleRoIAlign(names, 7, 2)
    if shape.head.startswith("cascade"):
        heads = [_box_head(shape, style) for _ in range(3)]
        options |= {"overlaps": style.overlaps, "shares": style.shares, "beta": style.beta, "box_loss": shape.box_loss}
        options |= {"federated": Federated(classes, shape.federated) if shape.federated else None}
        return CascadeHeads(pool, heads, [CascadeHeads.predictor(shape.width, classes) for _ in heads], **options)
    return RoIHeads(pool, _box_head(shape, style), _Predictor(shape.width, classes + 1), **options)


class _ProposalsHead(RPNHead):  # type: ignore[misc]
    """Torchvision's, with norms where a style has them."""

    conv: Any

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__(channels, len(RATIOS), conv_depth=style.depth)
        if style.normed:
            self.conv = nn.Sequential(
                *(nn.Sequential(layer[0], LayerNorm2d(channels), nn.ReLU(inplace=True)) for layer in self.conv)
            )

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, moves = super().forward(maps)
        return [level.float() for level in logits], [level.float() for level in moves]


class _Predictor(FastRCNNPredictor):  # type: ignore[misc]
    """Torchvision's, computing as exactly as boxes need."""

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        with exactly(regions):
            logits, moves = super().forward(regions.float())
        return logits, moves


def _box_head(shape: Shape, style: Style) -> nn.Module:
    norm = LayerNorm2d if style.norm == "layer" else nn.BatchNorm2d
    head: nn.Module = (
        TwoMLPHead(shape.channels * 49, shape.width)
        if shape.box_head == "2fc"
        else FastRCNNConvFCHead((shape.channels, 7, 7), [shape.channels] * 4, [shape.width], norm)
    )
    return head


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of losses by name."""
    return torch.stack(list(losses.values())).sum()
