"""Sets with boxes. Until detection reads these, the labels say which classes an image shows: (N, L) of 0 and 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place

__all__ = ["cityscapes", "coco", "sim10k", "voc2007"]

CITYSCAPES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
SIM10K = ("car", "motorbike", "person")
VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def coco(place: Place, split: str) -> Listing:
    """``instances_<split>2017.json``. Category ids have gaps (1 to 90 for 80 classes): labels are their ranks.

    Images without any box are records too, with zeros throughout.
    """
    if split == "test":
        images = place.json("annotations/image_info_test2017.json", "images")["images"]
        return Listing(files=sorted(f"test2017/{entry['file_name']}" for entry in images))
    value = place.json(f"annotations/instances_{split}2017.json", "images", "annotations", "categories")
    kinds = sorted(value["categories"], key=lambda entry: entry["id"])
    rank = {entry["id"]: k for k, entry in enumerate(kinds)}
    images = sorted(value["images"], key=lambda entry: entry["file_name"])
    row = {entry["id"]: k for k, entry in enumerate(images)}
    labels = np.zeros((len(images), len(kinds)), np.int64)
    boxes = np.zeros(len(images), np.int64)
    for entry in value["annotations"]:
        labels[row[entry["image_id"]], rank[entry["category_id"]]] = 1
        boxes[row[entry["image_id"]]] += 1
    return Listing(
        files=[f"{split}2017/{entry['file_name']}" for entry in images],
        labels=labels,
        class_names=[entry["name"] for entry in kinds],
        columns={"boxes": boxes},
    )


def sim10k(place: Place, split: str) -> Listing:
    """``VOC2012`` with 10,000 frames of a game: one XML file a frame."""
    names = place.lines(f"VOC2012/ImageSets/Main/{split}10k.txt")
    shown = [
        [str(name.text) for name in place.xml(f"VOC2012/Annotations/{k}.xml").iterfind("object/name")] for k in names
    ]
    return _shown(place, [f"VOC2012/JPEGImages/{name}.jpg" for name in names], shown, SIM10K)


def cityscapes(place: Place, split: str) -> Listing:
    """``leftImg8bit/<split>/<city>`` and the polygons in ``gtFine``, whose test part holds none of the classes.

    A group of objects (``cargroup``) counts as its class.
    """
    files = [file for file in place.images(f"leftImg8bit/{split}") if file.endswith("_leftImg8bit.png")]
    if split == "test":
        return Listing(files=files, seen=True)
    shown = []
    for file in files:
        truth = file.replace("leftImg8bit/", "gtFine/", 1).replace("_leftImg8bit.png", "_gtFine_polygons.json")
        shown.append([entry["label"].removesuffix("group") for entry in place.json(truth, "objects")["objects"]])
    return _shown(place, files, [[name for name in names if name in CITYSCAPES] for names in shown], CITYSCAPES)


def voc2007(place: Place, split: str) -> Listing:
    """``VOCdevkit/VOC2007``: one list a class of images that show it (1), do not (-1), or only hard to see (0).

    The last have the label -1, as VOC's own evaluation passes over them.
    """
    top = "VOCdevkit/VOC2007"
    names = place.lines(f"{top}/ImageSets/Main/{split}.txt")
    meaning = {"1": 1, "-1": 0, "0": -1}
    labels = np.zeros((len(names), len(VOC)), np.int64)
    for k, kind in enumerate(VOC):
        file = f"{top}/ImageSets/Main/{kind}_{split}.txt"
        flags = dict(place.fields(file, 2))
        if not set(names) <= flags.keys() or not set(flags.values()) <= meaning.keys():
            raise place.error(file, f"{len(flags)} lines", f"a flag of 1, 0 or -1 for each of {len(names)} images")
        labels[:, k] = [meaning[flags[name]] for name in names]
    return Listing(files=[f"{top}/JPEGImages/{name}.jpg" for name in names], labels=labels, class_names=VOC)


def _shown(place: Place, files: Sequence[str], shown: Iterable[Sequence[str]], names: Sequence[str]) -> Listing:
    labels: NDArray[np.int64] = np.zeros((len(files), len(names)), np.int64)
    counts = np.zeros(len(files), np.int64)
    for row, kinds in enumerate(shown):
        if strangers := sorted(set(kinds) - set(names)):
            raise place.error(files[row], ", ".join(strangers), f"objects among {', '.join(names)}")
        labels[row, [names.index(kind) for kind in kinds]] = 1
        counts[row] = len(kinds)
    return Listing(files=files, labels=labels, class_names=names, columns={"boxes": counts})
