"""One of several processes that start a run on the same store at the same moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs import open_folder, run

from featurebank.extract import engine
from featurebank.extract.device import Execution
from featurebank.store import FeatureSetWriter

__all__ = ["PATIENCE", "race", "small_chunks"]

PATIENCE = 120.0


def small_chunks(log: Path | None = None, chunk_bytes: int = 1024) -> type[FeatureSetWriter]:
    """A writer whose chunks are a few rows, so that a small test has many; it may log which it is about to write."""

    class Writer(FeatureSetWriter):
        @classmethod
        def create(cls, path: Any, **keywords: Any) -> Any:
            return super().create(path, **{**keywords, "chunk_bytes": chunk_bytes})

        def write_chunk(self, name: str, index: int, values: Any) -> None:
            if log is not None:
                with log.open("a") as file:
                    file.write(f"{self.path.parent.name} {name} {index}\n")
            super().write_chunk(name, index, values)

    return Writer


def race(images: Path, store: Path, log: Path, start: Any, names: Sequence[str]) -> None:
    """Runs as soon as all are ready."""
    vars(engine)["FeatureSetWriter"] = small_chunks(log)
    split = open_folder(images)
    start.wait(PATIENCE)
    run(store, split, names, execution=Execution(device="cpu", compile="never", batch_size=8, workers=1))
