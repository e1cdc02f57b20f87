"""JPEGs from bytes to pixels on the GPU, by Pillow on all cores and by nvJPEG, images a second.

Both sides run the engine's own preparation, and end when the pixels are on the device. Without a GPU there is nothing
to measure, which is said.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch
from harness import alternate, report, skip, table
from photographs import photographs
from stages import median, open_folder

from featurebank.extract import backbones
from featurebank.extract.batches import Batch, Preparer, Reader, batches
from featurebank.extract.compute import numerics
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import cpu_cores
from featurebank.extract.gpu_jpeg import check_decoder
from featurebank.extract.preprocessing import Library, Preprocessing
from featurebank.extract.progress import Clock

BACKBONE = "efficientnet_lite0"
BATCH = 256


def prepare_all(split: Split, preprocessing: Preprocessing, library: Library, device: str) -> None:
    """Every image of the split up to its pixels on the device, batches in as many threads as there are cores."""
    record = replace(preprocessing, decode=replace(preprocessing.decode, library=library))
    clock, pinned = Clock(), device.startswith("cuda")
    read = Reader(split, clock, strict=True)
    prepare = Preparer(split, [record], clock, strict=True, pinned=pinned, device=device)

    def one(batch: Batch) -> None:
        read(batch)
        prepare.allocate(batch)
        prepare(batch, batch.start, batch.stop)
        for pixels in batch.pixels.values():
            pixels.to(device)

    with ThreadPoolExecutor(cpu_cores()) as pool:
        list(pool.map(one, batches([(0, len(split))], [((0, len(split)),)], BATCH)))
    if pinned:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda", help="cpu runs the same code with libjpeg-turbo, to try the script")
    args = parser.parse_args()
    if args.device.startswith("cuda"):
        if not torch.cuda.is_available():
            skip("gpu_jpeg", "no CUDA device for nvJPEG to run on")
            return
        check_decoder("nvjpeg", args.device)
    preprocessing = backbones.resolve(BACKBONE).preprocessing
    with photographs(args.images) as folder, numerics():
        split = open_folder(folder)
        cases = {
            "pillow": partial(prepare_all, split, preprocessing, "pillow", args.device),
            "nvjpeg": partial(prepare_all, split, preprocessing, "nvjpeg", args.device),
        }
        seconds = alternate(cases, repeats=args.repeats)
    rates = {name: args.images / median(values) for name, values in seconds.items()}
    table(
        f"{args.images} JPEGs for {BACKBONE} on {args.device}, {cpu_cores()} threads",
        seconds,
        {name: f"{rate:.0f} images/s" for name, rate in rates.items()},
    )
    report("gpu_jpeg", ours=rates["nvjpeg"], reference=rates["pillow"], unit="images/s", bound="ratio >= 1 on a GPU")


if __name__ == "__main__":
    main()
