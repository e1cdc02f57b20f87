"""What features were made from, for the pages that show it: images, opened once more, or texts of the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import SplitRows
from featurebank.pipelines.asking.places import Place, place_of
from featurebank.pipelines.errors import ConfigError
from featurebank.store import FeatureSet
from featurebank.store.fingerprint import content_hash

if TYPE_CHECKING:
    from featurebank.extract.datasets.contract import Split

__all__ = [
    "SIDE",
    "TEXTS",
    "Album",
    "Picture",
    "class_names",
    "open_images",
    "placed",
    "row_names",
    "thumbnail",
    "thumbnails",
]

Picture = Callable[[int], bytes | str]
"""A row by its number: the bytes of a small image, or a text."""

TEXTS = ("text", "prompt", "caption", "sentence", "title")
"""Columns of a set of features of one's own that say what its rows are, the first of which is shown."""

SIDE = 128  # the pages show 96 pixels; screens may have more of them
QUALITY = 85


class Album:
    """Finds the images that feature sets were made from.

    Args:
        images: where they are, ``PLACE`` for all or ``DATASET=PLACE`` for one dataset: ``folder:PATH``,
            ``manifest:FILE`` or ``list:FILE``. Of others see `open_images`.
        opened: datasets that are open already, by DATASET/SPLIT.
        images_of: opens a dataset by DATASET/SPLIT, where a configuration says what it is.

    Raises:
        ConfigError: something that is no place.
    """

    def __init__(
        self,
        images: Sequence[str] = (),
        opened: Mapping[str, Split] | None = None,
        images_of: Callable[[str], Split] | None = None,
    ) -> None:
        self.opened, self._images_of = dict(opened or {}), images_of
        self._places: dict[str, str] = {}
        for text in images:
            dataset, equals, place = text.partition("=")
            if not equals:
                dataset, place = "", text
            if not place.startswith(("folder:", "manifest:", "list:")) or (equals and not dataset):
                raise ConfigError(
                    f"--images must be PLACE or DATASET=PLACE, such as pets=folder:/data/pets; found {text!r}"
                )
            self._places[dataset] = place

    def named(self, dataset: str) -> bool:
        """Whether it was said where the images of a dataset are."""
        return bool({dataset, ""} & self._places.keys())

    def split(self, path: Path, place: str) -> Split:
        """The dataset of a feature set, DATASET/SPLIT, opened again; once."""
        if place not in self.opened:
            dataset = place.rpartition("/")[0]
            given = self._places.get(dataset, self._places.get(""))
            if given is None and self._images_of is not None:
                self.opened[place] = self._images_of(place)
            else:
                self.opened[place] = open_images(path, given, before=f"{dataset}=")
        return self.opened[place]

    def thumbnails(self, path: Path, place: str, *, side: int = SIDE) -> Callable[[int], bytes]:
        """A thumbnail of each row of a feature set by its number; see `thumbnails`."""
        return thumbnails(self.split(path, place), path, side=side)

    def pictures(self, path: Path, place: str) -> Picture:
        """What shows each row of a feature set by its number: a thumbnail, or a text where there are no images.

        The latter are features of one's own of a dataset that was not said to be images: a column of their texts, or
        their ids where they have none.

        Raises:
            ConfigError: images that cannot be opened.
        """
        if place in self.opened or self.named(place.rpartition("/")[0]) or (texts := _texts(path)) is None:
            return self.thumbnails(path, place)
        return lambda row: str(texts[row])


