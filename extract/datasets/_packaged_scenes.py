"""Packaged images whose objects are known.

``deepforest``: aerial photographs of forests of three sites, every tree in a box (deepforest, MIT). ``nuclei``: one
microscope image in quarters, every nucleus with its mask (stardist, BSD-3). For composed scenes see `_composed`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.assets import PackageFolder, fetch
from featurebank.extract.datasets._annotations import AnnotatedArray, AnnotatedReader, gathered
from featurebank.extract.datasets._packaged_files import FileSet
from featurebank.extract.datasets._reading import parse_xml, read_file, reason
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.datasets.masks import RLE
from featurebank.extract.errors import AssetError, ImageError

DEEPFOREST: Final = PackageFolder(
    package="deepforest",
    version="2.1.0",
    archive_sha256="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
    pattern="deepforest/data/[2OS]*.[px][nm][gl]",
    sha256="ff6f7fddcaafa0c2117174bcad9bb319888f60f11de87f6aaa2b3d632023c220",
)
STARDIST: Final = PackageFolder(
    package="stardist",
    version="0.9.2",
    archive_sha256="2316c0feb7bd5621e7a277cb3868df475c338943c591925c420ee3622c42f023",
    pattern="stardist/data/images/*2d.tif",
    sha256="9cb6552b6df5fd3e7e006cfdbaec8b0838ff3c5ce1aeab2a9bc95106096730e9",
)
SCENES: Final = {
    "train": "2019_YELL_2_528000_4978000_image_crop2",
    "test": "2019_YELL_2_541000_4977000_image_crop",
    "osbs": "OSBS_029",
    "soap": "SOAP_061",
}
TILE: Final = 400
VISIBLE: Final = 0.4
"""A tree belongs to a tile that shows more than this share of its box."""
TREES: Final = frozenset({"Tree", "Dead", "Alive"})
QUARTERS: Final = {"train": ((0, 0), (0, 256), (256, 0)), "test": ((256, 256),)}
LEAST: Final = 16
"""Pixels of a nucleus that a quarter must show."""


def _deepforest(spec: DatasetSpec) -> Split:
    """Tiles of 400 x 400 pixels in a grid whose last row and column are moved back inside the scene.

    Boxes are cut off at the tile, and left out where the tile shows two fifths of their area or less.
    """
    folder = fetch(DEEPFOREST) if spec.root is None else spec.root
    name = SCENES[spec.split]
    width, height, trees = _trees(folder / f"{name}.xml")
    corners = np.array([(y, x) for y in _starts(height) for x in _starts(width)])
    origins = corners[:, None, ::-1]
    low, high = np.clip(trees[None, :, :2] - origins, 0, TILE), np.clip(trees[None, :, 2:] - origins, 0, TILE)
    whole = (trees[:, 2:] - trees[:, :2]).prod(1)
    rows, kept = np.nonzero((high - low).prod(2) > VISIBLE * whole)
    ids = [f"{name}/{y:04d}_{x:04d}" for y, x in corners.tolist()]
    annotations = gathered(
        f"deepforest {spec.split!r}",
        ids,
        sizes=np.full((len(ids), 2), TILE),
        rows=rows,
        boxes=np.concatenate([low[rows, kept], high[rows, kept]], 1),
        labels=np.zeros(len(rows)),
        crowd=np.zeros(len(rows), bool),
    )

    @functools.cache
    def scene() -> NDArray[np.uint8]:
        return _decoded(folder / f"{name}.png", (height, width))

    def read(row: int) -> NDArray[np.uint8]:
        y, x = corners[row]
        return np.ascontiguousarray(scene()[y : y + TILE, x : x + TILE])

    columns = {"top": corners[:, 0], "left": corners[:, 1], "boxes": annotations.counts}
    labels = annotations.shown(1)
    return AnnotatedReader(
        spec, ids, labels, ["tree"], columns, read=read, reopen=_deepforest, annotations=annotations
    ).subset()


def _starts(length: int) -> list[int]:
    return [min(first, length - TILE) for first in range(0, length, TILE)]


def _trees(path: Path) -> tuple[int, int, NDArray[np.float64]]:
    """Width and height of a scene, and (n, 4) boxes as the file has them, which are continuous from 0."""
    try:
        root = parse_xml(read_file(path))
        found = [[float(entry.findtext(f"bndbox/{side}")) for side in _SIDES] for entry in root.iterfind("object")]
        strangers = {entry.findtext("name") for entry in root.iterfind("object")} - TREES
        width, height = (int(root.findtext(f"size/{side}")) for side in ("width", "height"))
    except (OSError, ValueError, TypeError) as error:
        raise AssetError(
            f"{path}: expected boxes in Pascal VOC's XML, found: {reason(error)}; check the root"
        ) from error
    if strangers or min(width, height) < TILE:
        raise AssetError(
            f"{path}: expected trees in a scene of {TILE} pixels or more a side, found {sorted(map(str, strangers))} "
            f"in {width} x {height}; check the root"
        )
    return width, height, np.array(found, np.float64).reshape(-1, 4)


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _decoded(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    from featurebank.extract.decode import decode
    from featurebank.extract.preprocessing import Decode

    try:
        pixels = np.asarray(decode(read_file(path), Decode()))
    except ImageError as error:
        raise OSError(f"{path}: {error}") from error
    if pixels.shape[:2] != size:
        raise OSError(f"{path}: expected {size[1]} x {size[0]} pixels, found {pixels.shape[1]} x {pixels.shape[0]}")
    return pixels


def _nuclei(spec: DatasetSpec) -> Split:
    """Quarters of 256 x 256 pixels; of a nucleus that lies in several, each has its part, from 16 pixels on."""
    folder = fetch(STARDIST) if spec.root is None else spec.root
    image, labelled = (_deep(folder / name) for name in ("img2d.tif", "mask2d.tif"))
    # The image uses 8 of its 16 bits: levels 0 to 235.
    grey = np.minimum(image, 255).astype(np.uint8)
    corners = QUARTERS[spec.split]
    parts = [labelled[y : y + 256, x : x + 256] for y, x in corners]
    found = [_nuclei_of(part) for part in parts]
    masks = [mask for some in found for mask in some]
    annotations = gathered(
        f"nuclei {spec.split!r}",
        ids := [f"img2d/{y:03d}_{x:03d}" for y, x in corners],
        sizes=[(256, 256)] * len(ids),
        rows=np.repeat(np.arange(len(ids)), [len(some) for some in found]),
        boxes=[box for mask in masks if (box := mask.bounds((0, 0, 256, 256))) is not None],
        labels=np.zeros(len(masks)),
        crowd=np.zeros(len(masks), bool),
        masks=masks,
    )
    return AnnotatedArray(
        spec,
        ids,
        annotations.shown(1),
        ["nucleus"],
        {"boxes": annotations.counts},
        pixels=np.stack([grey[y : y + 256, x : x + 256] for y, x in corners]),
        reopen=_nuclei,
        annotations=annotations,
    ).subset()


def _nuclei_of(labelled: NDArray[Any]) -> Sequence[RLE]:
    numbers, counts = np.unique(labelled, return_counts=True)
    return [RLE.of(labelled == number) for number in numbers[(counts >= LEAST) & (numbers > 0)]]


def _deep(path: Path) -> NDArray[Any]:
    """(512, 512) of 16 bits, as `decode`, which is for what networks see, would not give it."""
    from io import BytesIO

    from PIL import Image

    try:
        with Image.open(BytesIO(read_file(path)), formats=["TIFF"]) as image:
            pixels = np.asarray(image)
    except Exception as error:  # Damaged files make Pillow raise nearly every built-in exception.
        raise AssetError(f"{path}: expected a TIFF file, found: {reason(error)}; check the root") from error
    if pixels.shape != (512, 512) or pixels.dtype != np.uint16:
        raise AssetError(
            f"{path}: expected 512 x 512 of uint16, found {pixels.shape} of {pixels.dtype}; check the root"
        )
    return pixels


SCENE_SETS: Final = {
    "deepforest": FileSet(splits=tuple(SCENES), open=_deepforest),
    "nuclei": FileSet(splits=tuple(QUARTERS), open=_nuclei),
}
