"""Datasets whose splits are text files: one image a line."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._image_list import read_image_list
from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place

__all__ = [
    "aircraft",
    "cub200",
    "dtd",
    "food101",
    "in_shop",
    "nabirds",
    "pets",
    "stanford_online_products",
    "sun397",
    "visda2017",
]


def food101(place: Place, split: str) -> Listing:
    """``meta/{train,test}.txt``: ``class/number``, in the order of ``meta/classes.txt``."""
    top = "food-101"
    names = place.lines(f"{top}/meta/classes.txt")
    lines = place.lines(f"{top}/meta/{split}.txt")
    return Listing(
        files=[f"{top}/images/{line}.jpg" for line in lines],
        labels=_indices(place, [line.partition("/")[0] for line in lines], names, f"{top}/meta/{split}.txt"),
        class_names=names,
    )


def dtd(place: Place, split: str) -> Listing:
    """``labels/{train,val,test}N.txt``, ten partitions of three equal parts; ``all`` is every image once."""
    top, partition = "dtd", place.options["partition"]
    files = [
        f"{top}/labels/{part}{partition}.txt" for part in (("train", "val", "test") if split == "all" else (split,))
    ]
    lines = [line for file in files for line in place.lines(file)]
    if split == "all":
        lines.sort()
    names = place.folders(f"{top}/images")
    return Listing(
        files=[f"{top}/images/{line}" for line in lines],
        labels=_indices(place, [line.partition("/")[0] for line in lines], names, files[0]),
        class_names=names,
    )


def aircraft(place: Place, split: str) -> Listing:
    """``images_<level>_<split>.txt``: an image's number and its class; ``level`` is variant, family or manufacturer.

    ``test`` is the test list, 3,333 images, and not what the training list leaves over.
    """
    top, level = "fgvc-aircraft-2013b/data", place.options["level"]
    plural = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}[level]
    names = place.lines(f"{top}/{plural}.txt")
    file = f"{top}/images_{level}_{split}.txt"
    rows = [line.partition(" ") for line in place.lines(file)]
    return Listing(
        files=[f"{top}/images/{number}.jpg" for number, _, _ in rows],
        labels=_indices(place, [name for _, _, name in rows], names, file),
        class_names=names,
    )


def pets(place: Place, split: str) -> Listing:
    """``annotations/{trainval,test}.txt``: image, class from 1, species, breed."""
    file = f"annotations/{split}.txt"
    rows = [row for row in place.fields(file, 4) if not row[0].startswith("#")]
    labels = np.array([int(row[1]) - 1 for row in rows])
    names = {label: row[0].rpartition("_")[0] for label, row in zip(labels.tolist(), rows, strict=True)}
    return Listing(
        files=[f"images/{row[0]}.jpg" for row in rows],
        labels=labels,
        class_names=[names[k] for k in range(len(names))] if set(names) == set(range(len(names))) else (),
        columns={"species": np.array(["cat" if row[2] == "1" else "dog" for row in rows])},
    )


def sun397(place: Place, split: str) -> Listing:
    """``ClassName.txt`` and, of ten partitions, ``Training_NN.txt`` and ``Testing_NN.txt``; ``all`` lists folders."""
    names = place.lines("SUN397/ClassName.txt")
    if split == "all":
        lines = [file.removeprefix("SUN397") for file in place.images("SUN397")]
    else:
        part = "Training" if split == "train" else "Testing"
        lines = place.lines(f"Partitions/{part}_{int(place.options['partition']):02d}.txt")
    classes = [line.rpartition("/")[0] for line in lines]
    return Listing(
        files=[f"SUN397{line}" for line in lines],
        labels=_indices(place, classes, names, "SUN397/ClassName.txt"),
        class_names=[name[3:] for name in names],
        seen=split == "all",
    )


def cub200(place: Place, split: str) -> Listing:
    """Images, classes, official split and boxes, each a text file keyed by the image's number.

    ``classes_1_100`` and ``classes_101_200`` are the two halves of metric learning.
    """
    top = "CUB_200_2011"
    names = [name for _, name in place.fields(f"{top}/classes.txt", 2)]
    images = dict(place.fields(f"{top}/images.txt", 2))
    labels = {image: int(k) - 1 for image, k in place.fields(f"{top}/image_class_labels.txt", 2)}
    trained = {image for image, flag in place.fields(f"{top}/train_test_split.txt", 2) if flag == "1"}
    boxes = {row[0]: [float(value) for value in row[1:]] for row in place.fields(f"{top}/bounding_boxes.txt", 5)}
    if split in {"train", "test"}:
        chosen = [image for image in images if (image in trained) == (split == "train")]
    else:
        low, high = {"all": (0, 200), "classes_1_100": (0, 100), "classes_101_200": (100, 200)}[split]
        chosen = [image for image in images if low <= labels[image] < high]
    corners = np.array([boxes[image] for image in chosen], np.float64).reshape(-1, 4)
    return Listing(
        files=[f"{top}/images/{images[image]}" for image in chosen],
        labels=[labels[image] for image in chosen],
        class_names=names,
        columns={name: corners[:, k] for k, name in enumerate(("x", "y", "width", "height"))},
    )


def nabirds(place: Place, split: str) -> Listing:
    """NABirds: files keyed by the image's id; class numbers have gaps and are renumbered in their own order."""
    images = dict(place.fields("nabirds/images.txt", 2))
    classes = dict(place.fields("nabirds/image_class_labels.txt", 2))
    names = dict(line.partition(" ")[::2] for line in place.lines("nabirds/classes.txt"))
    used = sorted(set(classes.values()), key=int)
    index = {name: k for k, name in enumerate(used)}
    wanted = "1" if split == "train" else "0"
    chosen = [image for image, flag in place.fields("nabirds/train_test_split.txt", 2) if flag == wanted]
    return Listing(
        files=[f"nabirds/images/{images[image]}" for image in chosen],
        labels=[index[classes[image]] for image in chosen],
        class_names=[names[name] for name in used],
    )


