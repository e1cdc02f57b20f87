"""Sets with boxes and masks. The labels say which classes an image shows: (N, L) of 0 and 1."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.extract.datasets._annotations import completed, gathered
from featurebank.extract.datasets._coco import KEYS, coco_listing
from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets._reading import shown
from featurebank.extract.datasets.masks import RLE, Polygons

__all__ = ["cityscapes", "coco", "sim10k", "voc", "voc2007"]

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
    file = f"annotations/instances_{split}2017.json"
    value = place.json(file, *KEYS)
    return coco_listing(value, place.root / file, place.root, folder=f"{split}2017/", strict=True)


def sim10k(place: Place, split: str) -> Listing:
    """``VOC2012`` with 10,000 frames of a game: one XML file a frame."""
    names = place.lines(f"VOC2012/ImageSets/Main/{split}10k.txt")
    return _voc(place, "VOC2012", names, SIM10K)


def voc(place: Place, split: str, *, year: str) -> Listing:
    """``VOCdevkit/VOC<year>``: one XML file an image. What is hard to see is a crowd, as in VOC's own evaluation."""
    top = f"VOCdevkit/VOC{year}"
    return _voc(place, top, place.lines(f"{top}/ImageSets/Main/{split}.txt"), VOC)


def cityscapes(place: Place, split: str) -> Listing:
    """``leftImg8bit/<split>/<city>`` and the polygons in ``gtFine``, whose test part holds none of the classes.

    A group of objects (``cargroup``) is a crowd of its class. Masks are whole polygons, also where something nearer
    hides a part of them.
    """
    files = [file for file in place.images(f"leftImg8bit/{split}") if file.endswith("_leftImg8bit.png")]
    if split == "test":
        return Listing(files=files, seen=True)
    passed: Counter[str] = Counter()
    sizes, found = [], []
    for row, file in enumerate(files):
        truth = file.replace("leftImg8bit/", "gtFine/", 1).replace("_leftImg8bit.png", "_gtFine_polygons.json")
        value = place.json(truth, "objects", "imgHeight", "imgWidth")
        sizes.append((value["imgHeight"], value["imgWidth"]))
        for entry in value["objects"]:
            if (name := entry["label"].removesuffix("group")) not in CITYSCAPES:
                continue
            points = np.array(entry["polygon"], np.float64)
            if len(points) < 3:
                passed["dropped: a polygon of fewer than three points"] += 1
                continue
            found.append((row, CITYSCAPES.index(name), name != entry["label"], Polygons([points])))
    boxes = [_around(mask) for *_, mask in found]
    return _listing(place, files, CITYSCAPES, sizes=sizes, found=found, boxes=boxes, passed=passed)


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


def _voc(place: Place, top: str, names: Sequence[str], kinds: Sequence[str]) -> Listing:
    """Images and boxes in Pascal VOC's layout, whose pixels are counted from 1 and whose boxes hold their last one."""
    sizes, found, boxes = [], [], []
    for row, name in enumerate(names):
        file = f"{top}/Annotations/{name}.xml"
        root = place.xml(file)
        sizes.append([_number(root, f"size/{side}") for side in ("height", "width")])
        for entry in root.iterfind("object"):
            if (kind := str(entry.findtext("name")).strip()) not in kinds:
                raise place.error(file, shown(kind), f"objects among {', '.join(kinds)}")
            found.append((row, kinds.index(kind), entry.findtext("difficult") == "1", None))
            x1, y1, x2, y2 = (_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append((x1 - 1, y1 - 1, x2, y2))
    files = [f"{top}/JPEGImages/{name}.jpg" for name in names]
    return _listing(place, files, kinds, sizes=sizes, found=found, boxes=boxes)


def _number(entry: ET.Element, path: str) -> float:
    try:
        return float(entry.findtext(path, "nan"))
    except ValueError:
        return np.nan


def _around(mask: Polygons) -> NDArray[np.float64]:
    points = np.concatenate(mask.points)
    return np.concatenate([points.min(0), points.max(0)])


def _listing(
    place: Place,
    files: Sequence[str],
    kinds: Sequence[str],
    *,
    sizes: ArrayLike,
    found: Sequence[tuple[int, int, bool, RLE | Polygons | None]],
    boxes: Sequence[ArrayLike],
    passed: Counter[str] | None = None,
) -> Listing:
    """The records of images whose objects were found: row, class, crowd or not, mask; and as many boxes."""
    rows = [row for row, *_ in found]
    labels = np.zeros((len(files), len(kinds)), np.int64)
    labels[rows, [kind for _, kind, *_ in found]] = 1
    annotations = gathered(
        place.root,
        files,
        sizes=completed(sizes, place.root, files),
        rows=rows,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=[kind for _, kind, *_ in found],
        crowd=[crowd for _, _, crowd, _ in found],
        masks=[mask for *_, mask in found if mask is not None],
        passed=passed,
    )
    return Listing(
        files=files,
        labels=labels,
        class_names=kinds,
        columns={"boxes": np.bincount(np.array(rows, np.int64), minlength=len(files))},
        annotations=annotations,
    )
