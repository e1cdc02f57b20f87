"""Does a whole extraction take no longer than its stages must? 2,000 JPEGs, one backbone.

On a CPU decoding and forward passes share the cores: (decode-only + forward-only) / wall should reach 0.95.
On a GPU they run beside each other: max(decode-only, forward-only) / wall should reach 0.95.
"""

from __future__ import annotations

import argparse

from harness import report, table
from photographs import photographs
from stages import decode_only, forward_only, full_run, median, open_folder, runner_of, setting

from featurebank.extract import backbones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="do not pack")
    args = parser.parse_args()
    use, spec = setting(), backbones.resolve(args.backbone)
    packed = not args.eager and use.device == "cpu"
    seconds: dict[str, list[float]] = {"decode only": [], "forward only": [], "whole run": []}
    with photographs(args.images) as folder:
        split = open_folder(folder)
        runner = runner_of(spec, use, packed=packed)
        forward_only(runner, spec, 4 * use.batch_size, use)
        for _ in range(args.repeats):
            seconds["decode only"].append(decode_only(split, [spec], use))
            seconds["forward only"].append(forward_only(runner, spec, args.images, use))
            outcome = full_run(split, [spec], use, packed=packed)[0]
            seconds["whole run"].append(args.images / outcome.images_per_second)
    table(f"{args.images} JPEGs through {args.backbone}, {use.device}, {use.precision}, packed: {packed}", seconds)
    decode, forward, whole = (median(seconds[name]) for name in ("decode only", "forward only", "whole run"))
    must = max(decode, forward) if use.device.startswith("cuda") else decode + forward
    print(f"{args.images / whole:.0f} images/s")
    report(
        "extract_overlap", ours=whole, reference=must, unit="s", bound="reference / ours >= 0.95", share=must / whole
    )


if __name__ == "__main__":
    main()
