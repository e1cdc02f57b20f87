"""What of a dataset lies where it must, split by split, without opening an image or downloading anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featurebank.extract.datasets._dataset import NamedDataset
from featurebank.extract.datasets._listing import Listing, Pixels, absent
from featurebank.extract.datasets._place import MissingFileError, Place
from featurebank.extract.errors import ExtractError


@dataclass(frozen=True, kw_only=True)
class SplitState:
    """One split, as it was found.

    Attributes:
        split: its name.
        official: the official number of records, ``None`` where there is none.
        found: how many records have their image; ``None`` where the lists that would say so are missing or wrong.
        missing: every file, or folder with a ``/`` at the end, that must be there and is not, below the root.
        error: what is wrong with a file that is there.
    """

    split: str
    official: int | None
    found: int | None = None
    missing: tuple[str, ...] = ()
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the split is whole."""
        return not self.missing and not self.error and (self.official is None or self.official == self.found)


def examine(dataset: NamedDataset, root: Path, split: str, options: str = "") -> SplitState:
    """Looks for the official files of a split, and for each image that they list.

    Args:
        dataset: what is looked for.
        root: where.
        split: one of its splits.
        options: what stands behind ``@`` in its name.

    Raises:
        UnknownNameError: no such option.
    """
    chosen, values = dataset.chosen(options)
    place = Place(root, dataset.name, values, download=False)
    official = chosen.splits[split]
    if missing := place.missing(chosen.needed(split)):
        return SplitState(split=split, official=official, missing=tuple(missing))
    try:
        found = chosen.load(place, split)
    except MissingFileError as error:
        return SplitState(split=split, official=official, missing=(error.file,))
    except ExtractError as error:
        return SplitState(split=split, official=official, error=str(error))
    if isinstance(found, Pixels):
        return SplitState(split=split, official=official, found=len(found.pixels))
    if not isinstance(found, Listing):
        return SplitState(split=split, official=official, found=len(found))
    gone = () if found.seen else tuple(absent(root, found.files))
    return SplitState(split=split, official=official, found=len(found.files) - len(gone), missing=gone)
