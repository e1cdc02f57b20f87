"""Image folders: one sub-folder per class, ``folder:/data/pets``."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from featurebank.extract.datasets._reading import passed_over
from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".jp2", ".j2k", ".jpx", ".ico", ".qoi"}
)
"""What counts as an image, in lower case."""

SPLITS = ("train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing")
"""Sub-folders with these names are splits, not classes."""


SEEN = "(folder seen before)"


class FolderSource:
    """``folder:PATH``: the images under a folder, labelled by the sub-folder directly below it.

    A split is the sub-folder of that name; a folder without such sub-folders has the split ``all``. Ids are paths
    relative to the split's folder, in byte order. Classes are all sub-folders in byte order, also empty ones, so that
    splits agree. Images directly in the folder have no label (-1). Hidden files and folders are ignored, links are
    followed, and every folder is entered once. A note counts what is passed over because it is no image by its name.
    """

    prefix = "folder:"

    def names(self) -> Sequence[str]:
        """None: any path is a dataset."""
        return ()

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:
        """The sub-folders that are splits, or ``all``."""
        folder = self._folder(spec_name, root)
        found = {entry.name for entry in entries(str(folder)) if is_folder(entry)}
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
            raise unknown_name(f"split of {spec.name}", spec.split, known)
        passed: Counter[str] = Counter()
        files = sorted(images_below(str(folder), "", passed))
        notes = walk_notes(passed)
        if not files:
            raise DatasetError(
                f"{folder}: expected images ({', '.join(sorted(EXTENSIONS))}), found {notes[0] if notes else 'none'}; "
                "check the path"
            )
        class_names = sorted((e.name for e in entries(str(folder)) if is_folder(e)), key=os.fsencode)
        index = {name: k for k, name in enumerate(class_names)}
        labels = np.array([index[name.partition("/")[0]] if "/" in name else -1 for name in files], np.int64)
        return FileSplit(spec, files, labels, class_names, notes=notes, folder=folder, files=files).subset()

    def _folder(self, name: str, root: Path | None) -> Path:
        path = expanded(name.removeprefix(self.prefix))
        if not name.removeprefix(self.prefix):
            raise DatasetError(f"{name!r}: expected folder:PATH, found no path")
        folder = (path if root is None else expanded(root) / path).absolute()
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


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one; a link in a circle leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def walk_notes(passed: Mapping[str, int]) -> list[str]:
    """What `images_below` counted, in words."""
    again = passed.get(SEEN, 0)
    links = [f"{again:,} link{'' if again == 1 else 's'} to folders that were entered already"] if again else []
    return passed_over({suffix: n for suffix, n in passed.items() if suffix != SEEN}) + links


def images_below(folder: str, prefix: str, passed: Counter[str]) -> Iterator[str]:
    """Paths of the images below a folder, each after ``prefix``, in no order.

    Every folder is entered once, however many links lead to it: folders before links, and links in byte order, so that
    a link never takes a folder's images away.

    Args:
        folder: where.
        prefix: what paths begin with.
        passed: counts, by suffix, what is no image; and ``(folder seen before)``.
    """
    seen: set[tuple[int, int]] = set()
    waiting, links = [(folder, prefix)], deque[tuple[str, str]]()
    while waiting or links:
        here, before = waiting.pop() if waiting else links.popleft()
        status = os.stat(here)  # noqa: PTH116 (plain strings: a folder may hold a million entries)
        if (place := (status.st_dev, status.st_ino)) in seen:
            passed[SEEN] += 1
            continue
        seen.add(place)
        below: list[tuple[str, str]] = []
        for entry in entries(here):
            if is_folder(entry):
                (below if entry.is_symlink() else waiting).append((entry.path, f"{before}{entry.name}/"))
            elif (suffix := os.path.splitext(entry.name)[1].lower()) in EXTENSIONS:  # noqa: PTH122
                yield before + entry.name
            else:
                passed[suffix] += 1
        links.extend(sorted(below, key=lambda link: os.fsencode(link[0])))
