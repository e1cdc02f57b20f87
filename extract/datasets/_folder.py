"""Image folders: one sub-folder per class, ``folder:/data/pets``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError, nearest

__all__ = ["EXTENSIONS", "FolderSource", "entries", "images_below"]

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".jp2", ".j2k", ".jpx", ".ico", ".qoi"}
)
"""What counts as an image, in lower case."""

SPLITS = ("train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing")
"""Sub-folders with these names are splits, not classes."""


class FolderSource:
    """``folder:PATH``: the images under a folder, labelled by the sub-folder directly below it.

    A split is the sub-folder of that name; a folder without such sub-folders has the split ``all``. Ids are paths
    relative to the split's folder, in byte order. Classes are all sub-folders in byte order, also empty ones, so that
    splits agree. Images directly in the folder have no label (-1). Hidden files and folders are ignored, links are
    followed.
    """

    prefix = "folder:"

    def names(self) -> Sequence[str]:
        """None: any path is a dataset."""
        return ()

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:
        """The sub-folders that are splits, or ``all``."""
        folder = self._folder(spec_name, root)
        found = {entry.name for entry in entries(str(folder)) if entry.is_dir()}
        return [name for name in SPLITS if name in found] or ["all"]

    def open(self, spec: DatasetSpec) -> Split:
        """The images of one split.

        Raises:
            UnknownNameError: no such split.
            DatasetError: no images, or a folder that cannot be read.
        """
        folder = self._folder(spec.name, spec.root)
        if (folder / spec.split).is_dir() and spec.split not in {"", ".", ".."} and "/" not in spec.split:
            folder /= spec.split
        elif spec.split not in (known := self.splits(spec.name, spec.root)):
            raise nearest(f"split of {spec.name}", spec.split, known)
        files = sorted(images_below(str(folder), ""))
        if not files:
            raise DatasetError(
                f"{folder}: expected images ({', '.join(sorted(EXTENSIONS))}), found none; check the path"
            )
        class_names = sorted((e.name for e in entries(str(folder)) if e.is_dir()), key=os.fsencode)
        index = {name: k for k, name in enumerate(class_names)}
        labels = np.array([index[name.partition("/")[0]] if "/" in name else -1 for name in files], np.int64)
        return FileSplit(spec, files, labels, class_names, folder=folder, files=files).subset()

    def _folder(self, name: str, root: Path | None) -> Path:
        path = Path(name.removeprefix(self.prefix)).expanduser()
        if not name.removeprefix(self.prefix):
            raise DatasetError(f"{name!r}: expected folder:PATH, found no path")
        folder = (path if root is None else root / path).absolute()
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise DatasetError(f"{folder}: expected a folder of images, found {found}; check the path")
        return folder


def entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds, in no order, without what is hidden."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise DatasetError(
            f"{folder}: expected a readable folder, found: {error.strerror}; check its permissions"
        ) from error


def images_below(folder: str, prefix: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Paths of the images below a folder, each after ``prefix``; a link back to a folder above is not followed."""
    status = os.stat(folder)  # noqa: PTH116 (plain strings: a folder may hold a million entries)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries(folder):
        if entry.is_dir():
            yield from images_below(entry.path, f"{prefix}{entry.name}/", (*above, here))
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:  # noqa: PTH122
            yield prefix + entry.name
