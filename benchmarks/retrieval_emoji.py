"""The same emoji drawn by another vendor among all others: every packaged backbone, plain and with better rankings.

Google's drawings are the queries, Twitter's the gallery: 1,911 each at 64 pixels, one relevant row a query. Features
are extracted into --store once; then ``featurebank retrieve`` is asked about each recipe. The closing line holds the
best recipe's mAP, averaged over the backbones, against that of the plain search.

The images are fetched with ``npm pack``, 140 MB, unless --folder holds the unpacked packages as emoji-datasource-google
and emoji-datasource-twitter.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from harness import environment, report

VENDORS, VERSION = ("google", "twitter"), "16.0.0"
BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "mobilenetv2", "squeezenet1_1")
KEY = "emoji/google:twitter"


def recipes(components: int) -> dict[str, tuple[str, ...]]:
    whiten = ("--whiten", "emoji/twitter", "--components", str(components))
    return {
        "plain": (),
        "power 0.5": ("--power", "0.5"),
        f"whitened on the gallery, {components}": whiten,
        f"power 0.5, whitened, {components}": ("--power", "0.5", *whiten),
        "gallery + 1": ("--augment", "1"),
        "queries + 1 (alpha 3)": ("--expand", "1:3"),
        "queries + 5 (mean)": ("--expand", "5:0"),
        "k-reciprocal": ("--rerank", "k-reciprocal"),
        "diffusion": ("--rerank", "diffusion"),
    }


def fetch(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm fetches the images; found none; unpack the packages and give --folder")
    for vendor in VENDORS:
        name = f"emoji-datasource-{vendor}"
        subprocess.run([npm, "pack", "--silent", f"{name}@{VERSION}"], cwd=folder, check=True, stdout=sys.stderr)
        with tarfile.open(folder / f"{name}-{VERSION}.tgz") as archive:
            archive.extractall(folder / name, filter="data")


def found(folder: Path, vendor: str) -> Path:
    """The folder that holds a vendor's ``img`` and ``emoji.json``."""
    root = folder / f"emoji-datasource-{vendor}"
    return root / "package" if (root / "package").is_dir() else root


def write_manifest(folder: Path, path: Path, *, most: int) -> int:
    """One row for each emoji that both vendors draw and each vendor; gives the number of emoji."""
    entries = json.loads((found(folder, "google") / "emoji.json").read_text(encoding="utf-8"))
    shared = [entry["image"] for entry in entries if all(entry[f"has_img_{vendor}"] for vendor in VENDORS)][:most]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", "id", "label", "split"))
        for vendor in VENDORS:
            images = (found(folder, vendor) / "img" / vendor / "64").absolute()
            table.writerows((images / name, name, Path(name).stem, vendor) for name in shared)
    return len(shared)


def featurebank(*arguments: str | Path) -> Any:
    command = [sys.executable, "-m", "featurebank", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="of the two unpacked packages; fetched without it")
    parser.add_argument("--store", type=Path, help="where features are kept; a temporary one without it")
    parser.add_argument("--backbone", action="append", help="instead of the packaged ones; repeatable")
    parser.add_argument("--components", type=int, default=256, help="that whitening keeps")
    parser.add_argument("--most", type=int, default=10_000, help="emoji")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        if args.folder is None:
            fetch(here)
        emoji = write_manifest(args.folder or here, here / "emoji.csv", most=args.most)
        store = args.store or here / "store"
        backbones = args.backbone or list(BACKBONES)
        dataset = {"name": f"manifest:{here / 'emoji.csv'}", "label": "emoji", "splits": list(VENDORS)}
        config = {"store": str(store.absolute()), "backbones": backbones, "datasets": [dataset]}
        (here / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
        featurebank("features", here / "run.yaml")
        maps: dict[str, list[float]] = {}
        asked = recipes(args.components)
        width = max(map(len, asked))
        print(f"\n{emoji:,} emoji, mAP and R@1 of each backbone  [{environment()}]")
        print(f"{'recipe':<{width}}" + "".join(f"  {name[-18:]:>18}" for name in backbones))
        for recipe, options in asked.items():
            answers = featurebank("retrieve", KEY, "--store", store, *options)["retrievals"]
            values = {one["backbone"]: {row["metric"]: row["value"] for row in one["rows"]} for one in answers}
            cells = [f"{values[name]['map']:.3f} / {values[name]['hit_rate@1']:.3f}" for name in backbones]
            maps[recipe] = [values[name]["map"] for name in backbones]
            print(f"{recipe:<{width}}" + "".join(f"  {cell:>18}" for cell in cells))
    means = {recipe: sum(own) / len(own) for recipe, own in maps.items()}
    best = max(means, key=lambda recipe: means[recipe])
    plain = means.pop("plain")
    ours = max(means.values())
    report("retrieval_emoji", ours=ours, reference=plain, unit="mAP", bound="ratio >= 1", best=best, means=means)


if __name__ == "__main__":
    main()
