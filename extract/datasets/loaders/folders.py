"""One folder per class."""

from __future__ import annotations

from collections.abc import Sequence

from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place

__all__ = ["classes", "folder_classes", "unlabelled"]


def classes(place: Place, split: str, *, folder: str, other: str = "", ignore: Sequence[str] = ()) -> Listing:
    """The images below ``folder`` (``{split}`` is the split), labelled by the folder directly below it.

    Args:
        place: the root.
        split: the split.
        folder: the folder of the class folders.
        other: what some releases call it.
        ignore: class folders that are none.
    """
    top = place.first(f"{folder}/", f"{other}/").rstrip("/") if other else folder.replace("{split}", split)
    names = [name for name in place.folders(top) if name not in ignore]
    return folder_classes(place, top, names, {name: k for k, name in enumerate(names)}, names)


def unlabelled(place: Place, split: str, *, folder: str) -> Listing:
    """The images anywhere below ``folder``, without labels, as out-of-distribution images are."""
    return Listing(files=place.images(folder.replace("{split}", split)), seen=True)


def folder_classes(
    place: Place, top: str, folders: Sequence[str], labels: dict[str, int], class_names: Sequence[str]
) -> Listing:
    """The images of some class folders, folder by folder, each folder with its label."""
    files: list[str] = []
    numbers: list[int] = []
    for name in folders:
        found = place.images(f"{top}/{name}" if top else name)
        files += found
        numbers += [labels[name]] * len(found)
    return Listing(files=files, labels=numbers, class_names=class_names, seen=True)
