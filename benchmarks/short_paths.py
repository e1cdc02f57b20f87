"""What is short but often done, or once and large: each beside the plain way, which it was before.

- Opening by key, one of 4,000 sets, 400 backbones a split, beside listing the split first, and by path.
- Ten consecutive rows of 1,280,000 beside a slice of `np.memmap`.
- An epoch of a DataLoader over `to_torch`, 200,000 x 64, with its own collating, beside torch's, beside one whose
  dataset has no ``__getitems__``, and beside `batches`.
- Dividing 40,000 ids of 400 classes beside a pass over all rows for each class.
- Intervals of mean IoU, 2,000 images x 150 classes and 1,000 draws, beside a copy of the matrices for each draw
  (--copies of them, scaled up).
- A dense probe on four fifths of the rows, by their numbers, beside a copy of their tokens: memory.
- The weights that resize an image of 4000 x 3000 pixels to 341 x 256, in fixed point, beside the filter at every pixel.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import alternate, report, table
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from featurebank.extract.datasets._division import division
from featurebank.extract.resampling import bands, fixed_point
from featurebank.pipelines.asking.intervals import resampled
from featurebank.probes.dense import DenseLinearProbe
from featurebank.probes.segmentation import mean_iou
from featurebank.probes.weighted import masks
from featurebank.store import FeatureSet, FeatureStore

DATASETS, BACKBONES = 10, 400
MANY, ROWS = 1_280_000, 200_000
DRAWS = 1000


def repeated(case: Callable[[], object], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            case()

    return run


def compare(name: str, cases: dict[str, Callable[[], object]], bound: str, *, times: int = 1, repeats: int = 7) -> None:
    """Ours is the first case, the reference the second."""
    seconds = alternate({called: repeated(case, times) for called, case in cases.items()}, repeats=repeats)
    seconds = {called: [value / times for value in values] for called, values in seconds.items()}
    table(name, seconds)
    ours, reference = (statistics.median(values) for values in list(seconds.values())[:2])
    report(name, ours=ours, reference=reference, unit="s", bound=bound)


def opening(store: FeatureStore) -> None:
    for dataset in range(DATASETS):
        for backbone in range(BACKBONES):
            store.add(f"d{dataset}/train", f"timm/b{backbone}", np.ones((4, 8)), key={"v": backbone})
    place = ("d3/train", "timm/b7")
    path = store.open(*place).path
    cases: dict[str, Callable[[], object]] = {
        "by key": lambda: store.open(*place).close(),
        "listing the split": lambda: [entry for entry in store.ls(place[0]) if entry.backbone == place[1]],
        "by path": lambda: FeatureSet(path).close(),
    }
    compare("short_paths_open", cases, "by key under 1 ms", times=10)


def slicing(store: FeatureStore, folder: Path) -> None:
    values = np.arange(MANY * 4, dtype=np.float32).reshape(MANY, 4)
    opened = store.add("many/all", "arange", values, dtype="float32")
    np.save(folder / "many.npy", values)
    mapped = np.load(folder / "many.npy", mmap_mode="r")
    cases: dict[str, Callable[[], object]] = {
        "load": lambda: opened.load("pooled", slice(600_000, 600_010)),
        "np.memmap": lambda: np.array(mapped[600_000:600_010]),
    }
    compare("short_paths_slice", cases, "microseconds, whatever N is", times=1000)


class OneByOne(Dataset[Any]):
    """A dataset of rows that gives one at a time."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def loading(store: FeatureStore) -> None:
    values = np.random.default_rng(0).standard_normal((ROWS, 64))
    opened = store.add("rows/all", "normal", values, labels=np.arange(ROWS) % 10)
    rows = opened.to_torch()
    dataset: Any = rows

    def epoch(loader: Any) -> Callable[[], object]:
        return lambda: [None for _ in loader]

    cases: dict[str, Callable[[], object]] = {
        "DataLoader": epoch(DataLoader(dataset, batch_size=1024, collate_fn=rows.collate)),
        "torch collates": epoch(DataLoader(dataset, batch_size=1024)),
        "one by one": epoch(DataLoader(OneByOne(rows), batch_size=1024)),
        "batches": lambda: [None for _ in opened.batches(1024)],
    }
    compare("short_paths_loader", cases, "told", repeats=3)


