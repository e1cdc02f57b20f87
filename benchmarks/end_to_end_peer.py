"""From a folder of JPEGs to the accuracy of a linear probe: whole processes, ours and what people write.

The same images, the same weights. Each side is a process of its own, from its start to its last line; they take turns.

- ours: `featurebank features run.yaml`, with the question in it, into an empty store.
- plain: a script of timm, `ImageFolder`, a `DataLoader` with two workers, float32, and scikit-learn's
  `LogisticRegression`, its C chosen among the same eleven on the same share of held-out rows.

Then the second question on the same images, the nearest neighbours: `featurebank knn` on the store against the plain
script once more, and against one that kept its features in a file. Random weights are for seconds alone: no accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import report, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Features = tuple[NDArray[np.float32], NDArray[np.int64]]

CS = [10 ** (power / 2) for power in range(-10, 1)]
SPLITS = {"train": 4, "test": 1}
"""Of five images, how many are in each split."""


OURS, SECOND, PLAIN_SECOND = "ours", "ours, second question", "plain, second question"
HEADS = ("classifier.", "fc.")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A backbone, as featurebank and as timm call it, and what ours must reach."""

    backbone: str
    timm: str
    real: bool
    bounds: dict[int, float]


CASES = {
    "lite0": Case(backbone="efficientnet_lite0", timm="tf_efficientnet_lite0", real=True, bounds={2000: 4, 10_000: 6}),
    "resnet50": Case(backbone="timm:resnet50@random:0", timm="resnet50", real=False, bounds={2000: 4, 10_000: 4}),
}


# -- what people write -------------------------------------------------------------------------------------------------


def plain_features(folder: Path, weights: Path, case: Case) -> dict[str, Features]:
    """Features (N, D) float32 and labels of each split: timm, ImageFolder and a loader with two workers."""
    import numpy as np
    import timm
    import torch
    from timm.data import create_transform, resolve_data_config  # type: ignore[attr-defined]
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]

    model = timm.create_model(case.timm, pretrained=False, num_classes=0)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    transform = create_transform(**resolve_data_config(model.pretrained_cfg, model=model))  # type: ignore[no-untyped-call]
    made = {}
    for split in SPLITS:
        images = ImageFolder(str(folder / split), transform=transform)
        features, labels = [], []
        with torch.no_grad():
            for batch, target in DataLoader(images, batch_size=64, num_workers=2):
                features.append(model(batch).numpy())
                labels.append(target.numpy())
        made[split] = (np.concatenate(features), np.concatenate(labels))
    return made


def fitted(made: dict[str, Features]) -> float:
    """Accuracy of scikit-learn's logistic regression, its C chosen on a fifth of the training rows."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    X, y = made["train"]
    part, held, part_y, held_y = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)

    def probe(C: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))

    best = max(CS, key=lambda C: probe(C).fit(part, part_y).score(held, held_y))
    return float(probe(best).fit(X, y).score(*made["test"]))


def nearest(made: dict[str, Features]) -> float:
    """Accuracy of scikit-learn's nearest neighbours by cosine, k chosen on a fifth of the training rows."""
    from sklearn.model_selection import train_test_split
    from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]

    X, y = made["train"]
    part, held, part_y, held_y = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)

    def probe(k: int) -> Any:
        return KNeighborsClassifier(n_neighbors=k, metric="cosine")

    best = max((5, 10, 20, 50, 100), key=lambda k: probe(k).fit(part, part_y).score(held, held_y))
    return float(probe(best).fit(X, y).score(*made["test"]))


def plain(folder: Path, weights: Path, case: Case, kept: Path) -> float:
    made = plain_features(folder, weights, case)
    save(kept, made)
    return fitted(made)


def plain_second(folder: Path, weights: Path, case: Case, kept: Path) -> float:
    del kept
    return nearest(plain_features(folder, weights, case))


def plain_kept(folder: Path, weights: Path, case: Case, kept: Path) -> float:
    del folder, weights, case
    return nearest(load(kept))


def save(kept: Path, made: dict[str, Features]) -> None:
    import numpy as np

    arrays: Any = {f"{split}_{i}": value for split, pair in made.items() for i, value in enumerate(pair)}
    np.savez(kept, **arrays)


def load(kept: Path) -> dict[str, Features]:
    import numpy as np

    with np.load(kept) as arrays:
        return {split: (arrays[f"{split}_0"], arrays[f"{split}_1"]) for split in SPLITS}


SCRIPTS: dict[str, Callable[[Path, Path, Case, Path], float]] = {
    "plain": plain,
    "plain, second question": plain_second,
    "plain, features kept": plain_kept,
}


