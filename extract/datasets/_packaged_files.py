"""Packaged datasets whose images stay the files that they are.

``imagenet_20``: 20 ImageNet images, labelled by their class (foolbox, MIT; the images are ImageNet's). ``emoji``: the
1,911 emoji that Google and Twitter both draw, 64x64 with transparency, a split each, every emoji a class of its own
(emoji-datasource, MIT; Google's drawings Apache-2.0, Twitter's CC BY 4.0). ``tuxpaint``: 796 stamps, mostly photographs
that are cut out, 16 classes (Tux Paint, GPL-2).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from featurebank.extract.assets import Asset, DebianPackage, NpmPackage, PackageFolder, fetch
from featurebank.extract.datasets._reading import parse_json, read_file
from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import AssetError

IMAGENET_20: Final = PackageFolder(
    package="foolbox",
    version="3.3.4",
    archive_sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
    pattern="foolbox/data/imagenet_*.jpg",
    sha256="9e49c798485820a97e15f4866e798209f6c4399463bfd416af7d7b28a5bdf75e",
)
EMOJI: Final = {
    vendor: NpmPackage(
        package=f"emoji-datasource-{vendor}",
        version="16.0.0",
        archive_sha256=archive,
        patterns=("package/emoji.json", f"package/img/{vendor}/64/*.png"),
        sha256=listing,
    )
    for vendor, archive, listing in (
        (
            "google",
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            "4514ce264d85db7b6690de6f9455e01daa327b61198619426807296a12e410a7",
        ),
        (
            "twitter",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            "57917c1616ab91b585a413a91c68361c72468a6e9038719c69b450ee111c58a1",
        ),
    )
}
TUXPAINT: Final = DebianPackage(
    package="tuxpaint-stamps-default",
    version="2022.06.04-1",
    pattern="usr/share/tuxpaint/stamps/*.png",
    below="usr/share/tuxpaint/stamps",
    sha256="b35e90805c5f457c04b566b188cefae069f0544ba90ab1f8a5d3e006f7c62b3f",
)


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """A packaged dataset of image files.

    Attributes:
        splits: their names.
        open: gives a split, from the folder ``spec.root`` where it is given, else from the cache, else fetched.
    """

    splits: tuple[str, ...]
    open: Callable[[DatasetSpec], Split]


def _folder(spec: DatasetSpec, asset: Asset) -> Path:
    return fetch(asset) if spec.root is None else spec.root


def _imagenet_20(spec: DatasetSpec) -> Split:
    folder = _folder(spec, IMAGENET_20)
    files = sorted(path.name for path in folder.glob("imagenet_*_*.jpg"))
    labels = np.array([int(Path(name).stem.rpartition("_")[2]) for name in files], np.int64)
    return FileSplit(spec, files, labels, _imagenet_class_names(), folder=folder, files=files).subset()


def _imagenet_class_names() -> list[str]:
    """The 1,000 names as timm's data files have them, read without importing timm; empty without timm."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent / "data" / "_info"
    try:
        synsets = (folder / "imagenet_synsets.txt").read_text("utf-8").split()
        lines = (folder / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines()
    except OSError:
        return []
    lemmas = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return [lemmas.get(synset, synset) for synset in synsets]


def _emoji(spec: DatasetSpec) -> Split:
    """One vendor's drawings, in the order of ``emoji.json``; its name, category and subcategory are columns."""
    folder = _folder(spec, EMOJI[spec.split])
    drawn = drawn_by_both(folder / "emoji.json")
    ids = [entry["image"] for entry in drawn]
    columns = {name: np.array([entry[name] for entry in drawn]) for name in ("name", "category", "subcategory")}
    class_names = [entry["short_name"] for entry in drawn]
    images = folder / "img" / spec.split / "64"
    return FileSplit(spec, ids, np.arange(len(ids)), class_names, columns, folder=images, files=ids).subset()


def drawn_by_both(path: Path) -> list[dict[str, Any]]:
    """The entries of ``emoji.json`` that each vendor has an image of, in its order."""
    return [entry for entry in _table(path) if all(entry[f"has_img_{vendor}"] for vendor in EMOJI)]


def _table(path: Path) -> list[dict[str, Any]]:
    try:
        entries: list[dict[str, Any]] = parse_json(read_file(path))
    except OSError as error:
        raise AssetError(f"{path}: expected a readable file, found: {error.strerror}; check the root") from error
    except ValueError as error:
        raise AssetError(f"{path}: expected JSON, found something else: {error}; fetch it again") from error
    return entries


def _tuxpaint(spec: DatasetSpec) -> Split:
    """The stamps, in byte order of their paths; a class is the first folder of the path, the column ``group`` all."""
    folder = _folder(spec, TUXPAINT)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    class_names, labels = np.unique([name.partition("/")[0] for name in files], return_inverse=True)
    columns = {"group": np.array([name.rpartition("/")[0] for name in files])}
    return FileSplit(spec, files, labels, class_names.tolist(), columns, folder=folder, files=files).subset()


FILE_SETS: Final = {
    "emoji": FileSet(splits=tuple(EMOJI), open=_emoji),
    "imagenet_20": FileSet(splits=("all",), open=_imagenet_20),
    "tuxpaint": FileSet(splits=("all",), open=_tuxpaint),
}