def stanford_online_products(place: Place, split: str) -> Listing:
    """``Ebay_<split>.txt``: image, class, super-class, path; its first line is a header."""
    top = "Stanford_Online_Products"
    rows = place.fields(f"{top}/Ebay_{split}.txt", 4, skip=1)
    return Listing(
        files=[f"{top}/{path}" for _, _, _, path in rows],
        labels=[int(name) - 1 for _, name, _, _ in rows],
        columns={"super_class": np.array([int(number) for _, _, number, _ in rows])},
    )


def in_shop(place: Place, split: str) -> Listing:
    """``Eval/list_eval_partition.txt``: image, item, and whether it is for training, a query or in the gallery."""
    rows = place.fields("Eval/list_eval_partition.txt", 3, skip=2)
    chosen = [row for row in rows if row[2] == split]
    return Listing(files=[f"Img/{path}" for path, _, _ in chosen], labels=[int(item[3:]) for _, item, _ in chosen])


def visda2017(place: Place, split: str) -> Listing:
    """``<split>/image_list.txt`` as OpenOOD writes lists; the 12 class folders of ``train`` are the names."""
    listing = read_image_list(place.root / split / "image_list.txt")
    names = place.folders("train") if (place.root / "train").is_dir() else ()
    return Listing(files=[f"{split}/{file}" for file in listing.files], labels=listing.labels, class_names=names)


def _indices(place: Place, values: list[str], names: list[str], file: str) -> NDArray[np.int64]:
    index = {name: k for k, name in enumerate(names)}
    if strangers := sorted(set(values) - index.keys()):
        raise place.error(file, ", ".join(strangers[:5]), f"only the {len(names)} classes")
    return np.array([index[value] for value in values], np.int64)
