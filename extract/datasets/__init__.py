"""Datasets by name: folders, manifests, torchvision's, and those that ship inside packages.

>>> label_of(DatasetSpec(name="folder:/data/pets", split="all"))
'pets'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from featurebank.extract.datasets._folder import FolderSource
from featurebank.extract.datasets._manifest import ManifestSource
from featurebank.extract.datasets._packaged import PackagedSource
from featurebank.extract.datasets._records import dataset_digest
from featurebank.extract.datasets._torchvision import TorchvisionSource
from featurebank.extract.datasets.contract import DatasetSource, DatasetSpec, Split, Subset
from featurebank.extract.errors import DatasetError, nearest

__all__ = ["DatasetSpec", "Split", "Subset", "dataset_digest", "label_of", "names", "open_split", "splits"]

SOURCES: Final[tuple[DatasetSource, ...]] = (FolderSource(), ManifestSource(), TorchvisionSource(), PackagedSource())


def open_split(spec: DatasetSpec) -> Split:
    """The split, its subset taken.

    Raises:
        UnknownNameError: no such source, dataset or split; the nearest spellings are listed.
        DatasetError: empty, duplicate ids, labels out of range, files missing: which, and what to do.
        AssetError: data that should be fetched cannot be.
    """
    return _source(spec.name).open(spec)


def names() -> list[str]:
    """Every dataset known by name, plain names first."""
    return [name for source in sorted(SOURCES, key=lambda s: s.prefix) for name in source.names()]


def splits(name: str, root: Path | None = None) -> Sequence[str]:
    """The splits a dataset has.

    Raises:
        UnknownNameError: no such source or dataset.
        DatasetError: its folder or manifest cannot be read.
    """
    return _source(name).splits(name, root)


def label_of(spec: DatasetSpec) -> str:
    """What the store's folder for a dataset is called: ``spec.label``, else the name, of a path the last part.

    Raises:
        DatasetError: the name is a path without a last part.

    >>> label_of(DatasetSpec(name="manifest:/data/birds.v2.csv", split="train"))
    'birds.v2'
    >>> label_of(DatasetSpec(name="torchvision:CIFAR10", split="train"))
    'torchvision:CIFAR10'
    """
    if spec.label:
        return spec.label
    prefix, colon, path = spec.name.partition(":")
    if not colon or prefix not in {"folder", "manifest"}:
        return spec.name
    place = Path(path).expanduser().absolute()
    label = place.stem if prefix == "manifest" else Path(place.resolve() if place.name == ".." else place).name
    if not label:
        raise DatasetError(f"{spec.name}: expected a path that ends in a name; give the dataset a label")
    return label


def _source(name: str) -> DatasetSource:
    for source in SOURCES:
        if name.startswith(source.prefix) and (source.prefix or ":" not in name):
            return source
    prefixes = [source.prefix for source in SOURCES if source.prefix]
    raise nearest("dataset source", name.partition(":")[0] + ":", prefixes, "(folder:PATH, manifest:PATH, or a name)")
