"""How long a command takes before it does anything, as whole processes, beside importing typer alone.

`featurebank --help`, `ls` of a small store, and a question whose answer is kept; the cases take turns. A command
imports its own module only, and an answer that is kept imports neither torch nor scikit-learn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from harness import alternate, report, table

from featurebank.store import FeatureStore

LIMITS = {"--help": 0.4, "ls": 0.6, "a kept answer": 1.0}
REFERENCE = "import typer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder) / "features")
        generator = np.random.default_rng(0)
        for backbone in ("one", "other"):
            for split, n_rows in (("train", 90), ("test", 60)):
                labels = np.arange(n_rows) % 3
                rows = np.eye(3, 8)[labels] + 0.5 * generator.standard_normal((n_rows, 8))
                store.add(
                    f"pets/{split}", backbone, rows.astype(np.float16), labels=labels, class_names=["a", "b", "c"]
                )
        place = ("--store", str(store.root))
        commands: dict[str, Sequence[str]] = {
            "--help": ("-m", "featurebank", "--help"),
            "ls": ("-m", "featurebank", "ls", *place),
            "a kept answer": ("-m", "featurebank", "knn", "pets", "--k", "5", *place),
            REFERENCE: ("-c", REFERENCE),
        }
        run(commands["a kept answer"])
        cases = {name: partial(run, words) for name, words in commands.items()}
        times = alternate(cases, repeats=args.repeats)
    table("whole processes", times)
    for name, limit in LIMITS.items():
        ours, reference = (statistics.median(times[case]) for case in (name, REFERENCE))
        report(f"start/{name}", ours=ours, reference=reference, unit="s", bound=f"ours < {limit} s")


def run(words: Sequence[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


if __name__ == "__main__":
    main()
