"""A dataset by name: what it is, where its official files lie, how many records each split has, and who reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.assets import cache_dir
from featurebank.extract.datasets._division import PARTS, division
from featurebank.extract.datasets._listing import Listing, Pixels, absent, open_listing
from featurebank.extract.datasets._opening import open_split
from featurebank.extract.datasets._place import Place
from featurebank.extract.datasets._reading import check_inside, reading
from featurebank.extract.datasets._records import ArraySplit, FileSplit
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded

Found: TypeAlias = Listing | Pixels | Split
Loader: TypeAlias = Callable[..., Found]
"""Called with a `Place`, a split's name, and the dataset's ``arguments`` as keywords."""

PARTIAL = "partial"
PER_CLASS = "per_class"
GROUPS = "patient"
"""The column whose records stay together where a split is divided."""


@dataclass(frozen=True, kw_only=True)
class NamedDataset:
    """One row of the manifest.

    Attributes:
        name: what users type.
        title: its name in the literature.
        loader: gives a split's records.
        splits: every split with its official number of records, ``None`` where there is none.
        classes: how many classes each split's labels have, for all splits or each; 0 where there are no labels.
        arguments: keywords for the loader.
        needs: files, and folders with a ``/`` at the end, that must lie below the root; ``{split}`` is the split.
        images: where the images lie, in words.
        options: what can be chosen, ``NAME@option=value``: every value, the default first.
        when: ``"option=value"`` to the fields that it changes, as the official counts.
        kind: what it is used for.
        licence: under what terms.
        obtain: where from.
        note: what one must know.
    """

    name: str
    title: str = ""
    loader: Loader
    splits: Mapping[str, int | None]
    classes: int | Mapping[str, int] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()
    images: str = ""
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    when: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kind: str = "classification"
    licence: str = ""
    obtain: str = ""
    note: str = ""

    def needed(self, split: str) -> list[str]:
        """What must lie below the root for a split."""
        return [name.replace("{split}", split) for name in self.needs]

    def root(self, given: Path | None) -> Path:
        """The folder given, else one of the dataset's name in ``$FEATUREBANK_DATA`` or in the asset cache."""
        if given is not None:
            return expanded(given).absolute()
        data = os.environ.get("FEATUREBANK_DATA")
        return (expanded(data).absolute() if data else cache_dir() / "datasets") / self.name

    def chosen(self, text: str) -> tuple[NamedDataset, dict[str, str]]:
        """The dataset as the part of a name after ``@`` makes it, and the value of every option.

        Raises:
            UnknownNameError: no such option or value.
        """
        values = {option: allowed[0] for option, allowed in self.options.items()}
        for part in filter(None, text.split(",")):
            option, _, value = part.partition("=")
            if option == PARTIAL or (option == PER_CLASS and value.isdecimal() and int(value) > 0):
                values[option] = value
            elif option not in self.options:
                raise unknown_name(f"option of {self.name}", option, [*self.options, PARTIAL, f"{PER_CLASS}=N"])
            elif value not in self.options[option]:
                raise unknown_name(f"value of {self.name}@{option}", value, self.options[option])
            else:
                values[option] = value
        changes: dict[str, Any] = {}
        for option, value in values.items():
            changes.update(self.when.get(f"{option}={value}", {}))
        return replace(self, **changes), values

    def open(self, spec: DatasetSpec, options: str = "") -> Split:
        """A split, checked against the official numbers.

        Args:
            spec: the split, or a fixed part of it (``all-train80``, ``all-test20``), the root and the subset.
            options: what stands behind ``@`` in its name; ``partial`` takes what is there, without these checks.

        Raises:
            UnknownNameError: no such split, option or value.
            DatasetError: files are missing, are not what they should be, or are not as many as the official ones.
        """
        base, part = self._base(spec.split)
        dataset, values = self.chosen(options)
        place = Place(self.root(spec.root), self.name, values, asked=spec.name)
        if missing := place.missing(dataset.needed(base)):
            raise DatasetError(
                f"{self.name} {base!r}: expected its official files under {place.root}, missing: "
                f"{', '.join(missing)}; {place.advice}" + (f"; obtain them: {self.obtain}" if self.obtain else "")
            )
        found = dataset.load(place, base)
        if not isinstance(found, Listing | Pixels):
            dataset.check(base, found.labels, values)
            if part or PER_CLASS in values:
                raise DatasetError(
                    f"{spec.name}: expected no part of {base!r}, found {part or PER_CLASS}; leave it out"
                )
            own = replace(found.spec, subset=spec.subset, label=spec.label or found.spec.label)
            return found if own == found.spec else open_split(own)
        # A split of the official size lacks nothing, whatever lies beside it.
        whole = PARTIAL not in values and dataset.splits[base] is not None
        split = _records(spec, base, found, place, () if whole else place.notes())
        dataset.check(base, split.labels, values)
        if part:
            split = split.take(division(part, split.ids, split.labels, split.columns.get(GROUPS)))
        if PER_CLASS in values:
            split = split.take(_first_of_each(split.labels, int(values[PER_CLASS]), self.name))
        return split.subset()

    def load(self, place: Place, split: str) -> Found:
        """What the loader gives for a split.

        Raises:
            DatasetError: files are missing, are not what they should be, or do not fit each other.
        """
        expected = f"official files that fit each other under {place.root}"
        with reading(f"{self.name} {split!r}", expected, place.advice):
            found = self.loader(place, split, **self.arguments)
            if isinstance(found, Listing):
                check_inside(f"{self.name} {split!r} under {place.root}", found.files)
            return found

    def _base(self, split: str) -> tuple[str, str]:
        """The official split, and which part of it is asked for."""
        base, _, part = split.rpartition("-")
        if split in self.splits:
            return split, ""
        if part in PARTS and base in self.splits:
            return base, part
        raise unknown_name(f"split of {self.name}", split, self.splits)

    def check(self, split: str, labels: NDArray[np.int64], options: Mapping[str, str]) -> None:
        """Compares a whole split with the official numbers.

        Raises:
            DatasetError: another number of records, or of classes; found and expected are named.
        """
        if PARTIAL in options:
            return
        expected, classes = self.splits[split], self.classes
        classes = classes.get(split) if isinstance(classes, Mapping) else classes
        found = labels.shape[1] if labels.ndim == 2 else len(np.unique(labels[labels >= 0]))
        for what, n, official in (("records", len(labels), expected), ("classes", found, classes)):
            if official is not None and n != official:
                raise DatasetError(
                    f"{self.name} {split!r}: expected {official:,} {what}, the official number, found {n:,}; obtain "
                    f"the dataset again, or take what is there: {self.name}@{PARTIAL}"
                )


def _records(
    spec: DatasetSpec, base: str, found: Listing | Pixels, place: Place, notes: Sequence[str]
) -> ArraySplit | FileSplit:
    """What a loader gave, as a split; with ``partial``, without the files that are not there."""
    if isinstance(found, Pixels):
        n = len(found.pixels)
        ids = [f"{base}/{row:0{max(5, len(str(n - 1)))}d}" for row in range(n)]
        return ArraySplit(spec, ids, found.labels, found.class_names, pixels=found.pixels, reopen=open_split)
    if PARTIAL in place.options and not found.seen:
        gone = set(absent(place.root, found.files))
        found = found.take(np.flatnonzero([file not in gone for file in found.files]))
    return open_listing(spec, found, place.root, advice=place.advice, notes=notes)


def _first_of_each(labels: NDArray[np.int64], n: int, name: str) -> NDArray[np.int64]:
    """The rows of the first ``n`` records of every class, ascending."""
    if labels.ndim != 1 or (labels < 0).all():
        raise DatasetError(f"{name}@{PER_CLASS}: expected one class a record, found none or several; leave it out")
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    place = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return np.sort(order[(place < n) & (ordered >= 0)])
