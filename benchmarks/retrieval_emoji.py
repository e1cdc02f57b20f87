"""The same emoji drawn by another vendor among all others: every packaged backbone, plain and with better rankings.

Google's drawings are the queries, Twitter's the gallery: 1,911 each at 64 pixels, one relevant row a query. Features
are extracted into --store once; then ``featurebank retrieve emoji/google:twitter --recipes`` prints its table, and so
it does of --classes, where a query has many relevant rows. The closing lines hold the best recipe's mAP, averaged over
the backbones, against that of the plain search.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import environment, report

BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "mobilenetv2", "squeezenet1_1")
EMOJI, CLASSES = "emoji/google:twitter", "fashion_mnist/test"


def featurebank(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "featurebank", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def compared(key: str, store: Path) -> dict[str, list[float]]:
    """Prints the table of a KEY; gives the mAP of each backbone by recipe."""
    print(featurebank("retrieve", key, "--store", store, "--recipes"))
    found = json.loads(featurebank("retrieve", key, "--store", store, "--recipes", "--json"))
    values: dict[str, list[float]] = {}
    for one in found["answers"]:
        values.setdefault(one["variant"], []).extend(row["value"] for row in one["rows"] if row["metric"] == "map")
    return values


def configuration(args: argparse.Namespace, store: Path) -> dict[str, Any]:
    part = {} if args.most is None else {"subset": {"size": args.most, "stratified": False}}
    emoji = [{"split": vendor, **part} for vendor in ("google", "twitter")]
    datasets = [{"name": "emoji", "splits": emoji}]
    if args.classes:
        datasets.append({"name": "fashion_mnist", "splits": [{"split": "test", "subset": {"size": args.classes}}]})
    return {"store": str(store.absolute()), "backbones": args.backbone or list(BACKBONES), "datasets": datasets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="where features are kept; a temporary one without it")
    parser.add_argument("--backbone", action="append", help="instead of the packaged ones; repeatable")
    parser.add_argument("--most", type=int, help="emoji; without it all")
    parser.add_argument("--classes", type=int, default=2000, help="Fashion-MNIST images; 0 leaves them out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        store = args.store or here / "store"
        (here / "run.yaml").write_text(json.dumps(configuration(args, store)), encoding="utf-8")
        featurebank("features", here / "run.yaml")
        print(f"[{environment()}]")
        for key in (EMOJI, CLASSES) if args.classes else (EMOJI,):
            means = {recipe: sum(own) / len(own) for recipe, own in compared(key, store).items()}
            plain = means.pop("plain")
            best = max(means, key=lambda recipe: means[recipe])
            name = f"retrieval_{key.partition('/')[0]}"
            bound = "ratio >= 1"
            report(name, ours=means[best], reference=plain, unit="mAP", bound=bound, best=best, means=means)


if __name__ == "__main__":
    main()
