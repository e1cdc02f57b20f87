"""PGD on a real network against foolbox's: the rows that stay right, one by one, and the seconds.

EfficientNet-Lite0 at 96 pixels with the probe of 2,000 training images of Fashion-MNIST as its classifier; 500 test
images; PGD of 10 steps from the image itself, linf, at four radii. Both sides get the same network, which needs no
gradients of its weights, in channels-last, and the same batches, and take turns; seconds are the process's CPU time.
The last line of the table is all radii at once, where ours does not attack again what fell at a smaller one.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial

import numpy as np
import torch
from harness import environment, report
from numpy.typing import NDArray
from torch import Tensor

from featurebank.extract.backbones import resolve, trainable
from featurebank.extract.datasets import DatasetSpec, open_split
from featurebank.extract.decode import decode
from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.transform import Transform
from featurebank.pipelines.jobs.finetune.network import TunedNetwork, folded_head, random_head
from featurebank.pipelines.jobs.finetune.robustness import Attack, InPixels, pgd, withstood
from featurebank.probes.linear import fit_linear

with warnings.catch_warnings():  # it imports from a namespace that SciPy has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox

BACKBONE, CLASSES, STEPS, AT_ONCE = "efficientnet_lite0@96px", 10, 10, 50
RADII = (0.25, 0.5, 1, 2)
Batches = list[tuple[Tensor, Tensor]]


def batches(split: str, rows: int, preprocessing: Preprocessing, device: str) -> Batches:
    opened, transform = open_split(DatasetSpec(name="fashion_mnist", split=split)), Transform(preprocessing)
    found = []
    for first in range(0, rows, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, rows))
        pixels = np.stack([transform.pixels(decode(opened.read(row), preprocessing.decode)) for row in numbers])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device) / 255  # channels-last, as pixels are
        found.append((images, torch.from_numpy(opened.labels[numbers]).to(device)))
    return found


def probed(rows: int, device: str) -> tuple[InPixels, Preprocessing]:
    """The network with a probe as its classifier, and what becomes of an image before it."""
    spec = resolve(BACKBONE, outputs=["pooled"])
    backbone = trainable(spec)
    tuned = TunedNetwork(backbone, random_head(backbone.dimension, CLASSES, 0))
    tuned.to(device).to(memory_format=torch.channels_last).requires_grad_(False)
    normalised = InPixels(torch.nn.Identity(), spec.preprocessing).to(device)
    train = batches("train", rows, spec.preprocessing, device)
    with torch.no_grad():
        features = torch.cat([tuned.pooled(normalised(images)) for images, _ in train]).cpu().numpy()
    head = folded_head(fit_linear(features, torch.cat([labels for _, labels in train]).cpu().numpy()), CLASSES)
    tuned.head.load_state_dict({"weight": head.weight, "bias": head.bias})
    return InPixels(tuned, spec.preprocessing).to(device).eval(), spec.preprocessing


def attack(radius: float) -> Attack:
    return partial(pgd, norm="linf", radius=radius, steps=STEPS, step_size=radius / 4, start="centre")


def by_foolbox(model: InPixels, data: Batches, radius: float) -> NDArray[np.bool_]:
    """(N,) bool: the rows that are right on what is at the end of the steps."""
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=radius / 4, steps=STEPS, random_start=False)
    wrapped = foolbox.models.pytorch.PyTorchModel(model, bounds=(0, 1), device=data[0][0].device)
    return np.concatenate([~theirs(wrapped, *batch, epsilons=radius)[2].cpu().numpy() for batch in data])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500, help="test images")
    parser.add_argument("--train", type=int, default=2000, help="images that the probe is fitted on")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    model, preprocessing = probed(args.train, args.device)
    data = batches("test", args.rows, preprocessing, args.device)
    seconds, differing, radii = {"ours": 0.0, "foolbox": 0.0}, [], [radius / 255 for radius in RADII]
    print(f"PGD-{STEPS}, linf, {args.rows} rows, {torch.get_num_threads()} threads  [{environment()}]")
    print(
        f"{'radius':>8} {'ours':>7} {'foolbox':>8} {'rows differ':>12} {'ours':>9} {'foolbox':>9} {'ours/foolbox':>13}"
    )
    for name, radius in zip(RADII, radii, strict=True):
        start = time.process_time()
        ours = withstood(model, data, [attack(radius)])[1]
        half = time.process_time()
        theirs = by_foolbox(model, data, radius)
        spent = half - start, time.process_time() - half
        seconds = {side: seconds[side] + more for side, more in zip(seconds, spent, strict=True)}
        differing.append(int((ours != theirs).sum()))
        print(f"{name:>4g}/255 {ours.mean():>7.3f} {theirs.mean():>8.3f} {differing[-1]:>12} "
              f"{spent[0]:>8.1f}s {spent[1]:>8.1f}s {spent[0] / spent[1]:>13.2f}", flush=True)  # fmt: skip
    start = time.process_time()
    curve = withstood(model, data, [attack(radius) for radius in radii])
    at_once = time.process_time() - start
    print(f"all at once, ours: {' '.join(f'{value:.3f}' for value in curve.mean(1))} (the first: not attacked); "
          f"{at_once:.1f}s, {at_once / seconds['foolbox']:.2f} of foolbox's")  # fmt: skip
    report(
        "robustness_foolbox",
        ours=seconds["ours"],
        reference=seconds["foolbox"],
        unit="CPU s",
        bound="ratio <= 1, rows_differing <= 1 at each radius",
        rows_differing=differing,
        at_once=at_once,
    )


if __name__ == "__main__":
    main()
