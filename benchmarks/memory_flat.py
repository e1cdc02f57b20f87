"""Peak memory does not grow with the number of images: 20,000 against 5,000, each in a process of its own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from harness import report
from PIL import Image

from featurebank.extract import backbones, datasets
from featurebank.extract.datasets.contract import DatasetSpec
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.wanted import Request, want
from featurebank.store import FeatureStore

BACKBONE = "timm:test_efficientnet.r160_in1k@random:0"


def one(folder: Path, n: int) -> None:
    """Extracts ``n`` images and prints this process's peak resident memory in bytes."""
    split = datasets.open_split(DatasetSpec(name=f"folder:{folder}", split=f"n{n}"))
    with tempfile.TemporaryDirectory(dir=folder) as store:
        spec = backbones.resolve(BACKBONE)
        wanted = want([Request(backbone=spec, split=0)], [split], FeatureStore(Path(store)), precision="float32")
        outcome = extract(wanted, [split], execution=Execution(device="cpu", compile="never"))[0]
    assert outcome.state == "sealed", outcome.error  # noqa: S101
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=5000)
    parser.add_argument("--large", type=int, default=20000)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(Path(args.one[0]), int(args.one[1]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        peaks = {}
        for n in (args.small, args.large):
            _images(folder / f"n{n}", n)
            command = [sys.executable, __file__, "--one", str(folder), str(n)]
            peaks[n] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{n:>6} images: peak {peaks[n] / 2**20:.0f} MiB")
    ours, reference = peaks[args.large], peaks[args.small]
    report("memory_flat", ours=ours, reference=reference, unit="bytes", bound="ratio <= 1.05")


def _images(folder: Path, n: int) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (200, 200, 3), dtype=np.uint8))
    first = folder / "000000.jpg"
    image.save(first, quality=80)
    for index in range(1, n):
        os.link(first, folder / f"{index:06}.jpg")


if __name__ == "__main__":
    main()
