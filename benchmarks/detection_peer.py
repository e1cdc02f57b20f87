"""A training step of Mask R-CNN on ResNet-50 with a feature pyramid, against torchvision's own model.

Same images, objects, sizes and weights (torchvision's random ones, copied), every layer trained, batch norms fixed;
regions are drawn alike, so both have the same losses, which are printed. Each side is a process of its own, in turns:
seconds of a step (forward, backward, SGD), and the largest memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import environment, report
from stages import median
from torch import Tensor

from featurebank.extract import backbones
from featurebank.pipelines.jobs.detection.detector import Detector, Truth
from featurebank.pipelines.jobs.detection.heads import Shape, total
from featurebank.pipelines.jobs.maps.levels import fitted, levels_of, with_levels

CLASSES, OBJECTS = 80, 8


def scene(side: int, batch: int) -> tuple[Tensor, Truth]:
    """Noise, and squares that are to be found on it."""
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.standard_normal((batch, 3, side, side), np.float32))
    shown = []
    for _ in range(batch):
        corners = generator.integers(0, side // 2, (OBJECTS, 2))
        boxes = np.concatenate([corners, corners + generator.integers(side // 10, side // 2, (OBJECTS, 2))], 1)
        masks = np.zeros((OBJECTS, side, side), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = 1
        labels = generator.integers(1, CLASSES + 1, OBJECTS)
        shown.append(
            {
                "boxes": torch.from_numpy(boxes).float(),
                "labels": torch.from_numpy(labels),
                "masks": torch.from_numpy(masks),
            }
        )
    return images, Truth(shown)


PARTS = {"network.backbone": "backbone.body", "neck.network": "backbone.fpn", "rpn": "rpn", "heads": "roi_heads"}
"""Ours, and torchvision's, of the same layers."""


def ours(side: int, weights: dict[str, Tensor]) -> tuple[torch.nn.Module, Callable[[Tensor, Truth], Tensor]]:
    """Our detector with torchvision's weights, and its loss."""
    spec = fitted(backbones.resolve("timm:resnet50@random"), side)
    levels = levels_of(spec, (4, 8, 16, 32))
    network = backbones.trainable(with_levels(spec, levels))
    shape = Shape(head="mask")
    model = Detector(network, levels, shape=shape, classes=CLASSES, side=side, seed=0, batch_norm="fixed")
    for own, other in PARTS.items():
        part = {name.removeprefix(f"{other}."): value for name, value in weights.items() if name.startswith(other)}
        loaded = model.get_submodule(own).load_state_dict(part, strict=False)
        if loaded.unexpected_keys or not all(name.startswith("fc.") for name in loaded.missing_keys):
            raise SystemExit(f"{own} must have the layers of {other}; found {loaded}")
    model = model.to(memory_format=torch.channels_last).train()
    return model, lambda images, truth: total(model(images.to(memory_format=torch.channels_last), truth))


def theirs(
    side: int, weights: dict[str, Tensor] | None = None
) -> tuple[torch.nn.Module, Callable[[Tensor, Truth], Tensor]]:
    """Torchvision's, of the same sizes."""
    from torchvision.models.detection import MaskRCNN  # type: ignore[import-untyped]
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # type: ignore[import-untyped]

    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5)
    model: Any = MaskRCNN(
        backbone, CLASSES + 1, min_size=side, max_size=side, image_mean=[0.0] * 3, image_std=[1.0] * 3
    )
    if weights is not None:
        model.load_state_dict(weights)
    return model.train(), lambda images, truth: total(model(list(images), truth.images))


def once(side: str, weights: Path, px: int, batch: int, steps: int) -> tuple[float, float, float]:
    """Seconds of a step, the process's largest memory in MB, and the loss of its first step."""
    words = ["--side", side, "--weights", str(weights), "--px", str(px), "--batch", str(batch), "--steps", str(steps)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    seconds, megabytes, loss = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes, loss


def timed(side: str, weights: Path, px: int, batch: int, steps: int) -> tuple[float, float, float]:
    """One side in this process; its median step, the first not counted."""
    images, truth = scene(px, batch)
    model, loss = (ours if side == "ours" else theirs)(px, torch.load(weights, weights_only=True, mmap=True))
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-5)
    seconds, losses = [], []
    for number in range(steps + 1):
        torch.manual_seed(number)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        value = loss(images, truth)
        torch.autograd.backward(value)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(float(value))
    return median(seconds[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, losses[0]


def main() -> None:
    """Alternates; one table and a JSON line for time and for memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--px", type=int, default=320)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "theirs"))
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args()
    own = (given.px, given.batch, given.steps)
    if given.side:
        print(json.dumps(timed(given.side, given.weights, *own)))
        return
    found: dict[str, list[tuple[float, float, float]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(theirs(given.px)[0].state_dict(), weights := Path(folder) / "weights.pt")
        for _ in range(given.repeats):
            for side, values in found.items():
                values.append(once(side, weights, *own))
    print(f"Mask R-CNN, ResNet-50-FPN, {given.px} px, batch {given.batch}: a step  [{environment()}]")
    for side, values in found.items():
        seconds, megabytes, loss = (median([value[number] for value in values]) for number in range(3))
        print(f"{side:<10}{seconds:>9.3f} s{megabytes:>9.0f} MB, loss of the first step {loss:.3f}")
    for number, (name, unit) in enumerate((("time", "s"), ("memory", "MB"))):
        a, b = (median([value[number] for value in found[side]]) for side in ("ours", "theirs"))
        report(f"detection_peer_{name}", ours=a, reference=b, unit=unit, bound="ratio <= 1.05", px=given.px)


if __name__ == "__main__":
    main()
