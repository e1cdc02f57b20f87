"""A training step from cached maps against the same step without them, and against tuning every layer.

EfficientNet-Lite0 at 96 pixels on Fashion-MNIST, one thread, whole steps of the trainer as a user has them: rows are
read and augmented as the recipe says, or taken from the maps and their mirrored view. CPU seconds, alternating.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetune_peer import CLASSES, timed
from harness import environment, report
from numpy.typing import NDArray
from stages import median

from featurebank.extract import backbones, datasets
from featurebank.extract.datasets.contract import DatasetSpec, Split, Subset
from featurebank.pipelines.jobs.finetune.images import ImageRows
from featurebank.pipelines.jobs.finetune.job import plan_of
from featurebank.pipelines.jobs.finetune.maps import FromCut
from featurebank.pipelines.jobs.finetune.network import TunedNetwork, random_head
from featurebank.pipelines.jobs.finetune.recipe import load_recipe
from featurebank.pipelines.jobs.finetune.task import Inputs, MapRows, Pictures
from featurebank.pipelines.training.loop import train
from featurebank.pipelines.training.trial import Numerics

BLOCKS = 5
SPEC = replace(backbones.resolve("efficientnet_lite0@96px"), outputs=("pooled",))
NUMERICS = Numerics(channels_last=True)


def maps_of(model: FromCut, split: Split, *, flip: bool) -> NDArray[np.float16]:
    """(N, …) what enters the block that is tuned first."""
    images, kept = ImageRows(split, np.arange(len(split)), SPEC.preprocessing), []
    entrance = model._top[0]._entrance[0]
    handle = entrance.register_forward_pre_hook(lambda _, given: kept.append(given[0].half().numpy()))
    model.whole.eval()
    with torch.no_grad():
        for row in range(len(split)):
            image = images[-1, row][None]
            model.whole(image.flip(-1) if flip else image)
    handle.remove()
    return np.concatenate(kept)


def seconds_of_a_step(mode: str, split: Split, maps: list[NDArray[np.float16]], epochs: int) -> float:
    """CPU seconds: of a run, over its steps."""
    trained = backbones.trainable(SPEC)
    network = TunedNetwork(trained, random_head(trained.dimension, CLASSES, 0))
    network.freeze(0 if mode == "full" else BLOCKS)
    recipe = load_recipe("lp_ft", epochs=epochs)
    model: torch.nn.Module = network
    rows = ImageRows(split, np.arange(len(split)), SPEC.preprocessing, augmentation=recipe.augmentation)
    inputs: Inputs = Pictures(rows=rows, workers=0)
    if mode == "cached":
        model = FromCut(network, BLOCKS)
        inputs = MapRows(views=maps, rows=np.arange(len(split)), seed=0)
    task = timed(model, network, inputs, split=split, recipe=recipe, numerics=NUMERICS)
    with tempfile.TemporaryDirectory() as temporary:
        begun = time.process_time()
        state = train(task, plan_of(recipe, 0), NUMERICS, folder=Path(temporary), identity={})
        return (time.process_time() - begun) / state.step


def main() -> None:
    """One table, and a JSON line for each ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    split = datasets.open_split(DatasetSpec(name="fashion_mnist", split="train", subset=Subset(size=given.rows)))
    trained = backbones.trainable(SPEC)
    network = TunedNetwork(trained, random_head(trained.dimension, CLASSES, 0))
    network.freeze(BLOCKS)
    maps = [maps_of(FromCut(network, BLOCKS), split, flip=flip) for flip in (False, True)]
    seconds: dict[str, list[float]] = {"full": [], "frozen": [], "cached": []}
    for _ in range(given.repeats):
        for mode, values in seconds.items():
            values.append(seconds_of_a_step(mode, split, maps, given.epochs))
    batch = load_recipe("lp_ft").batch_size
    print(f"CPU seconds of a step of {batch} rows, {BLOCKS} blocks frozen or none  [{environment()}]")
    for mode, values in seconds.items():
        print(f"{mode:<10}{min(values):>8.4f}{median(values):>8.4f}{max(values):>8.4f}")
    for mode, bound in (("full", 1.7), ("frozen", 1.3)):
        ratios: list[Any] = [a / b for a, b in zip(seconds[mode], seconds["cached"], strict=True)]
        ours, reference = median(seconds["cached"]), median(seconds[mode])
        print(f"{mode} / cached: median of the pairs {median(ratios):.2f}")
        report(f"finetune_cached_{mode}", ours=ours, reference=reference, unit="CPU s", bound=f"ratio <= 1 / {bound}")


if __name__ == "__main__":
    main()
