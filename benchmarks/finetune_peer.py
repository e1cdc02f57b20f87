"""Against timm's own training loop: the parts of its train script, on the same network, images and augmentation.

Each side is a process of its own, alternating; images per second over whole epochs, the first not counted. First both
compute in the same precision and layout, then ours in what its trial of a few steps has found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import environment, report
from photographs import photographs
from stages import median

from featurebank.extract import backbones, datasets
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.pipelines.jobs.finetune.augment import AUGMENTATIONS
from featurebank.pipelines.jobs.finetune.images import ImageRows
from featurebank.pipelines.jobs.finetune.job import plan_of
from featurebank.pipelines.jobs.finetune.network import TunedNetwork, random_head
from featurebank.pipelines.jobs.finetune.recipe import Recipe, load_recipe
from featurebank.pipelines.jobs.finetune.task import Classification, Inputs, Pictures
from featurebank.pipelines.training.loop import Progress, train
from featurebank.pipelines.training.trial import Numerics

NETWORKS = {"efficientnet_lite0": "tf_efficientnet_lite0", "mobilenetv2": "mobilenetv2_100"}
CLASSES, SIDE, BATCH, SMOOTHING, DECAY = 10, 128, 32, 0.1, 0.75


def peer(network: str, folder: Path, epochs: int, workers: int) -> float:
    """Timm's loop, as its train script runs it on one device without AMP."""
    import timm.data
    import timm.loss
    import timm.optim
    import timm.scheduler
    import timm.utils

    parts: Any = timm
    torch.manual_seed(0)
    model = parts.create_model(NETWORKS[network], pretrained=False, num_classes=CLASSES)
    dataset = parts.data.ImageDataset(str(folder))
    loader = parts.data.create_loader(
        dataset,
        input_size=(3, SIDE, SIDE),
        batch_size=BATCH,
        is_training=True,
        use_prefetcher=False,
        scale=(0.7, 1.0),
        hflip=0.5,
        color_jitter=None,
        interpolation="bicubic",
        num_workers=workers,
        device=torch.device("cpu"),
    )
    optimizer = parts.optim.create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05, layer_decay=DECAY)
    scheduler, _ = parts.scheduler.create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=epochs, updates_per_epoch=len(loader), step_on_epochs=False
    )
    loss_of, updates, rows, start = parts.loss.LabelSmoothingCrossEntropy(SMOOTHING), 0, 0, 0.0
    for epoch in range(epochs + 1):
        if epoch == 1:
            start, rows = time.perf_counter(), 0
        losses = parts.utils.AverageMeter()
        model.train()
        optimizer.zero_grad()
        for images, labels in loader:
            loss = loss_of(model(images.contiguous()), labels)
            loss.backward()
            parts.utils.dispatch_clip_grad(model.parameters(), value=1.0, mode="norm")
            optimizer.step()
            optimizer.zero_grad()
            updates, rows = updates + 1, rows + len(images)
            losses.update(loss.item(), len(images))
            scheduler.step_update(num_updates=updates, metric=losses.avg)
    return rows / (time.perf_counter() - start)


class Timed(Classification):
    """Without validation: steps are timed."""

    def validate(self, model: torch.nn.Module) -> dict[str, float]:  # noqa: ARG002 (of the task)
        """Nothing to choose by."""
        return {}


def timed(
    model: torch.nn.Module, network: TunedNetwork, inputs: Inputs, *, split: Split, recipe: Recipe, numerics: Numerics
) -> Timed:
    """The task of training a network on all rows of a split, as images or as maps of the cache."""
    return Timed(
        model=model,
        network=network,
        train=inputs,
        validation=inputs,
        targets=np.asarray(split.labels),
        classes=np.arange(CLASSES),
        score=dict,
        recipe=recipe,
        numerics=numerics,
        seed=0,
    )


def ours(network: str, folder: Path, epochs: int, workers: int, numerics: Numerics) -> float:
    """Our loop on our network, batch norms learning their statistics as timm's do."""
    split = datasets.open_split(DatasetSpec(name=f"folder:{folder}", split="all"))
    spec = replace(backbones.resolve(f"{network}@random@{SIDE}px"), outputs=("pooled",))
    trained = backbones.trainable(spec)
    model = TunedNetwork(trained, random_head(trained.dimension, CLASSES, 0), batch_norm="train")
    recipe = load_recipe("lp_ft", epochs=epochs + 1, batch_size=BATCH)
    recipe = replace(recipe, smoothing=SMOOTHING, layer_decay=DECAY, clip=1.0, augmentation=AUGMENTATIONS["light"])
    rows = ImageRows(split, np.arange(len(split)), spec.preprocessing, augmentation=recipe.augmentation)
    task = timed(model, model, Pictures(rows=rows, workers=workers), split=split, recipe=recipe, numerics=numerics)
    begun: list[float] = []

    def observe(progress: Progress) -> None:
        if progress.epoch == 1 and not begun:
            begun.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as temporary:
        train(task, plan_of(recipe, 0), numerics, folder=Path(temporary), identity={}, observe=observe)
    return (epochs * len(split) - BATCH) / (time.perf_counter() - begun[0])


def once(side: str, network: str, folder: Path, epochs: int, workers: int) -> float:
    """Images per second of one side, in a process of its own."""
    words = [sys.executable, __file__, "--side", side, "--network", network, "--folder", str(folder)]
    done = subprocess.run(
        [*words, "--epochs", str(epochs), "--workers", str(workers)], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


SIDES: dict[str, Any] = {
    "same": Numerics(),
    "channels last": Numerics(channels_last=True),
    "bfloat16": Numerics(precision="bfloat16"),
    "bfloat16, channels last": Numerics(precision="bfloat16", channels_last=True),
}


def main() -> None:
    """Alternates the sides; one table and a JSON line for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="efficientnet_lite0")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("peer", *SIDES))
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.side:
        run = (given.network, given.folder, given.epochs, given.workers)
        print(json.dumps(peer(*run) if given.side == "peer" else ours(*run, SIDES[given.side])))
        return
    speeds: dict[str, list[float]] = {side: [] for side in ("peer", *SIDES)}
    with photographs(given.images, classes=CLASSES) as folder:
        for _ in range(given.repeats):
            for side, values in speeds.items():
                values.append(once(side, given.network, folder, given.epochs, given.workers))
    print(f"{given.network}, {SIDE} px, batch {BATCH}, images/s  [{environment()}]")
    for side, values in speeds.items():
        print(f"{side:<24}{min(values):>8.1f}{median(values):>8.1f}{max(values):>8.1f}")
    reference, best = median(speeds["peer"]), max(median(speeds[side]) for side in SIDES)
    same = median(speeds["same"])
    report(
        "finetune_same", ours=same, reference=reference, unit="images/s", bound="ratio >= 1.0", network=given.network
    )
    report(
        "finetune_trial", ours=best, reference=reference, unit="images/s", bound="ratio >= 1.3", network=given.network
    )


if __name__ == "__main__":
    main()