def by_class(part: str, ids: list[str], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The division by a pass over all rows for each class."""
    names, chosen = np.asarray(ids), np.zeros(len(ids), np.bool_)
    for label in np.unique(labels):
        members = np.unique(names[labels == label]).tolist()
        ranked = sorted(members, key=lambda name: hashlib.sha256(name.encode()).digest())
        chosen |= (labels == label) & np.isin(names, ranked[: len(ranked) // 5])
    return np.flatnonzero(chosen if part == "test20" else ~chosen)


def dividing() -> None:
    ids = [f"images/{row:06}.jpg" for row in range(40_000)]
    labels = np.random.default_rng(0).integers(0, 400, len(ids))
    np.testing.assert_array_equal(division("test20", ids, labels), by_class("test20", ids, labels))
    cases: dict[str, Callable[[], object]] = {
        "one sort": lambda: division("test20", ids, labels),
        "by class": lambda: by_class("test20", ids, labels),
    }
    compare("short_paths_division", cases, "told", repeats=3)


def resampling(copies: int) -> None:
    generator = np.random.default_rng(0)
    matrices = generator.integers(0, 20, (2000, 150, 150))
    matrices[:, np.arange(150), np.arange(150)] += 500

    def copied() -> list[float]:
        rows = generator.integers(0, len(matrices), (copies, len(matrices)))
        return [mean_iou(matrices[draw].sum(0)).mean for draw in rows]

    cases: dict[str, Callable[[], object]] = {
        "one product": lambda: resampled("miou", 0.5, masks(matrices, "miou"), rows=len(matrices), seed=0, draws=DRAWS),
        f"{copies} copies": copied,
    }
    seconds = alternate(cases, repeats=3)
    table("short_paths_dense", seconds)
    ours, some = (statistics.median(values) for values in seconds.values())
    report("short_paths_dense", ours=ours, reference=some * DRAWS / copies, unit="s", bound="2 s", copies=copies)


def at_every_pixel(length: int, size: int) -> NDArray[np.float64]:
    """Bicubic weights (size, length), most of them zeros."""
    scale = length / size
    centre = (np.arange(size)[:, None] + 0.5) * scale
    reach, pixels = 2 * scale, np.arange(length, dtype=np.float64)[None, :]
    inside = (pixels >= np.floor(np.maximum(centre - reach + 0.5, 0))) & (
        pixels < np.floor(np.minimum(centre + reach + 0.5, length))
    )
    x = np.abs((pixels - centre + 0.5) / scale)
    cubic = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0.0))
    weights: NDArray[np.float64] = np.where(inside, cubic, 0.0)
    weights /= weights.sum(1, keepdims=True)
    return weights


def resizing() -> None:
    sides = ((4000, 341), (3000, 256))
    for length, size in sides:
        made = bands(length, size, "bicubic").dense(0, length)
        np.testing.assert_allclose(made, at_every_pixel(length, size), rtol=0, atol=1e-12)
    cases: dict[str, Callable[[], object]] = {
        "in bands": lambda: [fixed_point(bands(length, size, "bicubic").weights) for length, size in sides],
        "at every pixel": lambda: [fixed_point(at_every_pixel(length, size)) for length, size in sides],
    }
    compare("short_paths_resize", cases, "told", times=10)


def choosing() -> None:
    """Bytes, not seconds: what a fit on four fifths of 100 MB of tokens takes beside them."""
    generator = np.random.default_rng(0)
    tokens = generator.standard_normal((4000, 196, 64), dtype=np.float32).astype(np.float16)
    masks = generator.integers(0, 3, (4000, 14, 14)).astype(np.uint8)
    rows = np.sort(generator.permutation(4000)[:3200])
    probe = DenseLinearProbe(epochs=1)

    def taken(fit: Callable[[], DenseLinearProbe]) -> tuple[int, float]:
        tracemalloc.start()
        loss = fit().loss_[0]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, loss

    probe.fit(tokens[:32], masks[:32], grid=(14, 14))  # what it imports is not measured
    ours, loss = taken(lambda: probe.fit(tokens, masks, grid=(14, 14), rows=rows))
    copied, same = taken(lambda: probe.fit(tokens[rows], masks[rows], grid=(14, 14)))
    assert math.isclose(loss, same, rel_tol=1e-5)  # noqa: S101 - a benchmark compares like with like
    report("short_paths_tokens", ours=ours, reference=copied, unit="bytes", bound="told", tokens=tokens.nbytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder) / "store")
        opening(store)
        slicing(store, Path(folder))
        loading(store)
    dividing()
    resizing()
    choosing()
    resampling(given.copies)


if __name__ == "__main__":
    main()
