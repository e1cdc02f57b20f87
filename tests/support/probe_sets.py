"""Feature sets that probes can tell something from: classes around centres, seeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store import FeatureSetWriter, FeatureStore, Output, Records
from featurebank.store.fingerprint import fingerprint

__all__ = ["clusters", "write_pair", "write_set"]

WIDTH = 8


def clusters(
    n_rows: int, *, classes: int = 3, noise: float = 0.6, seed: int = 0, width: int = WIDTH
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Rows (N, width) around one unit vector a class, and their classes (N,), in turn."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n_rows) % classes
    values = np.eye(classes, width)[labels] + noise * generator.standard_normal((n_rows, width))
    return values.astype(np.float16), labels


def write_set(
    store: FeatureStore,
    place: str,
    backbone: str,
    outputs: NDArray[Any] | Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    *,
    columns: Mapping[str, NDArray[Any]] | None = None,
    failed: Sequence[int] = (),
    class_names: Sequence[str] = (),
    head: tuple[NDArray[Any], NDArray[Any]] | None = None,
    **key: Any,
) -> None:
    """Seals a feature set at DATASET/SPLIT; further keywords go into its key."""
    dataset, split = place.rsplit("/", 1)
    values = {"pooled": outputs} if isinstance(outputs, np.ndarray) else dict(outputs)
    n_rows = len(labels)
    records = Records(
        ids=[f"{place}/{row:05}" for row in range(n_rows)],
        labels=np.asarray(labels, np.int64),
        content_hash=np.arange(n_rows * 16, dtype=np.uint64).astype(np.uint8).reshape(n_rows, 16),
        columns=columns or {},
    )
    whole = {"dataset": {"name": dataset, "split": split}, "backbone": {"name": backbone}, **key}
    if class_names:
        whole["dataset"]["class_names"] = list(class_names)
    kinds = [Output(name=name, shape=array.shape[1:], dtype=array.dtype.name) for name, array in values.items()]
    path = store.path_for(dataset, split, backbone, fingerprint(whole))
    with FeatureSetWriter.create(path, key=whole, outputs=kinds, records=records, head=head) as writer:
        for name, array in values.items():
            rows = writer.chunk_rows(name)
            for chunk in range(-(-n_rows // rows)):
                writer.write_chunk(name, chunk, array[chunk * rows : (chunk + 1) * rows])
        writer.mark_ok(0, n_rows)
        for row in failed:
            writer.mark_failed(row, "truncated file")
        writer.seal()


def write_pair(
    store: FeatureStore,
    dataset: str,
    backbone: str,
    *,
    train: int = 60,
    test: int = 45,
    noise: float = 0.6,
    **more: Any,
) -> None:
    """Train and test sets of clusters; further keywords are `write_set`'s."""
    for split, n_rows, seed in (("train", train, 0), ("test", test, 1)):
        values, labels = clusters(n_rows, noise=noise, seed=seed)
        write_set(store, f"{dataset}/{split}", backbone, values, labels, **more)
