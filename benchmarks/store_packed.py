"""A packed copy of a feature set against a gzip'd h5py file of the same features: size, and 1,024 random rows.

- The packed copy is smaller than the set, verifies, and reads the same numbers.
- Its random rows are read at least 10 times as fast as those of h5py's gzip file with the chunks that h5py chooses.

With --set a sealed set of real features is measured; without, made-up ones: half zeros, as after a ReLU.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
from harness import alternate, report, table
from store_read import DIMENSIONS, ROWS_AT_ONCE, write

from featurebank.store import FeatureSet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure; else the system's temporary one")
    parser.add_argument("--set", type=Path, help="a sealed feature set")
    parser.add_argument("--output", default="pooled")
    parser.add_argument("--rows", type=int, default=200_000, help="of the made-up features")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        source, packed, gzipped = (Path(folder) / name for name in ("a.h5", "packed.h5", "gzip.h5"))
        if args.set is None:
            made = np.random.default_rng(0).standard_normal((args.rows, DIMENSIONS), np.float32)
            write(source, np.maximum(made, 0).astype(np.float16))
        source = args.set or source
        with FeatureSet(source, verify="first_touch") as original, original.pack(packed) as copy:
            values = original[args.output]
            np.testing.assert_array_equal(copy[args.output], values)
            copy.verify()
            with h5py.File(gzipped, "w") as file:
                file.create_dataset("values", data=values, compression="gzip")
            at_once = min(ROWS_AT_ONCE, len(values))
            generator = np.random.default_rng(1)
            draws = itertools.cycle([np.sort(generator.choice(len(values), at_once, replace=False)) for _ in range(20)])
            with h5py.File(gzipped, "r") as file:
                stored = file["values"]
                seconds = alternate(
                    {
                        "packed": lambda: copy.load(args.output, next(draws)),
                        "h5py gzip": lambda: stored[next(draws)],
                    },
                    repeats=args.repeats,
                )
            sizes = {"packed": f"{copy.nbytes:,} bytes", "h5py gzip": f"{gzipped.stat().st_size:,} bytes"}
            table(f"{at_once} random rows of {values.shape} {values.dtype}", seconds, sizes)
            ours, reference = (statistics.median(seconds[name]) for name in ("packed", "h5py gzip"))
            report("packed_random_rows", ours=ours, reference=reference, unit="s", bound="ratio <= 0.1")
            report("packed_size", ours=copy.nbytes, reference=original.nbytes, unit="bytes", bound="ratio < 1")


if __name__ == "__main__":
    main()
