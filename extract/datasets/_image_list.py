"""Image lists as OpenOOD writes them, one ``path label`` a line: ``list:lists/imagenet/test_ninco.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featurebank.extract.datasets._listing import Listing, open_listing
from featurebank.extract.datasets._reading import LIST_BYTES, is_inside, read_file, reading, shown
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded


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
            raise unknown_name(f"split of {spec.name}", spec.split, ["all"])
        path = expanded(spec.name.removeprefix(self.prefix)).absolute()
        listing = read_image_list(path)
        folder = expanded(path.parent if spec.root is None else spec.root).absolute()
        advice = "give the root that the list's paths are relative to"
        return open_listing(spec, listing, folder, advice=advice).subset()


def read_image_list(path: Path) -> Listing:
    """The paths and labels of a list.

    Raises:
        DatasetError: it cannot be read, or a line is not a path inside the root and a whole number from -1 upwards.
    """
    with reading(path, "a readable UTF-8 image list", "check the path"):
        lines = read_file(path, LIST_BYTES).decode("utf-8-sig").splitlines()
    files, labels = [], []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        file, *rest = text.rsplit(maxsplit=1)
        if not rest or not _is_label(rest[0]) or not is_inside(file):
            raise DatasetError(
                f"{path}, line {number}: expected a path below the root and a class index (-1 for none), "
                f"found {shown(line)}; correct the line"
            )
        files.append(file)
        labels.append(int(rest[0]))
    return Listing(files=files, labels=labels)


def _is_label(text: str) -> bool:
    return text == "-1" or (text.isascii() and text.isdecimal() and len(text) < 19)
