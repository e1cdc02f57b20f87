"""What the tests of ``featurebank retrieve`` share: metrics worked out from sorted lists, and sets of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from answers import probes
from command_line import Done, featurebank_
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.datasets import label_of, open_split
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.store import FeatureSetWriter, FeatureStore, Output, Records
from featurebank.store.fingerprint import content_hash, fingerprint, record

__all__ = [
    "cosine_lists",
    "list_metrics",
    "make_pictures",
    "retrieve",
    "retrieve_json",
    "values_of",
    "write_pictures",
    "write_split",
]


def retrieve(store: FeatureStore, *arguments: Any) -> Done:
    """Runs ``featurebank retrieve`` on a store."""
    return featurebank_("retrieve", *arguments, "--store", store.root)


def retrieve_json(store: FeatureStore, *arguments: Any, code: int = 0) -> Any:
    """The same, for programs, its answers as `probes` has them; the exit code must be the given one."""
    done = retrieve(store, *arguments, "--json")
    assert done.code == code, done.err
    return done.json | {"answers": probes(done.json)}


def values_of(found: Any, index: int = 0) -> dict[str, float]:
    """The metrics of one backbone in what `retrieve_json` gives."""
    return {row["metric"]: row["value"] for row in found["answers"][index]["rows"]}


def cosine_lists(queries: NDArray[Any], gallery: NDArray[Any] | None = None) -> list[NDArray[np.intp]]:
    """Each query's gallery rows by falling cosine in float64; without a gallery the other queries."""
    rows = [array.astype(np.float64) for array in (queries, queries if gallery is None else gallery)]
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in rows]
    lists = np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")
    return [row[row != query] if gallery is None else row for query, row in enumerate(lists)]


def list_metrics(lists: Any, labels: NDArray[Any], others: NDArray[Any], totals: Any = None) -> dict[str, float]:
    """Means over the queries that have something relevant; ``totals`` says of how much, where lists are cut."""
    found: dict[str, list[float]] = {"map": [], "mrr": [], "hit_rate@1": [], "recall@5": [], "r_precision": []}
    for query, rows in enumerate(lists):
        right = others[rows] == labels[query]
        total = int(right.sum() if totals is None else totals[query])
        if total == 0:
            continue
        ranks = np.flatnonzero(right) + 1
        found["map"].append(float((np.arange(1, len(ranks) + 1) / ranks).sum() / total))
        found["mrr"].append(1 / ranks[0] if len(ranks) else 0.0)
        found["hit_rate@1"].append(float(right[0]))
        found["recall@5"].append(right[:5].sum() / total)
        found["r_precision"].append(right[:total].sum() / total)
    return {name: float(np.mean(values)) for name, values in found.items()}


def make_pictures(folder: Path, n: int = 18, *, side: int = 40, seed: int = 0) -> Path:
    """An image folder of three classes, each with more of one colour, as PNG files."""
    generator = np.random.default_rng(seed)
    for index in range(n):
        pixels = generator.integers(0, 60, (side, side, 3)) + generator.integers(0, 100, 3)
        pixels[..., index % 3] += 60
        target = folder / f"class{index % 3}" / f"{index:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(target)
    return folder


def write_split(store: FeatureStore, split: Split, backbone: str, values: NDArray[np.float16]) -> None:
    """Seals features of an opened split, with its ids and content hashes."""
    subset = {} if split.spec.subset is None else {"subset": record(split.spec.subset)}
    place = {"name": label_of(split.spec), "split": split.spec.split}
    dataset = {**place, "class_names": list(split.class_names), **subset}
    key = {"dataset": dataset, "backbone": {"name": backbone}}
    hashes = b"".join(content_hash(split.read(row)) for row in range(len(split)))
    records = Records(
        ids=list(split.ids),
        labels=split.labels,
        content_hash=np.frombuffer(hashes, np.uint8).reshape(-1, 16),
        columns=dict(split.columns),
    )
    path = store.path_for(place["name"], place["split"], backbone, fingerprint(key))
    outputs = [Output(name="pooled", shape=values.shape[1:])]
    with FeatureSetWriter.create(path, key=key, outputs=outputs, records=records) as writer:
        step = writer.chunk_rows("pooled")
        for chunk in range(-(-len(values) // step)):
            writer.write_chunk("pooled", chunk, values[chunk * step : (chunk + 1) * step])
        writer.mark_ok(0, len(values))
        writer.seal()


def write_pictures(store: FeatureStore, folder: Path, split: str = "all", backbone: str = "colours") -> Split:
    """Seals the mean colours of an image folder's split as ``pictures/<split>``."""
    opened = open_split(DatasetSpec(name=f"folder:{folder}", split=split, label="pictures"))
    files = folder if split == "all" else folder / split
    write_split(store, opened, backbone, np.array([_mean_colour(files / name) for name in opened.ids], np.float16))
    return opened


def _mean_colour(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as image:
        return np.asarray(np.asarray(image).mean((0, 1)))
