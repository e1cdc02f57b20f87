"""COCO's JSON format, the official files' and one's own: ``coco:/data/birds/instances_train.json``.

Shapes: N images, L categories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._annotations import Annotations, completed, gathered
from featurebank.extract.datasets._listing import Listing, open_listing
from featurebank.extract.datasets._reading import JSON_BYTES, check_inside, parse_json, read_file, reading, shown
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.datasets.masks import RLE, Polygons
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded

KEYS = ("images", "annotations", "categories")
PROBED = 16
NOWHERE = (np.nan,) * 4


class CocoSource:
    """``coco:FILE.json``: the images that a file in COCO's format lists, in one split called ``all``.

    With one ``*`` in its name, as ``coco:/data/instances_*.json``, a split for each file that there is, called what
    stands in place of the star.

    Images are looked for under the spec's ``root``, else beside the file, in ``images`` beside it, and in ``images``
    beside its folder. Records are in the order of their file names, which are the ids. Classes are in the order of
    their category ids, whatever these are. Labels are (N, L) zeros and ones: which classes an image shows. Where images
    say so, as those of LVIS, other classes than they show and ``neg_category_ids`` were not looked for, and of
    ``not_exhaustive_category_ids`` not all objects are annotated: all of the image is a crowd of that class.
    """

    prefix = "coco:"

    def names(self) -> Sequence[str]:
        """None: any file is a dataset."""
        return ()

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:  # noqa: ARG002 (the contract's signature)
        """``all``; or what stands in place of a star."""
        return list(self._files(spec_name))

    def open(self, spec: DatasetSpec) -> Split:
        """The images of the file.

        Raises:
            UnknownNameError: no such split.
            DatasetError: the file cannot be read or is not in COCO's format, or images are missing.
        """
        files_of = self._files(spec.name)
        if spec.split not in files_of:
            raise unknown_name(f"split of {spec.name}", spec.split, files_of)
        path = files_of[spec.split]
        with reading(path, f"a JSON file in COCO's format, an object with {', '.join(KEYS)}", "check the path"):
            value = parse_json(read_file(path, JSON_BYTES))
            files = file_names(value)
            check_inside(path, files)
            folder = _folder(path, spec.root, files)
            listing = coco_listing(value, path, folder)
        return open_listing(spec, listing, folder, advice="give the root that its file names are relative to").subset()

    def _files(self, spec_name: str) -> dict[str, Path]:
        path = expanded(spec_name.removeprefix(self.prefix)).absolute()
        before, star, after = path.name.partition("*")
        if not star:
            return {"all": path}
        files = path.parent.iterdir() if path.parent.is_dir() else ()
        fitting = [one for one in files if one.name.startswith(before) and one.name.endswith(after)]
        names = {one.name[len(before) : len(one.name) - len(after)]: one for one in sorted(fitting)}
        return {name: one for name, one in names.items() if name}


def _folder(path: Path, root: Path | None, files: Sequence[str]) -> Path:
    """Where the images lie: the first place that has one of the first few."""
    if root is not None:
        return expanded(root).absolute()
    places = (path.parent, path.parent / "images", path.parent.parent / "images")
    probed = sorted(files)[:PROBED]
    return next((place for place in places if any((place / name).is_file() for name in probed)), path.parent)


def file_names(value: Mapping[str, Any]) -> list[str]:
    """The names of all images, in the file's order; LVIS, which has addresses, means ``train2017/000000000009.jpg``.

    Raises:
        ValueError: one is no text.
    """
    names = [_file_name(entry) for entry in value["images"]]
    if strangers := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"file_name must be text, found {shown(repr(strangers[0]))}")
    return names


def _file_name(entry: Mapping[str, Any]) -> Any:
    if "file_name" in entry or "coco_url" not in entry:
        return entry["file_name"]
    return "/".join(entry["coco_url"].split("/")[-2:])


def coco_listing(
    value: Mapping[str, Any], where: object, root: Path, *, folder: str = "", strict: bool = False
) -> Listing:
    """The records of a file in COCO's format, with their objects.

    Args:
        value: what the file holds.
        where: names it in errors.
        root: what files are relative to.
        folder: where below the root the images lie, with a ``/`` at the end.
        strict: whether annotations of unknown images or categories are errors, as in official files; else they are
            dropped and counted.

    Raises:
        DatasetError: two images or categories have one id.
        LookupError, TypeError, ValueError: whatever else does not fit.
    """
    images = sorted(value["images"], key=_file_name)
    kinds = sorted(value["categories"], key=lambda entry: entry["id"])
    row, rank = (_numbered(entries, where) for entries in (images, kinds))
    files = [f"{folder}{_file_name(entry)}" for entry in images]
    given = [(entry.get("height") or 0, entry.get("width") or 0) for entry in images]
    sizes = completed(given, root, files)
    passed: Counter[str] = Counter()
    known = []
    for entry in value["annotations"]:
        if strict or (entry["image_id"] in row and entry["category_id"] in rank):
            known.append((row[entry["image_id"]], rank[entry["category_id"]], entry))
        else:
            what = "a category" if entry["image_id"] in row else "an image"
            passed[f"dropped: of {what} that the file does not list"] += 1
    labels = np.zeros((len(images), len(kinds)), np.int64)
    labels[[image for image, _, _ in known], [kind for _, kind, _ in known]] = 1
    crowds = _crowds(images, sizes, rank, masked=any(entry.get("segmentation") for _, _, entry in known))
    return Listing(
        files=files,
        labels=labels if kinds else None,
        class_names=[str(entry["name"]) for entry in kinds],
        columns={"boxes": np.bincount([image for image, _, _ in known], minlength=len(images))},
        annotations=replace(
            _annotations([*known, *crowds], where, files, sizes, passed), judged=_judged(images, labels, rank)
        ),
    )


def _crowds(
    images: Sequence[Mapping[str, Any]], sizes: NDArray[np.int64], rank: Mapping[Any, int], *, masked: bool
) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """An annotation of the whole image for each class of which it may show more than is annotated."""
    for image, entry in enumerate(images):
        height, width = sizes[image].tolist()
        corners = [[0, 0, width, 0, width, height, 0, height]]
        crowd = {"bbox": [0, 0, width, height], "iscrowd": 1, "segmentation": corners if masked else None}
        yield from ((image, rank[kind], crowd) for kind in entry.get("not_exhaustive_category_ids", ()) if kind in rank)


def _judged(
    images: Sequence[Mapping[str, Any]], labels: NDArray[np.int64], rank: Mapping[Any, int]
) -> list[NDArray[np.int64]]:
    """The classes that each image shows or certainly does not; nothing where images do not say so."""
    if not any("neg_category_ids" in entry for entry in images):
        return []
    without = [[rank[kind] for kind in entry.get("neg_category_ids", ()) if kind in rank] for entry in images]
    return [
        np.union1d(np.flatnonzero(shown), none).astype(np.int64) for shown, none in zip(labels, without, strict=True)
    ]


def _numbered(entries: Sequence[Mapping[str, Any]], where: object) -> dict[Any, int]:
    numbers = {entry["id"]: k for k, entry in enumerate(entries)}
    if len(numbers) != len(entries):
        twice = next(id_ for id_, n in Counter(entry["id"] for entry in entries).items() if n > 1)
        raise DatasetError(f"{where}: ids must be distinct, found {shown(str(twice))} more than once; correct the file")
    return numbers


def _annotations(
    known: Sequence[tuple[int, int, Mapping[str, Any]]],
    where: object,
    files: Sequence[str],
    sizes: NDArray[np.int64],
    passed: Counter[str],
) -> Annotations:
    masks: list[Polygons | RLE | None] = [None] * len(known)
    with_masks = any(entry.get("segmentation") for _, _, entry in known)
    if with_masks:
        masks = [_mask(entry.get("segmentation"), tuple(sizes[image].tolist()), passed) for image, _, entry in known]
    kept = [k for k, mask in enumerate(masks) if mask is not None or not with_masks]
    if lost := len(known) - len(kept):
        passed["dropped: without a mask, where others have one"] = lost
    boxes = [_box(known[k][2].get("bbox"), masks[k], sizes[known[k][0]]) for k in kept]
    return gathered(
        where,
        files,
        sizes=sizes,
        rows=[known[k][0] for k in kept],
        boxes=boxes,
        labels=[known[k][1] for k in kept],
        crowd=[bool(known[k][2].get("iscrowd") or known[k][2].get("ignore")) for k in kept],
        masks=[mask for mask in masks if mask is not None],
        passed=passed,
    )


def _box(box: Any, mask: Polygons | RLE | None, size: NDArray[np.int64]) -> tuple[float, ...]:
    """x1, y1, x2, y2 of COCO's x, y, width, height, which are continuous; without them, what the mask takes up."""
    if isinstance(box, list) and len(box) == 4:
        x, y, width, height = (float(value) for value in box)
        return x, y, x + width, y + height
    bounds = None if mask is None else mask.bounds((0, 0, size[1], size[0]))
    return NOWHERE if bounds is None else tuple(bounds.tolist())


def _mask(value: Any, size: tuple[int, ...], passed: Counter[str]) -> Polygons | RLE | None:
    """The mask in either of COCO's forms; nothing, and why, where it is none."""
    if not value:
        return None
    try:
        if isinstance(value, dict):
            return _runs(value, size)
        whole = [polygon for polygon in value if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if fewer := len(value) - len(whole):
            passed["had a polygon of fewer than three points, which was dropped"] += fewer
        return Polygons([np.array(polygon, np.float64).reshape(-1, 2) for polygon in whole]) if whole else None
    except (ValueError, TypeError, LookupError):
        passed["had a mask that cannot be read, or has not the image's size"] += 1
        return None


def _runs(value: Mapping[str, Any], size: tuple[int, ...]) -> RLE:
    height, width = (int(side) for side in value["size"])
    if (height, width) != size:
        raise ValueError(f"runs must be of {size}, found {height} x {width}")
    counts = value["counts"]
    if isinstance(counts, str):
        return RLE.parsed(counts, (height, width))
    return RLE((height, width), np.array(counts, np.int64))
