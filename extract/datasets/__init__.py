"""Datasets by name: the zoo's, one's own, torchvision's, packaged ones; and folders, manifests, image lists.

>>> label_of(DatasetSpec(name="folder:/data/pets", split="all"))
'pets'
"""

from __future__ import annotations

from typing import Final

from featurebank.extract.datasets._coco import CocoSource
from featurebank.extract.datasets._dataset import NamedDataset
from featurebank.extract.datasets._examine import SplitState, examine
from featurebank.extract.datasets._folder import FolderSource
from featurebank.extract.datasets._hugging_face import HuggingFaceSource
from featurebank.extract.datasets._image_list import ImageListSource
from featurebank.extract.datasets._listing import Listing, Pixels
from featurebank.extract.datasets._manifest import ManifestSource
from featurebank.extract.datasets._named import PACKAGES, NamedSource, PythonSource, manifest
from featurebank.extract.datasets._opening import SOURCES, label_of, open_split, rooted, splits
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets._records import dataset_digest
from featurebank.extract.datasets._torchvision import TorchvisionSource
from featurebank.extract.datasets._webdataset import WebDatasetSource
from featurebank.extract.datasets.contract import DatasetSpec, Split, Subset
from featurebank.extract.datasets.loaders.imagenet import class_mask

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

NAMED: Final = NamedSource()
PYTHON: Final = PythonSource()
SOURCES[:] = (
    CocoSource(),
    FolderSource(),
    ManifestSource(),
    ImageListSource(),
    HuggingFaceSource(),
    WebDatasetSource(),
    TorchvisionSource(),
    PYTHON,
    NAMED,
)


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
