"""One table of every backbone of a store: linear, kNN, 10-shot, 1 % and 10 % of the labels, from cached features.

Ours is ``featurebank probe DATASET`` on a store without results, in a process of its own, start included; the reference
is the sixty seconds that the demo store's table may take on two cores. A second run, which finds every result, is
beside it. Without --store, four backbones of the demo's shapes are made up: 3,000 and 1,000 rows of 10 classes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import report, table

from featurebank.store import FeatureSetWriter, FeatureStore, Output, Records
from featurebank.store.fingerprint import fingerprint

BOUND = 60.0
WIDTHS = {"wide_0": 1280, "wide_1": 1280, "wide_2": 1280, "narrow": 512}
CLASSES = 10


def make(store: FeatureStore, rows: dict[str, int]) -> str:
    """Features that are about as hard as the demo's: a linear probe has some nine of ten rows right."""
    generator = np.random.default_rng(0)
    for backbone, width in WIDTHS.items():
        centres = generator.standard_normal((CLASSES, width), np.float32)
        spread = np.float32(0.1 * np.sqrt(width))
        for split, n_rows in rows.items():
            labels = np.arange(n_rows) % CLASSES
            noise = spread * generator.standard_normal((n_rows, width), np.float32)
            values = np.maximum(0.3 * centres[labels] + noise, 0).astype(np.float16)
            key = {"dataset": {"name": "made_up", "split": split}, "backbone": {"name": backbone}}
            records = Records(
                ids=[f"{split}/{row}" for row in range(n_rows)],
                labels=labels,
                content_hash=np.zeros((n_rows, 16), np.uint8),
            )
            path = store.path_for("made_up", split, backbone, fingerprint(key))
            outputs = [Output(name="pooled", shape=(width,))]
            with FeatureSetWriter.create(path, key=key, outputs=outputs, records=records) as writer:
                step = writer.chunk_rows("pooled")
                for chunk in range(-(-n_rows // step)):
                    writer.write_chunk("pooled", chunk, values[chunk * step : (chunk + 1) * step])
                writer.mark_ok(0, n_rows)
                writer.seal().close()
    return "made_up"


def seconds_of(store: Path, dataset: str, *, known: bool) -> float:
    """Seconds of the command; its table goes to stderr."""
    command = [sys.executable, "-m", "featurebank", "probe", dataset, "--store", str(store)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert ("Probes: 0 computed" in done.stdout) is known, done.stdout  # noqa: S101 - else something else was timed
    if not known:
        print(done.stdout, file=sys.stderr)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="a store, which is left as it is; without it, made-up features")
    parser.add_argument("--dataset", default="fashion_mnist", help="of that store")
    parser.add_argument("--rows", type=int, default=3000, help="made-up training rows; a third as many test rows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store, dataset = FeatureStore(Path(temporary) / "store"), args.dataset
        if args.store is None:
            dataset = make(store, {"train": args.rows, "test": args.rows // 3})
        else:
            shutil.copytree(args.store / dataset, store.root / dataset)
        cold = seconds_of(store.root, dataset, known=False)
        known = seconds_of(store.root, dataset, known=True)
    table(f"featurebank probe {dataset}", {"computed": [cold], "known": [known]})
    report("probe_table", ours=cold, reference=BOUND, unit="s", bound="ratio <= 1", known=known)


if __name__ == "__main__":
    main()
