"""Plain names: the manifest ``zoo.toml``, datasets of one's own, and those that ship inside packages."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurebank.extract.datasets._braces import expand_braces
from featurebank.extract.datasets._dataset import NamedDataset
from featurebank.extract.datasets._packaged import PackagedSource
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError
from featurebank.extract.own_code import own_object
from featurebank.store.errors import unknown_name

GROUP = "featurebank.datasets"
"""The entry points that are datasets of one's own."""

MANIFEST = Path(__file__).with_name("zoo.toml")
LOADERS = "featurebank.extract.datasets.loaders"
PACKAGED = "packaged"
PACKAGES = PackagedSource()


@functools.cache
def manifest() -> Mapping[str, NamedDataset]:
    """Every dataset of the manifest by name, in its order."""
    rows = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))
    return {name: _dataset(name, row) for name, row in rows.items()}


class NamedSource:
    """Plain names, with options behind ``@``: ``flowers102``, ``chexpert@views=all,uncertain=zeros``."""

    prefix = ""

    def names(self) -> Sequence[str]:
        """The manifest's datasets, the packaged ones and those of entry points."""
        return sorted({*manifest(), *PACKAGES.names(), *_entry_points()})

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:
        """The dataset's splits."""
        name = spec_name.partition("@")[0]
        return PACKAGES.splits(spec_name, root) if name in PACKAGES.names() else list(self.find(spec_name).splits)

    def open(self, spec: DatasetSpec) -> Split:
        """The split, checked against the official numbers.

        Raises:
            UnknownNameError: no such dataset, split or option.
            DatasetError: files are missing or wrong.
        """
        name, _, options = spec.name.partition("@")
        if name in PACKAGES.names():
            return PACKAGES.open(spec)
        return self.find(name).open(spec, options)

    def find(self, spec_name: str) -> NamedDataset:
        """The dataset's row.

        Raises:
            UnknownNameError: no such dataset.
        """
        name = spec_name.partition("@")[0]
        if name in manifest():
            return manifest()[name]
        if name in _entry_points():
            return replace(_checked(_entry_points()[name].load(), name), name=name)
        others = "(or folder:PATH, manifest:PATH, list:FILE, coco:FILE, hf:PATH, wds:PATTERN, torchvision:NAME)"
        raise unknown_name("dataset", name, self.names(), others)


class PythonSource:
    """``python:MODULE:NAME`` or ``python:FILE.py:NAME``: a `NamedDataset` of one's own; options follow ``@``."""

    prefix = "python:"

    def names(self) -> Sequence[str]:
        """None: any object is a dataset."""
        return ()

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:  # noqa: ARG002 (the contract's signature)
        """The dataset's splits."""
        return list(self.find(spec_name).splits)

    def open(self, spec: DatasetSpec) -> Split:
        """The split, checked against the numbers that the dataset promises.

        Raises:
            DatasetError: there is no such object, or files are missing or wrong.
        """
        return self.find(spec.name).open(spec, spec.name.partition("@")[2])

    def find(self, spec_name: str) -> NamedDataset:
        """The object that a name stands for.

        Raises:
            DatasetError: there is none, or it is no `NamedDataset`.
        """
        try:
            value, _ = own_object(spec_name.removeprefix(self.prefix).partition("@")[0])
        except ImportError as error:
            raise DatasetError(f"{spec_name}: {error}") from error
        return _checked(value, spec_name)


def _checked(value: object, where: str) -> NamedDataset:
    if not isinstance(value, NamedDataset):
        raise DatasetError(
            f"{where}: expected a featurebank.extract.datasets.NamedDataset, found {type(value).__name__}"
        )
    return value


@functools.cache
def _entry_points() -> Mapping[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def _dataset(name: str, row: dict[str, Any]) -> NamedDataset:
    return NamedDataset(name=name, **{**row, **_expanded(row), "loader": _Named(row["loader"])})


def _expanded(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields whose split names have braces, with every name they stand for; -1 is no official number."""
    splits = {
        split: None if n < 0 else n for names, n in row.get("splits", {}).items() for split in expand_braces(names)
    }
    when = {choice: {**changes, **_expanded(changes)} for choice, changes in row.get("when", {}).items()}
    return {**({"splits": splits} if "splits" in row else {}), **({"when": when} if "when" in row else {})}


class _Named:
    """A loader by ``module.function``, imported when it is called."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def function(self) -> Any:
        module, _, function = self.name.partition(".")
        return getattr(importlib.import_module(f"{LOADERS}.{module}"), function)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.function(*arguments, **keywords)

    def __repr__(self) -> str:
        return self.name
