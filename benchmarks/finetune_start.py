"""Where fine-tuning begins: the network that is tuned gives the cached features, its head the probe's predictions.

Every packaged backbone, on Fashion-MNIST, features as ``features`` caches them and in float32: the smallest and the
mean cosine of the unfolded network's features to the cached ones, and how many rows its folded head and the probe tell
apart.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from harness import report
from numpy.typing import NDArray

from featurebank.extract import backbones, datasets
from featurebank.extract.backbones.packaged import ENTRIES
from featurebank.extract.datasets.contract import DatasetSpec, Split, Subset
from featurebank.extract.device import Execution, resolve_precision
from featurebank.extract.engine import extract
from featurebank.extract.wanted import Request, want
from featurebank.pipelines.jobs.finetune.images import ImageRows
from featurebank.pipelines.jobs.finetune.network import TunedNetwork, folded_head
from featurebank.probes.linear import fit_linear
from featurebank.store import FeatureSet, FeatureStore


def rows_of(split: Split, name: str, precision: str, root: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The cached features (N, D) in float32, and the labels (N,)."""
    spec = backbones.resolve(name, outputs=["pooled"])
    dtype = "float32" if precision == "float32" else "float16"
    request = [Request(backbone=spec, split=0)]
    (wanted,) = want(request, [split], FeatureStore(root), precision=precision, dtype=dtype)  # type: ignore[arg-type]
    extract([wanted], [split], execution=Execution(device="cpu"))
    with FeatureSet(wanted.outcome.path) as made:
        return made.load("pooled").astype(np.float32), np.array(made.labels)


def compare(name: str, split: Split) -> Iterator[tuple[str, float, float, int]]:
    """For each precision of the cache: the smallest cosine, the mean, and the rows that are predicted otherwise."""
    spec = replace(backbones.resolve(name), outputs=("pooled",))
    images = ImageRows(split, np.arange(len(split)), spec.preprocessing)
    for precision in ("float32", resolve_precision("auto", "cpu")):
        with tempfile.TemporaryDirectory() as temporary:
            cached, labels = rows_of(split, name, precision, Path(temporary))
        half = len(labels) // 2
        fit = fit_linear(cached[:half], labels[:half])
        network = TunedNetwork(backbones.trainable(spec), folded_head(fit, int(labels.max()) + 1))
        with torch.no_grad():
            pooled = torch.cat([network.pooled(images[-1, row][None]) for row in range(len(images))])
            predicted = network.head(pooled[half:]).argmax(1).numpy()
        cosine = torch.nn.functional.cosine_similarity(pooled.double(), torch.from_numpy(cached).double())
        other = int((predicted != fit.classes[fit.logits(cached[half:]).argmax(1)]).sum())
        yield precision, float(cosine.min()), float(cosine.mean()), other


def main() -> None:
    """One table; a JSON line for the smallest cosine and the rows told apart, in float32."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--px", default="", help="of the images, as @96px; the backbones' own without")
    given = parser.parse_args()
    subset = Subset(size=given.rows)
    split = datasets.open_split(DatasetSpec(name="fashion_mnist", split="test", subset=subset))
    least, others = 1.0, 0
    print(f"{'backbone':<22}{'cached in':<12}{'least':>9}{'mean':>9}  rows predicted otherwise of {given.rows // 2}")
    for name in ENTRIES:
        for precision, smallest, mean, other in compare(name + given.px, split):
            print(f"{name + given.px:<22}{precision:<12}{smallest:>9.5f}{mean:>9.5f}  {other}")
            if precision == "float32":
                least, others = min(least, smallest), others + other
    report("finetune_start_cosine", ours=least, reference=0.999, unit="cosine", bound="ratio >= 1")
    report("finetune_start_rows", ours=others, reference=1, unit="rows", bound="ours 0")


if __name__ == "__main__":
    main()
