"""Run as a script: forks one extraction per line of its input and kills it after that many seconds.

usage: kill_worker.py IMAGES STORE LOG

Prints, per line, ``killed`` or the exit status. Forking from a process that has imported everything and computed
nothing makes twenty restarts a matter of seconds. LOG gets one line per chunk that is about to be written.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from runs import RESNET, VIT, open_folder, wanted_sets

from featurebank.extract import engine
from featurebank.extract.device import Execution
from featurebank.store import FeatureSetWriter


def logging_writer(log: Path) -> type[FeatureSetWriter]:
    """A writer with small chunks that says which chunk it is about to write."""

    class Writer(FeatureSetWriter):
        @classmethod
        def create(cls, path: Any, **keywords: Any) -> Any:
            return super().create(path, **{**keywords, "chunk_bytes": 4096})

        def write_chunk(self, name: str, index: int, values: Any) -> None:
            with log.open("a") as file:
                file.write(f"{self.path.parent.name} {name} {index}\n")
            super().write_chunk(name, index, values)

    return Writer


def attempt(images: Path, store: Path, log: Path) -> None:
    vars(engine)["FeatureSetWriter"] = logging_writer(log)
    split = open_folder(images)
    sets = wanted_sets(store, split, [VIT], outputs=["pooled", "tokens"])
    sets += wanted_sets(store, split, [RESNET], outputs=["pooled", "stages.3.mean"])
    execution = Execution(device="cpu", compile="never", batch_size=8, workers=2, commit_seconds=0.02)
    engine.extract(sets, [split], execution=execution)


def main() -> None:
    images, store, log = (Path(argument) for argument in sys.argv[1:])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                attempt(images, store, log)
            except BaseException as error:
                sys.stderr.write(f"{error!r}\n")
                os._exit(1)
            os._exit(0)
        deadline = time.monotonic() + float(line)
        status = None
        while status is None and time.monotonic() < deadline:
            pid, code = os.waitpid(child, os.WNOHANG)
            status = code if pid else None
            time.sleep(0.001)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        sys.stdout.write(f"{'killed' if status is None else status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