def open_images(path: Path, images: str | None, *, before: str = "") -> Split:
    """The dataset that a feature set was made from, opened again.

    Args:
        path: of the feature set.
        images: where the images are, ``folder:PATH`` or ``manifest:FILE``; None for where this user extracted them
            from, see `featurebank.pipelines.asking.places`, else for the dataset of its own name, where that is one of
            the zoo: a name that a store holds never says what to run, fetch or walk through.
        before: what the option ``--images`` has before such a place.

    Raises:
        ConfigError: it cannot be opened, or has other records.
    """
    from featurebank.extract import datasets
    from featurebank.extract.datasets.contract import DatasetSpec, Subset
    from featurebank.extract.errors import ExtractError
    from featurebank.store.errors import UnknownNameError

    with FeatureSet(path) as feature_set:
        key, ids = feature_set.key["dataset"], feature_set.ids
        noted = None if images else place_of(feature_set)
    name, place = str(key["name"]), f"{key['name']}/{key['split']}"
    advice = f"name where they are with --images {before}folder:PATH or --images {before}manifest:FILE"
    opened = noted or Place(images or name)
    if images is None and noted is None and not datasets.is_data(name):
        raise ConfigError(f"--html needs the images of {place}, which is no dataset known by name; {advice}")
    try:
        subset = Subset(**key["subset"]) if key.get("subset") else None
        spec = DatasetSpec(name=opened.name, root=opened.root, split=str(key["split"]), subset=subset, label=name)
        split = datasets.open_split(spec)
    except (ExtractError, UnknownNameError, ImportError, OSError, TypeError, ValueError) as error:
        raise ConfigError(f"--html needs the images of {place}, which cannot be opened: {error}; {advice}") from error
    if not np.array_equal(np.array(split.ids), ids):
        raise ConfigError(
            f"--html needs the images of {place}, {len(ids):,} with its ids; found {len(split):,} others in "
            f"{spec.name}; {advice}"
        )
    return split


def thumbnail(content: bytes | NDArray[np.uint8], *, side: int = SIDE) -> bytes:
    """A small JPEG file of an image, no side longer than ``side``; or a PNG file of one that is small already.

    Raises:
        ImageError: it cannot be decoded.
    """
    from featurebank.extract.decode import decode
    from featurebank.extract.preprocessing import Decode

    image = decode(content, Decode())
    file = BytesIO()
    if max(image.size) <= SIDE:
        image.save(file, "PNG")
    else:
        image.thumbnail((side, side))
        image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def placed(picture: Picture, rows: SplitRows) -> Picture:
    """What shows each usable row by its position, of what shows the rows of its set by their numbers."""
    return lambda row: picture(int(rows.rows[row]))


def _texts(path: Path) -> NDArray[np.str_] | None:
    """What a set of features of one's own says of its rows; None of a set that was extracted from images."""
    from featurebank.extract.datasets import is_data

    with FeatureSet(path) as feature_set:
        made, columns = feature_set.key.get("backbone"), feature_set.columns
        if not (isinstance(made, dict) and made.get("source") == "added"):
            return None
        column = next((name for name in TEXTS if name in columns and columns[name].dtype.kind in "UT"), None)
        if column is None and is_data(feature_set.dataset):
            return None
        return feature_set.ids if column is None else columns[column]


def thumbnails(split: Split, path: Path, *, side: int = SIDE) -> Callable[[int], bytes]:
    """A thumbnail of each row of a feature set by its number.

    What it returns raises ValueError where the image is not the one that the features were made from.
    """
    with FeatureSet(path) as feature_set:
        hashes, key = feature_set.content_hash, feature_set.key["dataset"]

    def one(row: int) -> bytes:
        content = split.read(row)
        if content_hash(content) != hashes[row].tobytes():
            raise ValueError(
                f"{split.ids[row]} of {key['name']}/{key['split']} must be the image that the features were made from; "
                "found another one; extract again"
            )
        return thumbnail(content, side=side)

    return one


def row_names(rows: SplitRows) -> list[str]:
    """What each row is called: its id, behind the name of its class where it has one."""
    ids: list[str] = rows.ids.tolist()
    return [
        f"{of} · {name}" if of else name for of, name in zip(class_names(rows) or [""] * len(ids), ids, strict=True)
    ]


def class_names(rows: SplitRows) -> list[str]:
    """The name of each row's class, empty where it has none; no names at all where no class has one."""
    if rows.labels.ndim != 1 or not rows.class_names:
        return []
    return [rows.class_names[at] if 0 <= at < len(rows.class_names) else "" for at in rows.labels.tolist()]
