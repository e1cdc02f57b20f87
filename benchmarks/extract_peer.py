"""Against the loop a user writes today: timm model, create_transform, DataLoader with two workers, float32.

The same JPEGs, the same weights, the same size, crop, mean and std, each side in a process of its own. Images per
second of both, laying the network out not counted and printed apart, and the smallest cosine between both sets of
pooled features.
ResNet-50 has random weights here: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from harness import environment, report
from numpy.typing import NDArray
from photographs import photographs
from stages import Setting, median, open_folder, runner_of, setting
from timm.data import create_transform  # type: ignore[attr-defined]
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]

from featurebank.extract import backbones
from featurebank.extract.backbones.network import FrozenNetwork
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.wanted import Request, want
from featurebank.store import FeatureSet, FeatureStore

CASES = {"resnet50": ("timm:resnet50@random:0", 5.0), "efficientnet_lite0": ("efficientnet_lite0", 4.0)}


def peer(name: str, folder: Path, device: str) -> tuple[NDArray[np.float32], float]:
    """The loop a user writes: features (N, D) and images per second."""
    spec = backbones.resolve(name, outputs=["pooled"])
    network = backbones.build(spec)
    assert isinstance(network, FrozenNetwork)  # noqa: S101 - narrows the type
    model, size = network.backbone.to(device), spec.preprocessing
    transform = create_transform(
        input_size=(3, size.height, size.width),
        crop_pct=size.height / size.resize_height,
        interpolation=size.interpolation,
        mean=size.mean,
        std=size.std,
    )
    images = ImageFolder(str(folder), transform=transform)
    loader = DataLoader(images, batch_size=64, num_workers=2, pin_memory=device.startswith("cuda"))
    features = []
    start = time.perf_counter()
    with torch.no_grad():
        for batch, _ in loader:
            maps = model.forward_features(batch.to(device))  # type: ignore[operator]
            features.append(model.forward_head(maps, pre_logits=True).cpu().numpy())  # type: ignore[operator]
    values = np.concatenate(features)
    return values, len(values) / (time.perf_counter() - start)


def ours(split: Split, name: str, use: Setting) -> tuple[NDArray[np.float16], float, str]:
    """The engine: features (N, D), images per second and how it ran."""
    with tempfile.TemporaryDirectory() as temporary:
        spec = backbones.resolve(name, outputs=["pooled"])
        wanted = want(
            [Request(backbone=spec, split=0)], [split], FeatureStore(Path(temporary)), precision=use.precision
        )
        outcome = extract(wanted, [split], execution=Execution(device=use.device))[0]
        if outcome.state != "sealed":
            raise SystemExit(outcome.error)
        with FeatureSet(outcome.path) as made:
            return made.load("pooled"), outcome.images_per_second, outcome.execution


def compare(case: str, images: int, repeats: int) -> None:
    """One backbone: alternating runs, medians, one JSON line."""
    name, bound = CASES[case]
    use = setting()
    spec = backbones.resolve(name, outputs=["pooled"])
    rates: dict[str, list[float]] = {"peer": [], "ours": []}
    start = time.perf_counter()
    eager = runner_of(spec, use, packed=False)
    built = time.perf_counter()
    runner_of(spec, use, packed=not use.device.startswith("cuda"))
    packing_seconds = (time.perf_counter() - built) - (built - start)
    del eager
    with photographs(images) as folder, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        split = open_folder(folder)
        for _ in range(repeats):
            expected, rate = other.submit(peer, name, folder, use.device).result()
            rates["peer"].append(rate)
            found, rate, how = ours(split, name, use)
            rates["ours"].append(rate)
    a, b = expected.astype(np.float64), found.astype(np.float64)
    cosine = float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())
    print(f"\n{case}, {images} JPEGs, {use.device}, {use.precision}, {how}  [{environment()}]")
    print(f"peer {[round(r, 1) for r in rates['peer']]}, ours {[round(r, 1) for r in rates['ours']]} images/s")
    print(f"packing {packing_seconds:.1f} s (not counted), smallest cosine {cosine:.6f}")
    report(
        f"extract_peer/{case}",
        ours=median(rates["ours"]),
        reference=median(rates["peer"]),
        unit="images/s",
        bound=f"ratio >= {bound:g}, cosine >= 0.999",
        cosine=cosine,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=sorted(CASES))
    args = parser.parse_args()
    for case in [args.only] if args.only else CASES:
        compare(case, args.images, args.repeats)


if __name__ == "__main__":
    main()
