"""Datasets whose lists and labels are MATLAB files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._labels import whole_labels
from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place

__all__ = ["flowers102", "stanford_cars", "stanford_dogs"]

FLOWERS = {"train": "trnid", "val": "valid", "test": "tstid"}
"""By the authors' own names: the test split is the large one, 6,149 images."""


def flowers102(place: Place, split: str) -> Listing:
    """``setid.mat`` lists each split's image numbers, ``imagelabels.mat`` every image's class, both from 1."""
    numbers = np.ravel(place.mat("setid.mat", *FLOWERS.values())[FLOWERS[split]])
    labels = _classes(place, "imagelabels.mat", place.mat("imagelabels.mat", "labels")["labels"])
    if numbers.min() < 1 or numbers.max() > len(labels):
        raise place.error("setid.mat", f"{numbers.min()} to {numbers.max()}", f"image numbers 1 to {len(labels)}")
    return Listing(files=[f"jpg/image_{number:05d}.jpg" for number in numbers], labels=labels[numbers.astype(int) - 1])


def stanford_cars(place: Place, split: str) -> Listing:
    """``devkit/cars_<split>_annos*.mat``: one structure an image, with its file, class from 1, and box."""
    file = place.first(
        *(
            ["devkit/cars_train_annos.mat"]
            if split == "train"
            else ["cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"]
        )
    )
    rows = _list(place.mat(file, "annotations")["annotations"])
    if rows and "class" not in rows[0]:
        raise place.error(file, "none", "classes (cars_test_annos_withlabels.mat has them)")
    corners = np.array([[row[f"bbox_{c}"] for c in ("x1", "y1", "x2", "y2")] for row in rows], np.int64).reshape(-1, 4)
    return Listing(
        files=[f"cars_{split}/{row['fname']}" for row in rows],
        labels=[int(row["class"]) - 1 for row in rows],
        class_names=[str(name) for name in _list(place.mat("devkit/cars_meta.mat", "class_names")["class_names"])],
        columns={name: corners[:, k] for k, name in enumerate(("left", "top", "right", "bottom"))},
    )


def stanford_dogs(place: Place, split: str) -> Listing:
    """``<split>_list.mat``: files below ``Images`` and classes from 1."""
    file = place.first(f"{split}_list.mat", f"lists/{split}_list.mat")
    lists = place.mat(file, "file_list", "labels")
    names = [str(name) for name in _list(lists["file_list"])]
    labels = _classes(place, file, lists["labels"])
    folders = dict(zip(labels.tolist(), [name.partition("/")[0] for name in names], strict=True))
    return Listing(
        files=[f"Images/{name}" for name in names],
        labels=labels,
        class_names=[folders[k].partition("-")[2] for k in sorted(folders)] if _is_range(folders) else (),
    )


def _classes(place: Place, file: str, labels: Any) -> NDArray[np.int64]:
    """Class indices, which MATLAB counts from 1."""
    return whole_labels(np.ravel(labels), place.root / file) - 1


def _is_range(folders: dict[int, str]) -> bool:
    return set(folders) == set(range(len(folders)))


def _list(value: Any) -> list[Any]:
    """MATLAB's array of one element is that element."""
    return list(value) if isinstance(value, list | np.ndarray) and np.ndim(value) else [value]
