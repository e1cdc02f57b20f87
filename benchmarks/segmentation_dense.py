"""Dice of tuned segmenters against that of the dense probe on the same frozen backbone, same images, same canvas.

MobileNetV2 from the packaged weights, on nuclei and on composed emoji scenes. The probe may choose its map and its
learning rate on a held-out fifth of the train images; the segmenters have the options below. All are scored on the
pixels of the canvas, with intervals over test images; of nuclei, which has one, over its 16 blocks.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import environment, report
from numpy.typing import NDArray

from featurebank.extract import backbones, datasets
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.extract.datasets.objects import annotated
from featurebank.pipelines.asking.intervals import mask_scores
from featurebank.pipelines.jobs.detection.scenes import Scenes
from featurebank.pipelines.jobs.maps.levels import fitted, levels_of, maps_of, with_levels
from featurebank.pipelines.jobs.segmentation.network import Head, Segmenter, Shape
from featurebank.pipelines.jobs.segmentation.pictures import Pictures, drawn
from featurebank.pipelines.jobs.segmentation.task import Segmentation, confusions_of
from featurebank.pipelines.training.loop import train
from featurebank.pipelines.training.phase import Phase, Plan
from featurebank.pipelines.training.trial import Numerics, put
from featurebank.probes._holding import held_out
from featurebank.probes.dense import DenseLinearProbe
from featurebank.probes.intervals import weighted_interval
from featurebank.probes.segmentation import confusion_matrix, mean_iou
from featurebank.probes.weighted import Statistic, masks

STRIDES, CHANNELS = (4, 8, 16, 32), 64
RATES = (1e-3, 1e-2, 1e-1)
"""Of the probe."""
RATE = 1e-3
"""Of the segmenters' heads."""
NUMERICS = Numerics(channels_last=True)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A dataset, and how it is used.

    Attributes:
        name: of the dataset.
        side: of the canvas.
        train: images, at most.
        epochs: of a segmenter.
        batch: images of its update.
        probe_epochs: of the probe.
        blocks: of a side of a test image, which intervals are over.
    """

    name: str
    side: int
    train: int
    epochs: int
    batch: int
    probe_epochs: int
    blocks: int = 1


CASES = (
    Case(name="nuclei", side=256, train=3, epochs=40, batch=1, probe_epochs=40, blocks=4),
    Case(name="emoji_scenes", side=128, train=160, epochs=15, batch=4, probe_epochs=15),
)


def main() -> None:
    """One table, and a JSON line for each dataset and head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", nargs="+", default=["fcn", "upernet"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':<14}{'':<9}{'Dice':>6}{'95 %':>14}{'mIoU':>7}{'pixels':>8}{'s':>6}  [{environment()}]")
    for case in CASES:
        spec = fitted(backbones.resolve("mobilenetv2"), case.side)
        spec = with_levels(spec, levels_of(spec, STRIDES))
        parts = {part: pictures(case, spec, part) for part in ("train", "test")}
        truth = {part: own.truth(-1, np.arange(len(own))).numpy() for part, own in parts.items()}
        n_classes = 1 + len(parts["train"].scenes.split.class_names)
        predictions = {"dense": dense(case, spec, parts, truth, n_classes)}
        for head in given.heads:
            predictions[head] = tuned(case, spec, parts, n_classes, head)
        compared(case, predictions, truth["test"], n_classes)


def pictures(case: Case, spec: BackboneSpec, part: str) -> Pictures:
    """Some images of a split."""
    split = annotated(datasets.open_split(DatasetSpec(name=case.name, split=part)))
    rows = np.arange(min(len(split), case.train) if part == "train" else len(split))
    scenes = Scenes(split=split, rows=rows, preprocessing=spec.preprocessing, masks=False, flip=0.5, seed=0, workers=0)
    numbers = np.arange(1, 1 + len(split.class_names), dtype=np.uint8)
    return Pictures(scenes=scenes, labels=lambda row: drawn(scenes.objects[row], numbers))


