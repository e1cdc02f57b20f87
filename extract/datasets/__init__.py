"""Datasets by name: the zoo's, one's own, torchvision's, packaged ones; and folders, manifests, image lists.

>>> label_of(DatasetSpec(name="folder:/data/pets", split="all"))
'pets'
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from featurebank.extract.datasets._dataset import NamedDataset
from featurebank.extract.datasets._examine import SplitState, examine
from featurebank.extract.datasets._folder import FolderSource
from featurebank.extract.datasets._hugging_face import HuggingFaceSource
from featurebank.extract.datasets._image_list import ImageListSource
from featurebank.extract.datasets._listing import Listing, Pixels
from featurebank.extract.datasets._manifest import ManifestSource
from featurebank.extract.datasets._named import PACKAGES, NamedSource, PythonSource, manifest
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets._reading import reading
from featurebank.extract.datasets._records import dataset_digest
from featurebank.extract.datasets._torchvision import TorchvisionSource
from featurebank.extract.datasets._webdataset import WebDatasetSource
from featurebank.extract.datasets.contract import DatasetSource, DatasetSpec, Split, Subset
from featurebank.extract.datasets.loaders.imagenet import class_mask
from featurebank.extract.errors import DatasetError
from featurebank.extract.own_code import in_file
from featurebank.store._names import encode_component
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded

__all__ = [
    "DatasetSpec",
    "Listing",
    "NamedDataset",
    "Pixels",
    "Place",
    "Split",
    "SplitState",
    "Subset",
    "class_mask",
    "dataset_digest",
    "examine",
    "is_data",
    "label_of",
    "named",
    "names",
    "open_split",
    "rooted",
    "splits",
]

log = logging.getLogger("featurebank")

NAMED: Final = NamedSource()
PYTHON: Final = PythonSource()
SOURCES: Final[tuple[DatasetSource, ...]] = (
    FolderSource(),
    ManifestSource(),
    ImageListSource(),
    HuggingFaceSource(),
    WebDatasetSource(),
    TorchvisionSource(),
    PYTHON,
    NAMED,
)
PATHS: Final = frozenset({"folder", "hf", "list", "manifest", "wds"})
"""Prefixes, without the colon, that a path follows."""


def open_split(spec: DatasetSpec) -> Split:
    """The split, its subset taken; its notes are logged as warnings.

    Raises:
        UnknownNameError: no such source, dataset or split; the nearest spellings are listed.
        DatasetError: empty, duplicate ids, labels out of range, files missing: which, and what to do; or whatever else
            went wrong: no exception of one dataset's is another's affair.
        AssetError: data that should be fetched cannot be.
        ImportError: a package that its files need is not installed.
    """
    with reading(f"{spec.name} {spec.split!r}", "a dataset that can be opened"):
        split = _source(spec.name).open(spec)
        # Names that no store takes would end the whole run later.
        encode_component(label_of(split.spec), "dataset")
        encode_component(spec.split, "split")
    for note in getattr(split, "notes", ()):
        log.warning("%s %s: %s", spec.name, spec.split, note)
    return split


def names() -> list[str]:
    """Every dataset known by name, plain names first."""
    return [name for source in sorted(SOURCES, key=lambda s: s.prefix) for name in source.names()]


def named(name: str) -> NamedDataset:
    """What is known of a dataset: splits and official counts, classes, licence, what must lie where.

    Args:
        name: a plain name, ``python:MODULE:NAME`` or ``python:FILE.py:NAME``.

    Raises:
        UnknownNameError: no such dataset.
        DatasetError: the Python object is no `NamedDataset`.

    >>> named("flowers102").splits["test"]
    6149
    """
    return PYTHON.find(name) if name.startswith(PYTHON.prefix) else NAMED.find(name)


def is_data(name: str) -> bool:
    """Whether a name that a file holds may be opened: one of the manifest or packaged, which runs no code of others.

    Every other name, ``python:``, ``folder:``, ``torchvision:`` or a plug-in's, says where to look or what to run: that
    is for people to say, never for a file.

    >>> is_data("chexpert@uncertain=zeros"), is_data("python:birds.py:BIRDS"), is_data("folder:/data/birds")
    (True, False, False)
    """
    plain, _, _ = name.partition("@")
    return ":" not in name and (plain in manifest() or plain in PACKAGES.names())


def splits(name: str, root: Path | None = None) -> Sequence[str]:
    """The splits a dataset has.

    Raises:
        UnknownNameError: no such source or dataset.
        DatasetError: its folder or manifest cannot be read.
    """
    with reading(name, "a dataset whose splits can be listed"):
        return _source(name).splits(name, root)


def rooted(name: str, folder: Path) -> str:
    """The name with a relative path in it taken from ``folder``.

    >>> rooted("list:lists/test.txt", Path("/data")), rooted("python:birds.py:BIRDS", Path("/data"))
    ('list:/data/lists/test.txt', 'python:/data/birds.py:BIRDS')
    >>> rooted("cifar10", Path("/data"))
    'cifar10'
    """
    prefix, _, path = name.partition(":")
    if prefix in PATHS or (prefix == "python" and in_file(path)):
        return f"{prefix}:{folder / expanded(path)}"
    return name


def label_of(spec: DatasetSpec) -> str:
    """What the store's folder for a dataset is called: ``spec.label``, else the name, of a path the last part.

    Raises:
        DatasetError: the name is a path without a last part.

    >>> label_of(DatasetSpec(name="manifest:/data/birds.v2.csv", split="train"))
    'birds.v2'
    >>> label_of(DatasetSpec(name="wds:/data/birds/train-{000..127}.tar", split="all"))
    'birds'
    >>> label_of(DatasetSpec(name="torchvision:CIFAR10", split="train"))
    'torchvision:CIFAR10'
    """
    if spec.label:
        return spec.label
    prefix, _, path = spec.name.partition(":")
    if prefix == "python":
        return path.rpartition(":")[2].lower()
    if prefix not in PATHS:
        return spec.name
    place = expanded(path).absolute()
    if prefix in {"list", "manifest"}:
        label = place.stem
    elif prefix == "wds" and re.search(r"[*?{\[]|\.tar$", place.name):
        label = place.parent.name
    else:
        label = Path(place.resolve() if place.name == ".." else place).name
    if not label:
        raise DatasetError(f"{spec.name}: expected a path that ends in a name; give the dataset a label")
    return label


def _source(name: str) -> DatasetSource:
    for source in SOURCES:
        if name.startswith(source.prefix) and (source.prefix or ":" not in name):
            return source
    prefixes = [source.prefix for source in SOURCES if source.prefix]
    raise unknown_name(
        "dataset source", name.partition(":")[0] + ":", prefixes, "(folder:PATH, manifest:PATH, or a name)"
    )
