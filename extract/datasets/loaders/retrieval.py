"""Sets of instances to find again. A query that is a part of its image is cut to its box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets.loaders.folders import folder_classes

__all__ = ["copydays", "google_landmarks", "instre", "objectnet", "revisited", "write_revisited_truth"]


def revisited(place: Place, split: str) -> Listing:
    """Revisited Oxford and Paris: ``gnd_<name>.pkl`` names the queries, their boxes and the database.

    ``queries=cropped`` cuts every query to its box, as the benchmark asks; ``whole`` does not.
    """
    truth = _truth(place)
    if split == "database":
        return Listing(files=[f"jpg/{name}.jpg" for name in truth["imlist"]])
    boxes = np.array([entry["bbx"] for entry in truth["gnd"]], np.float64).reshape(-1, 4)
    return Listing(
        files=[f"jpg/{name}.jpg" for name in truth["qimlist"]],
        boxes=_pixels(boxes) if place.options["queries"] == "cropped" else None,
        columns={name: boxes[:, k] for k, name in enumerate(("left", "top", "right", "bottom"))},
    )


def write_revisited_truth(place: Place, path: Path) -> int:
    """Writes, as ``featurebank retrieve --ground-truth`` reads it, each query's easy, hard and junk rows.

    Returns:
        the number of queries.
    """
    truth = _truth(place)
    names = [f"jpg/{name}.jpg" for name in truth["imlist"]]
    levels = {
        f"jpg/{query}.jpg": {level: [names[int(k)] for k in entry[level]] for level in ("easy", "hard", "junk")}
        for query, entry in zip(truth["qimlist"], truth["gnd"], strict=True)
    }
    path.write_text(json.dumps(levels), encoding="utf-8")
    return len(levels)


def _truth(place: Place) -> dict[str, Any]:
    truth = place.pickled(f"gnd_{place.name}.pkl", "imlist", "qimlist", "gnd")
    if len(truth["gnd"]) != len(truth["qimlist"]):
        raise place.error(f"gnd_{place.name}.pkl", len(truth["gnd"]), f"truth of {len(truth['qimlist'])} queries")
    return truth


def _pixels(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole pixels, rounded as Pillow's crop rounds them; a corner outside the image begins at its edge."""
    return np.maximum(np.rint(boxes), 0).astype(np.int64)


def google_landmarks(place: Place, split: str) -> Listing:
    """Google Landmarks v2: ``<part>/a/b/c/abc….jpg`` by the first letters of the id; labels are landmark ids.

    ``queries`` are the test images that the retrieval task scores: not the 116,448 that it ignores.
    """
    if split == "train_clean":
        rows = place.csv("train_clean.csv", "landmark_id", "images")
        pairs = [(name, int(landmark)) for landmark, names in rows for name in names.split()]
    elif split == "train":
        pairs = [(name, int(landmark)) for name, landmark in place.csv("train.csv", "id", "landmark_id")]
    elif split == "index":
        known = {name: int(k) for name, k in place.csv("index_image_to_landmark.csv", "id", "landmark_id")}
        pairs = [(name, known.get(name, -1)) for (name,) in place.csv("index.csv", "id")]
    else:
        solution = place.csv("recognition_solution_v2.1.csv", "id", "landmarks")
        first = {name: int(landmarks.split()[0]) for name, landmarks in solution if landmarks.strip()}
        scored = place.csv("retrieval_solution_v2.1.csv", "id", "Usage")
        pairs = [(name, first.get(name, -1)) for name, usage in scored if split == "test" or usage != "Ignored"]
    part = {"train_clean": "train", "queries": "test"}.get(split, split)
    return Listing(
        files=[f"{part}/{name[0]}/{name[1]}/{name[2]}/{name}.jpg" for name, _ in pairs],
        labels=[label for _, label in pairs],
    )


def copydays(place: Place, split: str) -> Listing:
    """INRIA Copydays: ``200001.jpg`` is a copy of ``200000.jpg``; all numbers of one hundred are one image's."""
    files = place.images(split)
    stems = [file.rpartition("/")[2].partition(".")[0] for file in files]
    if strangers := [stem for stem in stems if not stem.isdecimal()]:
        raise place.error(split, ", ".join(strangers[:5]), "images called by a number")
    return Listing(files=files, labels=[int(stem) // 100 for stem in stems], seen=True)


def instre(place: Place, split: str) -> Listing:
    """INSTRE: 200 single objects in two parts and 50 pairs of objects, a folder each."""
    parts = {"s1": ["INSTRE-S1"], "s2": ["INSTRE-S2"], "m": ["INSTRE-M"]}
    tops = parts.get(split, [name for names in parts.values() for name in names])
    folders = [f"{top}/{name}" for top in tops for name in place.folders(top)]
    return folder_classes(place, "", folders, {name: k for k, name in enumerate(folders)}, folders)


def objectnet(place: Place, split: str) -> Listing:  # noqa: ARG001 (what all loaders take)
    """ObjectNet: a folder a class, named in ``folder_to_objectnet_label.json``; its red border is cut off."""
    top = place.first("objectnet-1.0/", "images/")
    top = "objectnet-1.0/images" if top.startswith("objectnet") else "images"
    mappings = f"{top.removesuffix('images')}mappings/folder_to_objectnet_label.json"
    titles = place.json(mappings)
    folders = place.folders(top)
    if strangers := [name for name in folders if name not in titles]:
        raise place.error(mappings, f"none for {', '.join(strangers[:5])}", "a label for every folder")
    names = [titles[name] for name in folders]
    listing = folder_classes(place, top, folders, {name: k for k, name in enumerate(folders)}, names)
    boxes = np.tile(np.array([2, 2, -2, -2], np.int64), (len(listing.files), 1))
    return Listing(**{**vars(listing), "boxes": boxes})