# -- the sides, as processes -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where everything of one case lies."""

    root: Path
    images: Path
    case: str

    @property
    def weights(self) -> Path:
        """What the scripts load."""
        return self.root / "weights.pth"

    @property
    def kept(self) -> Path:
        """What the plain script keeps of its features."""
        return self.root / "features.npz"

    @property
    def store(self) -> Path:
        """What ours fills."""
        return self.root / "store"

    def script(self, side: str) -> float:
        """What a script answers, run as a process of its own."""
        words = [
            __file__,
            "--side",
            side,
            "--backbone",
            self.case,
            "--root",
            str(self.root),
            "--images",
            str(self.images),
        ]
        return float(run(words).splitlines()[-1])

    def ours(self) -> float:
        """Ours, into an empty store."""
        shutil.rmtree(self.store, ignore_errors=True)
        config = self.root / "run.yaml"
        text = {
            "store": str(self.store),
            "backbones": [CASES[self.case].backbone],
            "datasets": [{"name": f"folder:{self.images}", "label": "places", "splits": [*SPLITS]}],
            "questions": [{"question": "linear", "of": "places"}],
        }
        config.write_text(json.dumps(text), "utf-8")
        return self.accuracy(run(["-m", "featurebank", "features", str(config), "--json"]))

    def second(self) -> float:
        """Ours, another question on the same store."""
        shutil.rmtree(self.store / "results" / "knn", ignore_errors=True)
        return self.accuracy(run(["-m", "featurebank", "knn", "places", "--store", str(self.store), "--json"]))

    @staticmethod
    def accuracy(printed: str) -> float:
        """The accuracy of the one answer in a command's JSON."""
        rows = [row for one in json.loads(printed)["answers"] for row in one["rows"]]
        return next(float(row["value"]) for row in rows if row["metric"] == "accuracy")


def run(words: Sequence[str]) -> str:
    """What a Python process prints; it has all cores, whatever is set around the benchmark."""
    own = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run([sys.executable, *words], env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-3000:]}")
    return done.stdout


def write_weights(place: Place) -> None:
    """What the scripts load: the backbone's own weights, under timm's names."""
    import torch

    from featurebank.extract import backbones
    from featurebank.extract.backbones.network import FrozenNetwork

    network = backbones.trainable(backbones.resolve(CASES[place.case].backbone, outputs=["pooled"]))
    assert isinstance(network, FrozenNetwork)  # noqa: S101 - narrows the type
    kept = {name: value for name, value in network.backbone.state_dict().items() if not name.startswith(HEADS)}
    torch.save(kept, place.weights)


def measure(place: Place, rows: int, repeats: int) -> None:
    """All sides in turns; one table, and a JSON line for each claim."""
    case = CASES[place.case]
    sides: dict[str, Callable[[], float]] = {
        OURS: place.ours,
        "plain": lambda: place.script("plain"),
        SECOND: place.second,
        **{name: lambda name=name: place.script(name) for name in (PLAIN_SECOND, "plain, features kept")},  # type: ignore[misc]
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    accuracies: dict[str, float] = {}
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            accuracies[name] = side()
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.2f} s, accuracy {accuracies[name]:.4f}", file=sys.stderr, flush=True)
    notes = {name: f"accuracy {value:.4f}" for name, value in accuracies.items()} if case.real else {}
    table(f"{place.case}, {rows} JPEGs", seconds, notes)
    bound = f"ratio <= {1 / case.bounds.get(rows, 4):.3g}"
    pairs = ((OURS, "plain", bound), (SECOND, PLAIN_SECOND, "ratio <= 0.02"))
    for ours, reference, limit in pairs:
        report(
            f"end_to_end_peer/{place.case}/{rows}/{ours}",
            ours=statistics.median(seconds[ours]),
            reference=statistics.median(seconds[reference]),
            unit="s",
            bound=limit,
            **({"accuracy": [accuracies[ours], accuracies[reference]]} if case.real else {}),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--backbone", choices=sorted(CASES), default="lite0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=sorted(SCRIPTS), help="run one script, as the benchmark itself does")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=Path)
    args = parser.parse_args()
    if args.side:
        place = Place(root=args.root, images=args.images, case=args.backbone)
        print(SCRIPTS[args.side](place.images, place.weights, CASES[args.backbone], place.kept))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Place(root=Path(folder), images=Path(folder) / "places", case=args.backbone)
        from photographs import places

        places(place.images, {split: args.rows * share // sum(SPLITS.values()) for split, share in SPLITS.items()})
        write_weights(place)
        measure(place, args.rows, args.repeats)


if __name__ == "__main__":
    main()
