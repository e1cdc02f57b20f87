"""OpenOOD's sets by image lists, its own or those that pytorch-ood ships; the root is OpenOOD's ``data`` folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from featurebank.extract.datasets._image_list import read_image_list
from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets._reading import parse_json, read_file
from featurebank.extract.errors import DatasetError

__all__ = ["imagenet200", "listed", "open_image"]

IMAGENET = "images_largescale/imagenet_1k/val"
OPEN_IMAGE = "images_largescale/openimage_o/images"


def listed(place: Place, split: str, *, lists: dict[str, str], images: str) -> Listing:
    """``benchmark_imglist/<list>``, whose paths are relative to ``images_largescale`` or ``images_classic``."""
    listing = read_image_list(place.root / "benchmark_imglist" / lists[split])
    return Listing(files=[f"{images}/{file}" for file in listing.files], labels=listing.labels)


def open_image(place: Place, split: str) -> Listing:  # noqa: ARG001 (what all loaders take)
    """OpenImage-O's validation and test images, in the order of pytorch-ood's JSON lists."""
    names = parse_json(read_file(_shipped(f"{split}_openimage_o.json")))
    return Listing(files=[f"{OPEN_IMAGE}/{name}" for name in names])


def imagenet200(place: Place, split: str) -> Listing:  # noqa: ARG001 (what all loaders take)
    """200 of ImageNet-1k's classes, numbered anew, and OpenOOD's part of the validation images for each use."""
    path = _shipped(f"imagenet200_{split}.txt")
    listing = read_image_list(path)
    names = _shipped("imagenet200_classes.txt").read_text("utf-8").split()
    return Listing(files=[f"{IMAGENET}/{file}" for file in listing.files], labels=listing.labels, class_names=names)


def _shipped(name: str) -> Path:
    """A list in pytorch-ood's package, which is not imported."""
    spec = importlib.util.find_spec("pytorch_ood")
    path = Path(spec.origin).parent / "dataset" / "img" / "resources" / name if spec and spec.origin else Path(name)
    if not path.is_file():
        raise DatasetError(f"expected the list {name} in the package pytorch-ood, found none; install pytorch-ood")
    return path
