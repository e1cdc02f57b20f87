"""A training step of Mask R-CNN on ResNet-50 with a feature pyramid, against torchvision's own model.

Same images, objects and sizes, every layer trained, batch norms fixed, random weights. Each side is a process of its
own, alternating: seconds of a step (forward, backward, SGD), and the largest memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import environment, report
from stages import median
from torch import Tensor

from featurebank.extract import backbones
from featurebank.pipelines.jobs.detection.detector import Detector, Truth
from featurebank.pipelines.jobs.detection.heads import Shape, total
from featurebank.pipelines.jobs.detection.levels import fitted, levels_of, with_levels

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


def ours(side: int, images: Tensor, truth: Truth) -> tuple[torch.nn.Module, Callable[[], Tensor]]:
    """Our detector, and its loss."""
    spec = fitted(backbones.resolve("timm:resnet50@random"), side)
    levels = levels_of(spec, (4, 8, 16, 32))
    network = backbones.trainable(with_levels(spec, levels))
    model = Detector(network, levels, shape=Shape(head="mask"), classes=CLASSES, side=side, seed=0)
    return model.train(), lambda: total(model(images, truth))


def theirs(side: int, images: Tensor, truth: Truth) -> tuple[torch.nn.Module, Callable[[], Tensor]]:
    """Torchvision's, of the same sizes."""
    from torchvision.models.detection import MaskRCNN  # type: ignore[import-untyped]
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # type: ignore[import-untyped]

    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5)
    model: Any = MaskRCNN(
        backbone, CLASSES + 1, min_size=side, max_size=side, image_mean=[0.0] * 3, image_std=[1.0] * 3
    )
    return model.train(), lambda: total(model(list(images), truth.images))


def once(side: str, px: int, batch: int, steps: int) -> tuple[float, float]:
    """Seconds of a step and the process's largest memory in MB."""
    words = ["--side", side, "--px", str(px), "--batch", str(batch), "--steps", str(steps)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes


def timed(side: str, px: int, batch: int, steps: int) -> tuple[float, float]:
    """One side in this process; its median step, the first not counted."""
    images, truth = scene(px, batch)
    model, loss = (ours if side == "ours" else theirs)(px, images, truth)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-5)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss())
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Alternates; one table and a JSON line for time and for memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--px", type=int, default=320)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "theirs"))
    given = parser.parse_args()
    own = (given.px, given.batch, given.steps)
    if given.side:
        print(json.dumps(timed(given.side, *own)))
        return
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for _ in range(given.repeats):
        for side, values in found.items():
            values.append(once(side, *own))
    print(f"Mask R-CNN, ResNet-50-FPN, {given.px} px, batch {given.batch}: a step  [{environment()}]")
    for side, values in found.items():
        print(f"{side:<10}{median([one for one, _ in values]):>9.3f} s{median([two for _, two in values]):>9.0f} MB")
    for number, (name, unit) in enumerate((("time", "s"), ("memory", "MB"))):
        a, b = (median([value[number] for value in found[side]]) for side in ("ours", "theirs"))
        report(f"detection_peer_{name}", ours=a, reference=b, unit=unit, bound="ratio <= 1.05", px=given.px)


if __name__ == "__main__":
    main()
