"""Four backbones at once decode each image once: at most 1.05 x (one decode + the sum of the forwards).

Beside it, the same four in separate runs, which decode everything four times.
"""

from __future__ import annotations

import argparse

from harness import report, table
from photographs import photographs
from stages import decode_only, forward_only, full_run, median, open_folder, runner_of, setting

from featurebank.extract import backbones

NAMES = ("efficientnet_lite0", "efficientnet_lite1", "mobilenetv2", "squeezenet1_1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="do not pack")
    args = parser.parse_args()
    use, specs = setting(), [backbones.resolve(name) for name in NAMES]
    packed = not args.eager and use.device == "cpu"
    seconds: dict[str, list[float]] = {"one decode": [], "sum of forwards": [], "four at once": [], "four runs": []}
    with photographs(args.images) as folder:
        split = open_folder(folder)
        runners = [runner_of(spec, use, packed=packed) for spec in specs]
        for _ in range(args.repeats):
            seconds["one decode"].append(decode_only(split, specs, use))
            forwards = [forward_only(r, s, args.images, use) for r, s in zip(runners, specs, strict=True)]
            seconds["sum of forwards"].append(sum(forwards))
            outcome = full_run(split, specs, use, packed=packed)[0]
            seconds["four at once"].append(args.images / outcome.images_per_second)
            apart = [full_run(split, [spec], use, packed=packed)[0] for spec in specs]
            seconds["four runs"].append(sum(args.images / o.images_per_second for o in apart))
    table(f"{args.images} JPEGs through {', '.join(NAMES)}, {use.device}, {use.precision}", seconds)
    one, forwards_sum, many, runs = (median(values) for values in seconds.values())
    print(f"four separate runs take {runs / many:.2f} x the time of four at once")
    report("extract_many", ours=many, reference=one + forwards_sum, unit="s", bound="ratio <= 1.05", separate=runs)


if __name__ == "__main__":
    main()
