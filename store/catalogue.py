"""The catalogue: a directory of feature sets, found by dataset, split, backbone and fingerprint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from featurebank.store._disk import Disk
from featurebank.store._header import Header
from featurebank.store._names import decode_component, encode_component, not_found, partial_path
from featurebank.store._opening import open_sealed, read_partial, string_in
from featurebank.store._records import Output
from featurebank.store.errors import (
    AmbiguousError,
    CorruptError,
    InvalidInputError,
    NotSealedError,
    StoreError,
)
from featurebank.store.fingerprint import differences
from featurebank.store.reader import FeatureSet
from featurebank.store.verify import VerifyReport, verify

__all__ = ["Entry", "FeatureStore", "State"]

State: TypeAlias = Literal["sealed", "partial", "damaged"]
_FILE = re.compile(r"([0-9a-f]{16})\.h5(\.partial)?")
_PLACES = (("dataset", "name"), ("dataset", "split"), ("backbone", "name"))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a store.

    Attributes:
        dataset: From the folders.
        split: From the folders.
        backbone: From the folders.
        fingerprint: 64 hex digits, or the 16 of the file name where the file cannot be read.
        state: Sealed, partial, or damaged.
        n_rows: 0 where the file cannot be read.
        outputs: Empty where the file cannot be read.
        nbytes: The size of the file.
        path: The file.
        message: What is wrong with a damaged file.
    """

    dataset: str
    split: str
    backbone: str
    fingerprint: str
    state: State
    n_rows: int = 0
    outputs: tuple[Output, ...] = ()
    nbytes: int = 0
    path: Path
    message: str = ""


class FeatureStore:
    """A directory of feature sets: ``<root>/<dataset>/<split>/<backbone>/<16 hex of the fingerprint>.h5``.

    Args:
        root: The directory; it need not exist until something is written.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    def path_for(self, dataset: str, split: str, backbone: str, fingerprint: str) -> Path:
        """Where the feature set with that fingerprint belongs.

        Raises:
            InvalidInputError: a name that cannot name a folder, or a path that would leave the store.

        >>> FeatureStore("features").path_for("cifar10", "test", "timm/resnet18", "0123456789abcdef" * 4).as_posix()
        'features/cifar10/test/timm%2Fresnet18/0123456789abcdef.h5'
        """
        if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
            raise InvalidInputError(f"a fingerprint must be 64 hex digits; found {fingerprint!r}")
        names = (("dataset", dataset), ("split", split), ("backbone", backbone))
        path = self.root.joinpath(*(encode_component(name, what) for what, name in names), f"{fingerprint[:16]}.h5")
        if not self._is_inside(path):
            raise InvalidInputError(f"{path} must lie within {self.root}; a link leads to {path.resolve()}; remove it")
        return path

    def ls(self, dataset: str | None = None, backbone: str | None = None) -> list[Entry]:
        """Every feature set and partial there is, sorted; reads headers only.

        Args:
            dataset: Only this dataset, ``"name"`` or ``"name/split"``.
            backbone: Only this backbone.
        """
        return [
            self._entry(names, path)
            for names, path in self._files()
            if dataset in (None, names[0], f"{names[0]}/{names[1]}") and backbone in (None, names[2])
        ]

    def open(self, dataset: str, backbone: str, *, fingerprint: str | None = None) -> FeatureSet:
        """Opens the feature set of a backbone on a split.

        Args:
            dataset: ``"dataset/split"``.
            backbone: The backbone's name.
            fingerprint: The fingerprint or its beginning; needed only where there are several.

        Raises:
            NotFoundError: nothing matches; the text has the nearest names.
            AmbiguousError: several match; the text has their fingerprints and where their keys differ.
            NotSealedError: there is only a partial.
            CorruptError: what matches is damaged.
        """
        name, separator, split = dataset.rpartition("/")
        if not separator:
            raise InvalidInputError(f"a dataset must be given as 'dataset/split'; found {dataset!r}")
        files = list(self._files())
        found = [(names, path) for names, path in files if names[:2] == (name, split)]
        if not found:
            raise not_found(str(self.root), "dataset", dataset, (f"{names[0]}/{names[1]}" for names, _ in files))
        matching = [self._entry(names, path) for names, path in found if names[2] == backbone]
        if not matching:
            raise not_found(f"{self.root}, {dataset}", "backbone", backbone, (names[2] for names, _ in found))
        if fingerprint is not None:
            known = [entry.fingerprint for entry in matching]
            # A damaged file is known by the beginning of its fingerprint only.
            matching = [
                e for e in matching if e.fingerprint.startswith(fingerprint) or fingerprint.startswith(e.fingerprint)
            ]
            if not matching:
                raise not_found(f"{self.root}, {dataset}, {backbone}", "fingerprint", fingerprint, known)
        return FeatureSet(_only(matching).path)

    def find(self, fingerprint: str) -> FeatureSet | None:
        """The sealed feature set with that fingerprint (64 or its first 16 hex digits), if there is one."""
        for _, path in self._files():
            if path.name == f"{fingerprint[:16]}.h5" and self._is_inside(path):
                feature_set = FeatureSet(path)
                if feature_set.fingerprint.startswith(fingerprint):
                    return feature_set
                feature_set.close()
        return None

    def state(
        self, dataset: str, split: str, backbone: str, fingerprint: str
    ) -> Literal["sealed", "partial", "absent"]:
        """Whether a feature set is there, going by its file's name alone."""
        path = self.path_for(dataset, split, backbone, fingerprint)
        if path.is_file():
            return "sealed"
        return "partial" if partial_path(path).is_file() else "absent"

    def verify(self) -> list[VerifyReport]:
        """Verifies every file that is not a partial; what is wrong with one is in its report and stops no other."""
        return [_verified(entry) for entry in self.ls() if entry.path.suffix == ".h5"]

    def _files(self) -> Iterator[tuple[tuple[str, str, str], Path]]:
        for path in sorted(self.root.glob("*/*/*/*")):
            if not _FILE.fullmatch(path.name):
                continue
            try:
                dataset, split, backbone = (decode_component(part) for part in path.parts[-4:-1])
            except InvalidInputError:
                # Folders that the store did not make may lie beside its own.
                continue
            yield (dataset, split, backbone), path

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def _entry(self, names: tuple[str, str, str], path: Path) -> Entry:
        entry = Entry(
            dataset=names[0], split=names[1], backbone=names[2], fingerprint=path.name[:16], state="damaged", path=path
        )
        try:
            if not self._is_inside(path):
                raise CorruptError(
                    f"{path} must lie within {self.root}; a link leads to {path.resolve()}; remove the link"
                )
            header, manifest = _read(path)
            _check_names(names, path, manifest["key"])
        except StoreError as error:
            return replace(entry, message=str(error))
        return replace(
            entry,
            fingerprint=header.table.fingerprint,
            state="partial" if path.suffix == ".partial" else "sealed",
            n_rows=header.table.n_rows,
            outputs=header.table.described(),
            nbytes=header.file_size,
        )


