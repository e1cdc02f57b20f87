"""A detector's training step with its backbone tuned, frozen, and frozen with its maps from the cache.

MobileNetV2 from the packaged weights on tiles of deepforest, one thread, whole steps with reading and AdamW;
the three alternating.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from harness import alternate, environment, report
from stages import median
from torch import Tensor

from featurebank.extract import backbones, datasets
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.extract.datasets.objects import annotated
from featurebank.pipelines.jobs.detection.detector import Detector
from featurebank.pipelines.jobs.detection.heads import Shape, total
from featurebank.pipelines.jobs.detection.scenes import CachedScenes, Scenes
from featurebank.pipelines.jobs.maps.levels import Maps, fitted, levels_of, with_levels

SIDE, STRIDES, BATCH = 416, (8, 16, 32), 2
SHAPE = Shape(channels=64, strides=STRIDES, anchor=4.0, width=512, proposals=300, sampled=64)


def main() -> None:
    """One table, and a JSON line for each ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    spec = fitted(backbones.resolve("mobilenetv2"), SIDE)
    levels = levels_of(spec, STRIDES)
    split = annotated(datasets.open_split(DatasetSpec(name="deepforest", split="train")))
    options: dict[str, Any] = {
        "split": split, "rows": np.arange(len(split)), "preprocessing": spec.preprocessing, "masks": False,
        "flip": 0.0, "seed": 0, "workers": 0,
    }  # fmt: skip
    live = Scenes(**options)
    frozen, tuned = (
        Detector(backbones.trainable(with_levels(spec, levels)), levels, shape=SHAPE, classes=1, side=SIDE, seed=0).to(
            memory_format=torch.channels_last
        )
        for _ in range(2)
    )
    frozen.freeze(-1)
    with torch.no_grad():
        maps = [frozen.maps(images) for images in live.batches(-1, np.arange(len(split))[:, None])]  # type: ignore[arg-type]
    views = [[torch.cat([one.levels[number] for one in maps]).half().numpy() for number in range(len(levels))]]
    sides = {
        "tuned": (tuned, live),
        "frozen": (frozen, live),
        "cached": (frozen, CachedScenes(**options, views=views)),
    }
    steps = {name: stepping(model, scenes) for name, (model, scenes) in sides.items()}
    seconds = alternate(steps, repeats=given.repeats)
    print(f"seconds of a step of {BATCH} tiles  [{environment()}]")
    for name, values in seconds.items():
        print(f"{name:<8}{min(values):>8.3f}{median(values):>8.3f}{max(values):>8.3f}")
    for name, bound in (("tuned", 3.0), ("frozen", 1.7)):
        ours, reference = median(seconds["cached"]), median(seconds[name])
        report(f"detection_cached_{name}", ours=ours, reference=reference, unit="s", bound=f"ratio <= 1 / {bound}")


def stepping(model: Detector, scenes: Scenes) -> Any:
    """A step on the next rows."""
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-5)
    place = [0]

    def step() -> None:
        window = np.arange(place[0], place[0] + BATCH) % len(scenes)
        place[0] += BATCH
        (inputs,) = scenes.batches(0, [window])
        inputs = laid_out(inputs)
        torch.manual_seed(place[0])
        model.train()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total(model(inputs, scenes.truth(0, window))))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    return step


def laid_out(inputs: Tensor | Maps) -> Tensor | Maps:
    """Channels last."""
    return inputs.to(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
