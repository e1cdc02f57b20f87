"""Sets in and out of distribution: classes on some axes, others elsewhere; row 17 of every set has failed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from feature_sets import fill, make_writer
from numpy.typing import NDArray
from probe_sets import clusters

from featurebank.store import FeatureStore, Output, Records
from featurebank.store.fingerprint import fingerprint

__all__ = ["HEAD", "OTHERS", "outside", "write_backbone", "write_ood_set"]

WIDTH = 8
HEAD = (4 * np.eye(3, WIDTH, dtype=np.float32), np.zeros(3, np.float32))
OTHERS = ("shapes/test", "noise/test")


def outside(n_rows: int, *, near: bool, seed: int) -> NDArray[np.float16]:
    """Rows (N, 8): near ones between two classes, far ones on axes of their own."""
    generator = np.random.default_rng(seed)
    centre = np.eye(WIDTH)[[0, 1]].mean(0) if near else -np.eye(WIDTH)[5]
    values: NDArray[np.float16] = (centre + 0.3 * generator.standard_normal((n_rows, WIDTH))).astype(np.float16)
    return values


def write_ood_set(
    store: FeatureStore,
    place: str,
    backbone: str,
    outputs: NDArray[Any] | Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    *,
    head: tuple[NDArray[Any], NDArray[Any]] | None = None,
    hashes: NDArray[np.uint8] | None = None,
    class_names: Sequence[str] = (),
    **key: Any,
) -> None:
    """Seals a feature set at DATASET/SPLIT; contents are of the place alone unless hashes are given."""
    dataset, split = place.rsplit("/", 1)
    values = {"pooled": outputs} if isinstance(outputs, np.ndarray) else dict(outputs)
    contents = np.random.default_rng(zlib.crc32(place.encode())).integers(0, 256, (len(labels), 16), dtype=np.uint8)
    records = Records(
        ids=[f"{place}/{row:05}" for row in range(len(labels))],
        labels=np.asarray(labels, np.int64),
        content_hash=contents if hashes is None else hashes,
    )
    whole: dict[str, Any] = {"dataset": {"name": dataset, "split": split}, "backbone": {"name": backbone}, **key}
    if class_names:
        whole["dataset"]["class_names"] = list(class_names)
    kinds = [Output(name=name, shape=array.shape[1:], dtype=array.dtype.name) for name, array in values.items()]
    path = store.path_for(dataset, split, backbone, fingerprint(whole))
    with make_writer(path, key=whole, outputs=kinds, records=records, head=head) as writer:
        fill(writer, values)
        writer.seal()


def write_backbone(
    store: FeatureStore,
    backbone: str,
    *,
    noise: float = 0.3,
    classes: Sequence[int] = (0, 1, 2),
    logits: bool = False,
    **more: Any,
) -> None:
    """Train and test sets of pets, near shapes, far noise; logits are twice the features of axes less three others."""
    for place, n_rows, seed in (("pets/train", 120, 0), ("pets/test", 60, 1)):
        values, labels = clusters(n_rows, classes=len(classes), noise=noise, seed=seed)
        write_ood_set(store, place, backbone, _outputs(values, logits=logits), np.array(classes)[labels], **more)
    for index, place in enumerate(OTHERS):
        values = outside(50, near=index == 0, seed=2 + index)
        write_ood_set(store, place, backbone, _outputs(values, logits=logits), np.full(50, -1), **more)


def _outputs(values: NDArray[np.float16], *, logits: bool) -> dict[str, NDArray[Any]]:
    return {"pooled": values} | ({"logits": 2 * values[:, :3] - values[:, 5:]} if logits else {})
