"""Do two worker processes extract twice as fast as one, on two cores, each on one thread? A real packaged network.

The walk itself is timed, from the outcomes; what the start of the workers costs is told beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import report, table
from photographs import photographs
from stages import median, open_folder

from featurebank.extract import backbones
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.wanted import Outcome, Request, want
from featurebank.pipelines.extracting.scale.cluster import Cluster
from featurebank.pipelines.extracting.scale.start import started
from featurebank.store import FeatureStore

EXECUTION = Execution(device="cpu", compile="never", batch_size=16, workers=1)


def run(split: Split, spec: BackboneSpec, client: Any) -> Outcome:
    """One extraction into a fresh store, on the workers of a client."""
    with tempfile.TemporaryDirectory() as folder, Cluster(client, [split], "cpu", EXECUTION) as cluster:
        requests = [Request(backbone=spec, split=0)]
        wanted = want(requests, [split], FeatureStore(Path(folder)), precision="float32")
        (outcome,) = extract(wanted, [split], execution=EXECUTION, compute=cluster)
    if outcome.state != "sealed":
        raise SystemExit(f"{outcome.backbone} was not sealed: {outcome.error}")
    return outcome


@contextlib.contextmanager
def timed(workers: int, seconds: list[float]) -> Iterator[Any]:
    begun = time.perf_counter()
    with started(workers, "cpu") as client:
        seconds.append(time.perf_counter() - begun)
        yield client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    logging.getLogger("featurebank").setLevel(logging.ERROR)
    spec = backbones.resolve(args.backbone)
    cases = {f"{n} worker{'s' * (n > 1)}": n for n in (1, 2)}
    walks: dict[str, list[float]] = {name: [] for name in cases}
    starts: dict[str, list[float]] = {name: [] for name in cases}
    with photographs(args.images) as folder:
        split = open_folder(folder)
        for _ in range(args.repeats):
            for name, workers in cases.items():
                with timed(workers, starts[name]) as client:
                    walks[name].append(args.images / run(split, spec, client).images_per_second)
    table("start of the workers, the first with the imports", starts)
    notes = {name: f"{args.images / median(values):.1f} images/s" for name, values in walks.items()}
    table(f"{args.images} JPEGs through {args.backbone}, float32, eager, one thread a worker", walks, notes)
    one, two = (median(values) for values in walks.values())
    report("scale", ours=two, reference=one, unit="s", bound="reference / ours >= 1.8", speedup=one / two)


if __name__ == "__main__":
    main()
