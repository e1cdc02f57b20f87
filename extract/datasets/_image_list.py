"""Image lists as OpenOOD writes them, one ``path label`` a line: ``list:lists/imagenet/test_ninco.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from featurebank.extract.datasets._listing import Listing, open_listing
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError, nearest

__all__ = ["ImageListSource", "read_image_list"]


class ImageListSource:
    """``list:FILE``: the images that a text file lists, in its order, in one split called ``all``.

    A line is a path, white space, and a class index; -1 is no label, as out-of-distribution images have it. A path may
    hold spaces. Blank lines and lines that begin with ``#`` are passed over. Paths are relative to the spec's ``root``,
    else to the list's own folder, and must stay inside it; they are the ids.

    ``DatasetSpec(name="list:benchmark_imglist/imagenet/test_ninco.txt", split="all", root=Path("images_largescale"))``
    """

    prefix = "list:"

    def names(self) -> Sequence[str]:
        """None: any list is a dataset."""
        return ()

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:  # noqa: ARG002 (the contract's signature)
        """One: ``all``."""
        return ["all"]

    def open(self, spec: DatasetSpec) -> Split:
        """The images of the list.

        Raises:
            UnknownNameError: a split other than ``all``.
            DatasetError: the list cannot be read, a line does not fit, images are missing.
        """
        if spec.split != "all":
            raise nearest(f"split of {spec.name}", spec.split, ["all"])
        path = Path(spec.name.removeprefix(self.prefix)).expanduser().absolute()
        listing = read_image_list(path)
        folder = (path.parent if spec.root is None else spec.root).expanduser().absolute()
        advice = "give the root that the list's paths are relative to"
        return open_listing(spec, listing, folder, advice=advice).subset()


def read_image_list(path: Path) -> Listing:
    """The paths and labels of a list.

    Raises:
        DatasetError: it cannot be read, or a line is not a path inside the root and a whole number from -1 upwards.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: expected a readable UTF-8 image list, found: {error}; check the path") from error
    files, labels = [], []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        file, *rest = text.rsplit(maxsplit=1)
        if not rest or not _is_label(rest[0]) or not _is_inside(file):
            raise DatasetError(
                f"{path}, line {number}: expected a path below the root and a class index (-1 for none), "
                f"found {line!r}; correct the line"
            )
        files.append(file)
        labels.append(int(rest[0]))
    return Listing(files=files, labels=labels)


def _is_label(text: str) -> bool:
    return text == "-1" or (text.isascii() and text.isdecimal())


def _is_inside(file: str) -> bool:
    return not file.startswith("/") and ".." not in PurePosixPath(file).parts and "\0" not in file
