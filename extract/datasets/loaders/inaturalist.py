"""iNaturalist's competitions: JSON as COCO writes it until 2019, folders called by class index since 2021."""

from __future__ import annotations

import numpy as np

from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets.loaders.folders import folder_classes

__all__ = ["competition", "species"]


def competition(place: Place, split: str, *, year: int) -> Listing:
    """``train2019.json`` and its like: images, one annotation an image, categories whose ids are the class indices."""
    file = f"{split}{year}.json"
    value = place.json(file, "images", "categories")
    names = {int(entry["id"]): str(entry["name"]) for entry in value["categories"]}
    if set(names) != set(range(len(names))):
        raise place.error(file, f"{min(names)} to {max(names)}", f"category ids 0 to {len(names) - 1}")
    labels = {entry["image_id"]: int(entry["category_id"]) for entry in value.get("annotations", ())}
    images = sorted(value["images"], key=lambda entry: entry["id"])
    return Listing(
        files=[entry["file_name"] for entry in images],
        labels=np.array([labels.get(entry["id"], -1) for entry in images], np.int64),
        class_names=[names[k] for k in range(len(names))],
    )


def species(place: Place, split: str) -> Listing:
    """``<split>/00000_Animalia_…/``: a folder's number is its class. The JSON, gigabytes once parsed, is not needed."""
    if split == "public_test":
        return Listing(files=place.images(split), seen=True)
    names = place.folders(split)
    numbers = {name: name.partition("_")[0] for name in names}
    if strangers := [name for name, number in numbers.items() if not number.isdecimal()]:
        raise place.error(split, ", ".join(strangers[:5]), "folders called 00000_… by class")
    labels = {name: int(number) for name, number in numbers.items()}
    in_order = sorted(labels, key=labels.__getitem__)
    return folder_classes(place, split, in_order, labels, in_order if max(labels.values()) + 1 == len(labels) else ())