def dense(
    case: Case, spec: BackboneSpec, parts: dict[str, Pictures], truth: dict[str, NDArray[np.int64]], n_classes: int
) -> tuple[NDArray[np.int64], float]:
    """(M, S, S) classes of the probe, and the seconds of the processor that it took."""
    began = time.process_time()
    levels, network = levels_of(spec, STRIDES), backbones.trainable(spec)
    tokens: dict[str, list[NDArray[np.float32]]] = {}
    with torch.no_grad():
        for part, own in parts.items():
            batches = own.batches(-1, np.array_split(np.arange(len(own)), -(-len(own) // 8)))
            maps = [maps_of(network, levels, images) for images in batches]  # type: ignore[arg-type]
            each = [torch.cat([one.levels[number] for one in maps]) for number in range(len(levels))]
            tokens[part] = [one.flatten(2).transpose(1, 2).contiguous().numpy() for one in each]
    fitting, held = held_out(np.zeros(len(truth["train"]), np.int64), 0.2, np.random.default_rng(0))

    def probe(level: int, rate: float, rows: Any) -> DenseLinearProbe:
        own, side = tokens["train"][level][rows], case.side // levels[level].stride
        made = DenseLinearProbe(n_classes, learning_rate=rate, epochs=case.probe_epochs)
        return made.fit(own, truth["train"][rows], grid=(side, side))

    scores = {}
    for level, rate in itertools.product(range(len(levels)), RATES):
        judged = probe(level, rate, fitting).predict(tokens["train"][level][held])
        matrix = confusion_matrix(truth["train"][held], judged, classes=n_classes, ignore_index=255)
        scores[level, rate] = mean_iou(matrix).mean
    level, rate = max(scores, key=lambda one: scores[one])
    print(f"{case.name}: the probe chose the map of stride {levels[level].stride} and the rate {rate:g}")
    judged = probe(level, rate, slice(None)).predict(tokens["test"][level])
    return judged, time.process_time() - began


def tuned(
    case: Case, spec: BackboneSpec, parts: dict[str, Pictures], n_classes: int, head: Head
) -> tuple[NDArray[np.int64], float]:
    """(M, S, S) classes of a tuned segmenter, and the seconds of the processor that it took."""
    began = time.process_time()
    levels, shape = levels_of(spec, STRIDES), Shape(head=head, channels=CHANNELS, strides=STRIDES)
    network = backbones.trainable(spec)
    model = Segmenter(network, levels, shape=shape, classes=n_classes, side=case.side, seed=0, batch_norm="fixed")
    put(model, NUMERICS)
    task = Segmentation(
        model=model, train=parts["train"], validation=None, classes=n_classes, layer_decay=0.8, numerics=NUMERICS
    )
    phase = Phase(rate=RATE, epochs=case.epochs, warmup_epochs=0.05 * case.epochs)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(phases=(phase,), batch_size=case.batch, clip=10.0)
        train(task, plan, NUMERICS, folder=Path(folder), identity={})
    _, judged = confusions_of(model, parts["test"], n_classes, NUMERICS)
    return judged.astype(np.int64), time.process_time() - began


def compared(
    case: Case, predictions: dict[str, tuple[NDArray[np.int64], float]], truth: NDArray[np.int64], n_classes: int
) -> None:
    """The rows of a dataset."""
    counts = {name: confusions(truth, judged, case.blocks, n_classes) for name, (judged, _) in predictions.items()}
    dices = {}
    for name, own in counts.items():
        miou, dice, accuracy = mask_scores(own, seed=0)
        dices[name], seconds = dice.value, predictions[name][1]
        interval = f"{dice.low:.3f} to {dice.high:.3f}"
        print(
            f"{case.name:<14}{name:<9}{dice.value:>6.3f}{interval:>16}{miou.value:>7.3f}{accuracy.value:>8.3f}"
            f"{seconds:>6.0f}"
        )
    for name in dices.keys() - {"dense"}:
        low, high = weighted_interval(difference(counts[name], counts["dense"]), len(counts[name]))
        report(
            f"segmentation_dense_{case.name}_{name}", ours=dices[name], reference=dices["dense"], unit="Dice",
            bound="ratio > 1", difference=[round(low, 3), round(high, 3)],
        )  # fmt: skip


def difference(ours: NDArray[np.int64], reference: NDArray[np.int64]) -> Statistic:
    """Of the Dice of two networks on the same images."""
    one, other = masks(ours, "dice"), masks(reference, "dice")
    return lambda drawn: one(drawn) - other(drawn)


def confusions(truth: NDArray[np.int64], judged: NDArray[np.int64], blocks: int, n_classes: int) -> NDArray[np.int64]:
    """(M, K, K) of images, or of their blocks."""
    pairs = [
        pair
        for one in zip(truth, judged, strict=True)
        for strips in zip(*(np.array_split(side, blocks) for side in one), strict=True)
        for pair in zip(*(np.array_split(side, blocks, axis=1) for side in strips), strict=True)
    ]
    return np.stack([confusion_matrix(a, b, classes=n_classes, ignore_index=255) for a, b in pairs])


if __name__ == "__main__":
    main()
