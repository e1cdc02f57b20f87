"""All out-of-distribution scores of 20,000 + 20,000 rows after 50,000 training rows x 1,280, 1,000 classes.

Ours beside pytorch-ood on the same float32 arrays: each score alone, fitting and scoring, the two taking turns in a
process of their own, with the arrays in memory; then the scores that both have in one pass of ours against the sum of
pytorch-ood's; then all of ours, with the peak memory of its process. Both of these read memory-mapped arrays. Loading
libraries is not timed.

pytorch-ood is given batches of --batch rows. Its scoring is timed on --reference-rows rows and scaled up to all (its
fitting is timed in full): all 40,000 take it over half an hour for each of the Mahalanobis distances. GMM is left out,
as it needs 8 K D^2 bytes there, 13 GB. Needs (4 D + 4 K) bytes a row under --dir, removed at the end.

With --intervals, alone: the same scores of 45,000 in-distribution rows and five sets of 49,000 in one pass, and what
all their metrics and intervals take beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import environment, report
from numpy.typing import NDArray

SEED, BLOCK = 0, 10_000
SETS, DRAWS = 5, 1000
SHORT, MANY = 3.0, 9  # seconds, and repeats of what takes less
OTHERWISE_DEFINED = ("temperature", "openmax", "gen", "vra", "mds", "rmds")  # ranks differ; see docs/decisions.md

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Any], Any]


def load(folder: Path) -> Arrays:
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}


def training(arrays: Arrays) -> Any:
    from featurebank.probes.ood.head import Head
    from featurebank.probes.ood.statistics import TrainingSet

    head = Head(np.array(arrays["weight"]), np.array(arrays["bias"]))
    labels = np.array(arrays["labels"])
    return TrainingSet(
        arrays["train"], labels, logits=arrays["train_logits"], head=head, text=np.array(arrays["centres"])
    )


def ours(
    names: Sequence[str] | None, arrays: Arrays, repeats: int, sets: int = 1
) -> tuple[float, dict[str, float], Any]:
    """Seconds, seconds of each score, and the scores of the in-distribution rows and of equal parts of the others."""
    from featurebank.probes.ood.names import scores
    from featurebank.probes.ood.registry import get, score_all

    chosen = [get(name)(repeats=repeats) if name == "weiper+kld" else get(name)() for name in names or scores()]
    rows = {"id": (arrays["id"], arrays["id_logits"])}
    size = len(arrays["ood"]) // sets
    for part in range(sets):
        at = slice(part * size, (part + 1) * size)
        rows["ood" if sets == 1 else f"ood {part}"] = arrays["ood"][at], arrays["ood_logits"][at]
    start = time.perf_counter()
    found = score_all(training(arrays), rows, chosen)
    return time.perf_counter() - start, found.seconds, found.values


class Reference:
    """pytorch-ood's detectors, fitted on and given the same arrays, which lie in memory."""

    def __init__(self, arrays: Arrays) -> None:
        import torch

        self.arrays = arrays
        self.tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        weight, bias = self.tensors["weight"], self.tensors["bias"]
        self.head = torch.nn.Linear(weight.shape[1], len(weight)).requires_grad_(False)
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)

    def fitted(self, name: str) -> tuple[Run, str]:
        """Scores of a batch, and whether of features or logits."""
        from pytorch_ood import detector as d  # type: ignore[import-untyped]

        t, head = self.tensors, self.head
        of_maps = {
            "react": lambda: d.ReAct(None, lambda z: head(z.flatten(1))),
            "vra": lambda: d.VRA(None, lambda z: head(z.flatten(1)), 0.6, 0.95),
            "ash-p": lambda: d.ASH(None, lambda z: head(z.flatten(1)), "ash-p", 0.6),
            "ash-b": lambda: d.ASH(None, lambda z: head(z.flatten(1)), "ash-b", 0.65),
            "ash-s": lambda: d.ASH(None, lambda z: head(z.flatten(1)), "ash-s", 0.9),
            "scale": lambda: d.SCALE(None, lambda z: head(z.flatten(1)), 0.85),
        }
        of_features = {
            "mds": lambda: d.Mahalanobis(None),
            "rmds": lambda: d.RMD(None),
            "gmm": lambda: d.GMM(None),
            "knn": lambda: d.KNN(None, k=50),
            "nnguide": lambda: d.NNGuide(None, head, k=10),
            "vim": lambda: d.ViM(None, self._dim(), head.weight, head.bias),
            "pnml": lambda: d.PNML(None, head),
            "dice": lambda: d.DICE(None, head.weight, head.bias, 0.9),
            "lts": lambda: d.LTS(None, head),
            "she": lambda: d.SHE(None, head),
            "fdbd": lambda: d.fDBD(None, head),
            "nci": lambda: d.NCI(None, head, alpha=1e-4),
            "mcm": lambda: d.MCM(None, t["centres"]),
        }
        of_logits = {
            "msp": lambda: d.MaxSoftmax(None),
            "temperature": lambda: d.TemperatureScaling(None),
            "maxlogit": lambda: d.MaxLogit(None),
            "energy": lambda: d.EnergyBased(None),
            "entropy": lambda: d.Entropy(None),
            "gen": lambda: d.GEN(None, gamma=0.1, M=100),
            "klm": lambda: d.KLMatching(None),
            "openmax": lambda: d.OpenMax(None, tailsize=20, alpha=10),
        }
        if name == "gradnorm":
            import torch

            layer = torch.nn.Linear(head.in_features, head.out_features)
            layer.load_state_dict(head.state_dict())
            return d.GradNorm(layer, lambda key: key == "weight").to("cpu").predict, "features"
        if name in of_maps:
            detector = of_maps[name]()
            if hasattr(detector, "fit_feature_maps"):
                detector.fit_feature_maps(t["train"][:, :, None, None], t["labels"])
            return lambda z: detector.predict_feature_maps(z[:, :, None, None]), "features"
        if name in of_logits:
            detector = of_logits[name]()
            if hasattr(detector, "fit_logits"):
                detector.fit_logits(t["train_logits"], t["labels"])
            return detector.predict_logits, "logits"
        detector = of_features[name]()
        if detector.requires_fit:
            detector.fit_features(t["train"], t["labels"])
        return detector.predict_features, "features"

    def run(self, name: str, batch: int, limit: int) -> tuple[float, NDArray[Any]]:
        """Seconds, scaled up where only ``limit`` rows are scored, and their scores, higher for the training rows."""
        import torch

        start = time.perf_counter()
        score, of = self.fitted(name)
        seconds = time.perf_counter() - start
        keys = ("id", "ood") if of == "features" else ("id_logits", "ood_logits")
        rows = torch.cat([self.tensors[key] for key in keys])
        chosen = rows[:: -(-len(rows) // limit)]
        start = time.perf_counter()
        found = torch.cat([-score(chosen[at : at + batch]).detach() for at in range(0, len(chosen), batch)])
        return seconds + (time.perf_counter() - start) * len(rows) / len(chosen), found.double().numpy()

    def _dim(self) -> int:
        width = self.head.weight.shape[1]
        return 1000 if width >= 2048 else 512 if width >= 768 else width // 2


WITH_REFERENCE = (
    "msp", "temperature", "maxlogit", "energy", "entropy", "gen", "klm", "openmax", "mds", "rmds", "gmm", "knn",
    "nnguide", "vim", "pnml", "react", "vra", "dice", "ash-p", "ash-b", "ash-s", "scale", "lts", "she", "gradnorm",
    "fdbd", "nci", "mcm",
)  # fmt: skip


def one(name: str, folder: Path, repeats: int, batch: int, limit: int) -> dict[str, Any]:
    """The median seconds of ours and pytorch-ood's, and the correlation of the ranks."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    arrays = {key: np.array(array) for key, array in load(folder).items()}
    reference = Reference(arrays)
    warm([name])
    own: list[float] = []
    their: list[float] = []
    correlation = 0.0
    while len(own) < repeats or (sum(own + their) < SHORT and len(own) < MANY):
        seconds, _, values = ours([name], arrays, 1)
        own.append(seconds)
        seconds, theirs = reference.run(name, batch, limit)
        their.append(seconds)
        found = np.concatenate([values["id"][name], values["ood"][name]])
        found = found[:: -(-len(found) // limit)]
        correlation = float(spearmanr(found, theirs).statistic)
    return {"ours": statistics.median(own), "reference": statistics.median(their), "rank_correlation": correlation}


def warm(names: Sequence[str] | None) -> None:
    """Loads the libraries on a few rows, which are no part of the measurement."""
    sizes = {"train": 300, "id": 20, "ood": 20}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, sizes, 8, 3)
        arrays = {key: np.array(array) for key, array in load(folder).items()}
        ours(names, arrays, 1)
        if names and len(names) == 1:
            Reference(arrays).run(names[0], 20, 40)


def together(names: Sequence[str] | None, folder: Path, perturbations: int) -> dict[str, Any]:
    """One pass of ours, in a process without pytorch-ood: seconds and peak memory."""
    warm(names)
    before = _memory("VmRSS")
    arrays = load(folder)
    seconds, each, _ = ours(names, arrays, perturbations)
    size = sum(array.nbytes for array in arrays.values())
    return {"seconds": seconds, "each": each, "before": before, "peak": _memory("VmHWM"), "inputs": size}


def intervals(names: Sequence[str] | None, folder: Path, perturbations: int) -> dict[str, Any]:
    """Seconds of the scores of all sets in one pass, of their metrics, and of their intervals."""
    from featurebank.probes.ood.evaluation import evaluate

    warm(names)
    scored, _, values = ours(names, load(folder), perturbations, SETS)
    inside, took = values.pop("id"), []
    for draws in (0, DRAWS):
        start = time.perf_counter()
        for name, known in inside.items():
            evaluate(known, {key: of[name] for key, of in values.items()}, draws=draws)
        took.append(time.perf_counter() - start)
    return {"scores": scored, "metrics": took[0], "intervals": took[1] - took[0]}


def _memory(key: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(key))


def write(folder: Path, sizes: dict[str, int], dimensions: int, classes: int) -> None:
    """Rectified class centres with noise; the others are mixtures of two centres."""
    generator = np.random.default_rng(SEED)
    centres = generator.standard_normal((classes, dimensions), np.float32)
    weight = np.maximum(centres, 0) * np.float32(8 / dimensions)
    bias = (-0.5 * (weight * np.maximum(centres, 0)).sum(1)).astype(np.float32)
    for name, array in (("centres", centres), ("weight", weight), ("bias", bias)):
        np.save(folder / f"{name}.npy", array)
    for name, rows in sizes.items():
        shape = (rows, dimensions)
        features = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)
        logits = np.lib.format.open_memmap(folder / f"{name}_logits.npy", "w+", np.float32, (rows, classes))
        first, second = np.arange(rows) % classes, generator.integers(0, classes, rows)
        for start in range(0, rows, BLOCK):
            at = slice(start, min(start + BLOCK, rows))
            mean = centres[first[at]] if name != "ood" else (centres[first[at]] + centres[second[at]]) / 2
            noise = generator.standard_normal(mean.shape, np.float32)
            features[at] = np.maximum(mean + noise, 0)
            logits[at] = features[at] @ weight.T + bias
        if name == "train":
            np.save(folder / "labels.npy", first)


def child(args: argparse.Namespace, folder: Path, what: str) -> dict[str, Any]:
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in ("repeats", "batch", "perturbations")]
    options += ["--reference-rows", str(args.reference_rows), *(["--intervals"] if args.intervals else [])]
    command = [sys.executable, __file__, "--one", what, str(folder), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(args: argparse.Namespace, what: str, folder: Path) -> dict[str, Any]:
    """In this process: one score, several in one pass (``suite:`` and their names), or all."""
    if what in WITH_REFERENCE:
        return one(what, folder, args.repeats, args.batch, args.reference_rows)
    names = None if what == "all" else what.removeprefix("suite:").split(",")
    return (intervals if args.intervals else together)(names, folder, args.perturbations)


def report_intervals(args: argparse.Namespace, names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        folder = Path(temporary)
        write(folder, {"train": args.train, "id": args.id, "ood": SETS * args.ood}, args.dimensions, args.classes)
        print(f"{args.train} training rows, {args.id} rows and {SETS} sets of {args.ood}  [{environment()}]")
        took = child(args, folder, "suite:" + ",".join(names))
    print(
        f"{len(names)} scores of {SETS} sets: " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in took.items())
    )
    report(
        "ood_intervals_share", ours=took["intervals"], reference=took["scores"], unit="s", bound="ratio <= 0.2",
        metrics=took["metrics"],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, help="a folder for the arrays; else the system's temporary one")
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--intervals", action="store_true", help="what intervals take beside the scores, and no more")
    parser.add_argument("--id", type=int, help="20,000, with --intervals 45,000")
    parser.add_argument("--ood", type=int, help="20,000, with --intervals 49,000 of each set")
    parser.add_argument("--dimensions", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1, help="at least; nine of what takes less than three seconds")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--reference-rows", type=int, default=500, help="rows that pytorch-ood scores at most")
    parser.add_argument("--skip-reference", nargs="*", default=["gmm"], metavar="SCORE", help="gmm, unless given")
    parser.add_argument("--perturbations", type=int, default=100, help="of WeiPer, whose work is in proportion")
    parser.add_argument("--only", nargs="*", default=WITH_REFERENCE, metavar="SCORE")
    parser.add_argument("--one", nargs=2, metavar=("SCORE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args, args.one[0], Path(args.one[1]))))
        return
    inside, outside = (45_000, 49_000) if args.intervals else (20_000, 20_000)
    args.id, args.ood = args.id or inside, args.ood or outside
    both = [name for name in args.only if name not in args.skip_reference]
    if args.intervals:
        report_intervals(args, both)
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        folder = Path(temporary)
        sizes = {"train": args.train, "id": args.id, "ood": args.ood}
        write(folder, sizes, args.dimensions, args.classes)
        print(f"{sizes} x {args.dimensions}, {args.classes} classes  [{environment()}]")
        scored = min(args.reference_rows, args.id + args.ood)
        print(f"pytorch-ood scores {scored} of {args.id + args.ood} rows; its seconds are scaled up to all")
        print(f"{'score':<12}  {'ours':>10}  {'reference':>10}  {'ratio':>7}  rank correlation")
        rows = {}
        for name in both:
            rows[name] = row = child(args, folder, name)
            note = " (defined otherwise)" if name in OTHERWISE_DEFINED else ""
            ratio = row["ours"] / row["reference"]
            print(
                f"{name:<12}  {row['ours']:>9.3f}s  {row['reference']:>9.3f}s  {ratio:>7.3f}  "
                f"{row['rank_correlation']:.6f}{note}",
                flush=True,
            )
        suite = child(args, folder, "suite:" + ",".join(both))
        everything = child(args, folder, "all")
    theirs = sum(row["reference"] for row in rows.values())
    print(f"\none pass, the {len(both)} scores of both: ours {suite['seconds']:.1f} s, pytorch-ood {theirs:.1f} s")
    print(f"one pass, all {len(everything['each'])} scores of ours: {everything['seconds']:.1f} s; each:")
    print(", ".join(f"{name} {seconds:.2f}" for name, seconds in everything["each"].items()))
    print(
        f"peak {everything['peak'] / 2**20:.0f} MiB, of which {everything['before'] / 2**20:.0f} MiB before the arrays "
        f"are opened; inputs {everything['inputs'] / 2**20:.0f} MiB"
    )
    worst = max(rows, key=lambda name: rows[name]["ours"] / rows[name]["reference"])
    report(
        "ood_single", ours=rows[worst]["ours"], reference=rows[worst]["reference"], unit="s", bound="ratio <= 1.1",
        score=worst,
    )  # fmt: skip
    report(
        "ood_memory", ours=everything["peak"] - everything["before"], reference=everything["inputs"], unit="bytes",
        bound="ratio <= 2: what is resident beside the libraries", peak_bytes=everything["peak"],
    )  # fmt: skip
    report("ood_suite", ours=suite["seconds"], reference=theirs, unit="s", bound="ratio <= 0.333")


if __name__ == "__main__":
    main()
