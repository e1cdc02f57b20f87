"""The most wrongly scored images: in-distribution rows with the lowest scores, others with the highest.

Shapes: N rows of a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.ood.roles import HELD_OUT
from featurebank.pipelines.pictures import open_images, thumbnails
from featurebank.pipelines.results import Row
from featurebank.store import Entry

if TYPE_CHECKING:
    from featurebank.extract.datasets.contract import Split

__all__ = ["Album", "Picture", "parse_images", "worst_rows"]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One row with its image.

    Attributes:
        name: the row's id.
        score: how it was scored.
        image: a PNG or JPEG file.
    """

    name: str
    score: float
    image: bytes


class Album:
    """Finds the images of rows that a result kept.

    Args:
        entries: of the store.
        places: dataset to where its images are, ``folder:PATH``, ``manifest:FILE`` or ``list:FILE``; without it, the
            dataset of the name that the feature sets know.
        opened: datasets that are open already, by DATASET/SPLIT.
        count: rows of each set.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        places: Mapping[str, str] | None = None,
        opened: Mapping[str, Split] | None = None,
        count: int = 8,
    ) -> None:
        self._entries = {entry.fingerprint: entry for entry in entries}
        self._places, self._opened, self.count = dict(places or {}), dict(opened or {}), count

    def pictures(
        self, row: Row, kept: Mapping[str, NDArray[Any]], score: str, place: str, *, highest: bool
    ) -> list[Picture]:
        """The rows of one set with the highest or lowest scores, most extreme first.

        Args:
            row: of the result that kept them.
            kept: its arrays.
            score: its name.
            place: the set, DATASET/SPLIT, or held-out classes of it.
            highest: which end.

        Raises:
            ConfigError: the images cannot be opened or are others.
            ValueError, OSError: one of them cannot be read, or is not the one that the features were made from.
        """
        values = kept[f"{place} {score}"]
        whole = place.removesuffix(HELD_OUT)
        found = [self._entries[one] for one in row.fingerprints if one in self._entries]
        path = next(entry.path for entry in found if f"{entry.dataset}/{entry.split}" == whole)
        dataset = whole.rpartition("/")[0]
        split = self._opened.get(whole) or open_images(path, self._places.get(dataset), before=f"{dataset}=")
        image = thumbnails(split, path)
        return [
            Picture(
                name=str(kept[f"{place} ids"][at]), score=float(values[at]), image=image(int(kept[f"{place} rows"][at]))
            )
            for at in worst_rows(values, self.count, highest=highest)
        ]

    def named(self, place: str) -> bool:
        """Whether it was said where the images of a set are."""
        return place.removesuffix(HELD_OUT).rpartition("/")[0] in self._places


def worst_rows(values: NDArray[np.float64], count: int, *, highest: bool) -> list[int]:
    """The rows with the highest or lowest values, most extreme first, of equal ones the first row.

    >>> worst_rows(np.array([1.0, 3.0, 2.0, 3.0]), 3, highest=True)
    [1, 3, 2]
    """
    order: list[int] = np.argsort(-values if highest else values, kind="stable")[:count].tolist()
    return order


def parse_images(texts: Sequence[str]) -> dict[str, str]:
    """Dataset to place, from DATASET=PLACE each.

    >>> parse_images(["pets=folder:/data/pets"])
    {'pets': 'folder:/data/pets'}

    Raises:
        ConfigError: something else.
    """
    parts = [text.partition("=") for text in texts]
    for text, (dataset, _, place) in zip(texts, parts, strict=True):
        if not dataset or not place:
            raise ConfigError(f"--images must be DATASET=PLACE, such as pets=folder:/data/pets; found {text!r}")
    return {dataset: place for dataset, _, place in parts}