def _read(path: Path) -> tuple[Header, dict[str, Any]]:
    if path.suffix != ".partial":
        disk, header, manifest = open_sealed(path)
        disk.close()
        return header, manifest
    disk = Disk(path)
    try:
        return read_partial(disk)
    finally:
        disk.close()


def _check_names(names: tuple[str, str, str], path: Path, key: dict[str, Any]) -> None:
    expected = tuple(string_in(key, *place) for place in _PLACES)
    if names != expected:
        raise CorruptError(
            f"{path} must lie in the folders of its key, {' / '.join(expected)}; found {' / '.join(names)}: "
            f"it was moved; move it back"
        )


def _only(matching: Sequence[Entry]) -> Entry:
    sealed = [entry for entry in matching if entry.state == "sealed"]
    if len(sealed) == 1:
        return sealed[0]
    if not sealed:
        for entry in matching:
            if entry.state == "damaged":
                raise CorruptError(entry.message)
        raise NotSealedError(f"{matching[0].path} is still a partial; resume and seal it first")
    keys = [_read(entry.path)[1]["key"] for entry in sealed]
    lines = []
    for entry, key in zip(sealed[1:], keys[1:], strict=True):
        lines += [f"  {sealed[0].fingerprint[:16]} and {entry.fingerprint[:16]} differ in:"]
        lines += [f"    {field}: {left!r} and {right!r}" for field, left, right in differences(keys[0], key)]
    first = sealed[0]
    raise AmbiguousError(
        f"{first.path.parent} must have one feature set for {first.dataset}/{first.split}, {first.backbone}; "
        f"found {len(sealed)}; give one of their fingerprints, {', '.join(e.fingerprint[:16] for e in sealed)}:\n"
        + "\n".join(lines)
    )


def _verified(entry: Entry) -> VerifyReport:
    error = entry.message
    if not error:
        try:
            return verify(entry.path)
        except StoreError as damage:
            error = str(damage)
    return VerifyReport(path=entry.path, fingerprint=entry.fingerprint, chunks={}, error=error)
