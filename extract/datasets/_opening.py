"""Opening a split by its dataset's name, whichever source of datasets answers to it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from featurebank.extract.datasets._reading import reading
from featurebank.extract.datasets.contract import DatasetSource, DatasetSpec, Split
from featurebank.extract.errors import DatasetError
from featurebank.extract.own_code import in_file
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded
from featurebank.store.text import encode_component

log = logging.getLogger("featurebank")

SOURCES: Final[list[DatasetSource]] = []
"""Filled by the package: some sources open what another one has."""
PATHS: Final = frozenset({"coco", "folder", "hf", "list", "manifest", "wds"})
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
        split = source_of(spec.name).open(spec)
        # Names that no store takes would end the whole run later.
        encode_component(label_of(split.spec), "dataset")
        encode_component(spec.split, "split")
    for note in getattr(split, "notes", ()):
        log.warning("%s %s: %s", spec.name, spec.split, note)
    return split


def splits(name: str, root: Path | None = None) -> Sequence[str]:
    """The splits a dataset has.

    Raises:
        UnknownNameError: no such source or dataset.
        DatasetError: its folder or manifest cannot be read.
    """
    with reading(name, "a dataset whose splits can be listed"):
        return source_of(name).splits(name, root)


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
    if prefix == "coco" and "*" in place.name:
        label = place.parent.name
    elif prefix in {"coco", "list", "manifest"}:
        label = place.stem
    elif prefix == "wds" and re.search(r"[*?{\[]|\.tar$", place.name):
        label = place.parent.name
    else:
        label = Path(place.resolve() if place.name == ".." else place).name
    if not label:
        raise DatasetError(f"{spec.name}: expected a path that ends in a name; give the dataset a label")
    return label


def source_of(name: str) -> DatasetSource:
    for source in SOURCES:
        if name.startswith(source.prefix) and (source.prefix or ":" not in name):
            return source
    prefixes = [source.prefix for source in SOURCES if source.prefix]
    raise unknown_name(
        "dataset source", name.partition(":")[0] + ":", prefixes, "(folder:PATH, manifest:PATH, or a name)"
    )
