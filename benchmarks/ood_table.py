"""Every out-of-distribution score on real features: easy sets, and held-out classes of Fashion-MNIST, the hard case.

Fashion-MNIST (3,000 train, 1,000 test rows) against each set of --ood, then its classes 0 to 4 against 5 to 9, on the
four packaged backbones; two with random weights stand beside them: a set that they tell apart as well is trivial.
Features are extracted into --store once. The closing lines hold, for each set, the best AUROC over the scores, as the
mean over the trained backbones, against that of the random ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import environment, report

TRAINED = ("efficientnet_lite0", "efficientnet_lite1", "mobilenetv2", "squeezenet1_1")
RANDOM = ("efficientnet_lite0@random", "mobilenetv2@random")
FIRST = ("0", "1", "2", "3", "4")
WHOLE = 1000  # rows of a set, at most

Values = dict[tuple[str, str], dict[str, float]]


def featurebank(*words: str) -> str:
    """What a command prints; what it says of its progress is passed on."""
    command = [sys.executable, "-m", "featurebank", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def extract(store: Path, sets: list[str]) -> None:
    """The feature sets that the store does not have yet."""
    small = {"tuxpaint": ["all"]}
    datasets = [
        {
            "name": "fashion_mnist",
            "splits": [{"split": s, "subset": {"size": n}} for s, n in (("train", 3000), ("test", 1000))],
        },
        *({"name": name, "splits": small.get(name, [{"split": "all", "subset": {"size": WHOLE}}])} for name in sets),
    ]
    config = {"store": str(store), "backbones": [*TRAINED, *RANDOM], "datasets": datasets}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config, file)
        file.flush()
        featurebank("features", file.name)


def aurocs(store: Path, draws: int, *words: str) -> tuple[Values, dict[str, float]]:
    """Backbone and score to AUROC by set; and backbone to accuracy."""
    picked = [word for name in (*TRAINED, *RANDOM) for word in ("--backbone", name)]
    text = featurebank(
        "ood", "fashion_mnist", *words, *picked, "--resamples", str(draws), "--store", str(store), "--json"
    )
    rows: list[dict[str, Any]] = [row for one in json.loads(text)["answers"] for row in one["rows"]]
    values: Values = {}
    for row in rows:
        if row["metric"] == "auroc" and "/" in row["set"]:
            values.setdefault((row["backbone"], row["score"]), {})[row["set"]] = row["value"]
    return values, {row["backbone"]: row["value"] for row in rows if row["metric"] == "accuracy"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="kept between runs; a temporary one if left out")
    parser.add_argument("--ood", nargs="+", default=["mnist_5k", "digits", "tuxpaint"], help="sets beside the held-out")
    parser.add_argument("--draws", type=int, default=0, help="resamples of the intervals that the store keeps")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = arguments.store or Path(temporary)
        extract(store, arguments.ood)
        keys = [word for name in arguments.ood for word in ("--ood", name)]
        values, accuracy = aurocs(store, arguments.draws, *keys)
        held, held_accuracy = aurocs(store, arguments.draws, "--id-classes", ",".join(FIRST))
    for key, found in held.items():
        values.setdefault(key, {}).update(found)
    places = list(next(iter(values.values())))
    print(f"\nAUROC  [{environment()}]")
    print(f"{'backbone':<26} {'score':<12}" + "".join(f" {place:>24}" for place in places))
    for (backbone, score), row in sorted(values.items(), key=lambda item: (item[0][0], -item[1].get(places[-1], 0.0))):
        cells = (f"{row[place]:24.3f}" if place in row else f"{'':>24}" for place in places)
        print(f"{backbone:<26} {score:<12} " + " ".join(cells))
    for name in (*TRAINED, *RANDOM):
        print(f"{name:<26} accuracy of ten classes {accuracy[name]:.3f}, of the first five {held_accuracy[name]:.3f}")
    for place in places:
        best = {
            kind: np.mean(
                [max(row[place] for (one, _), row in values.items() if one == name and place in row) for name in names]
            )
            for kind, names in (("trained", TRAINED), ("random", RANDOM))
        }
        report(
            f"ood_table {place}",
            ours=float(best["trained"]),
            reference=float(best["random"]),
            unit="AUROC",
            bound="about 1 where random weights do as well: a trivial set",
        )


if __name__ == "__main__":
    main()
