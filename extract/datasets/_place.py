"""The folder in which a dataset's official files lie, read with errors that name the file and what was expected."""

from __future__ import annotations

import csv
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featurebank.extract.datasets._folder import entries, images_below
from featurebank.extract.errors import DatasetError
from featurebank.extract.pickles import read_pickle

__all__ = ["MissingFileError", "Place"]


class MissingFileError(DatasetError):
    """A file or folder that must be there and is not.

    Attributes:
        file: which, below the root; a folder with a ``/`` at the end.
    """

    def __init__(self, message: str, file: str) -> None:
        super().__init__(message, file)
        self.file = file

    def __str__(self) -> str:
        return str(self.args[0])


class Place:
    """Where a dataset lies.

    Files are named relative to the root, with ``/``. Every method raises `DatasetError` where a file is missing or is
    not what it should be.

    Attributes:
        root: the folder.
        name: the dataset's name, for errors.
        options: the value of each of the dataset's options.
        download: whether what is missing may be downloaded, where a loader can.
        asked: the name that was asked for, with prefix and options; the plain name by default.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        options: Mapping[str, str] | None = None,
        *,
        download: bool = True,
        asked: str = "",
    ) -> None:
        self.root = root
        self.name = name
        self.options: Mapping[str, str] = dict(options or {})
        self.download = download
        self.asked = asked or name

    @property
    def advice(self) -> str:
        """Where to look up what must lie where."""
        return f"`featurebank datasets {self.asked} --root {self.root}` says what must lie where"

    def missing(self, files: Sequence[str]) -> list[str]:
        """Those of the files, or folders (with a ``/`` at the end), that are not there."""
        return [
            name
            for name in files
            if not ((self.root / name).is_dir() if name.endswith("/") else (self.root / name).is_file())
        ]

    def first(self, *candidates: str) -> str:
        """The first of several places that exists."""
        for name in candidates:
            if not self.missing([name]):
                return name
        raise self.gone(*candidates)

    def error(self, file: str, found: object, expected: str = "an official file") -> DatasetError:
        """An error about one file."""
        return DatasetError(f"{self.name}: expected {expected} at {self.root / file}, found {found}; {self.advice}")

    def gone(self, file: str, *others: str) -> MissingFileError:
        """An error about a file that is missing, and about what would have done instead."""
        expected = "an official file" + " or folder" * file.endswith("/")
        message = str(self.error(file, "nothing" + "".join(f", and no {name}" for name in others), expected))
        return MissingFileError(message, file)

    def read(self, file: str) -> bytes:
        """A file's bytes."""
        try:
            return (self.root / file).read_bytes()
        except FileNotFoundError:
            raise self.gone(file) from None
        except OSError as error:
            raise self.error(file, error.strerror) from error

    def lines(self, file: str) -> list[str]:
        """A text file's lines that are not blank, without white space around them."""
        try:
            text = self.read(file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error(file, error, "UTF-8 text") from error
        return [line.strip() for line in text.splitlines() if line.strip()]

    def fields(self, file: str, n: int, *, skip: int = 0) -> list[list[str]]:
        """The lines of a text file after the first ``skip``, each split at white space into ``n`` fields.

        The first field may hold spaces.
        """
        rows = [line.rsplit(maxsplit=n - 1) for line in self.lines(file)[skip:]]
        if bad := [row for row in rows if len(row) != n]:
            raise self.error(file, repr(" ".join(bad[0])), f"{n} fields a line")
        return rows

    def csv(self, file: str, *columns: str) -> Iterator[tuple[str, ...]]:
        """The values of some columns of a CSV file, row by row."""
        try:
            with (self.root / file).open(encoding="utf-8-sig", newline="") as content:
                reader = csv.reader(content, strict=True)
                header = next(reader, [])
                if lacking := [name for name in columns if name not in header]:
                    raise self.error(file, ", ".join(header) or "none", f"the columns {', '.join(lacking)}")
                places = [header.index(name) for name in columns]
                for row in reader:
                    if len(row) == len(header):
                        yield tuple([row[place] for place in places])
                    elif row:
                        raise self.error(file, f"{len(row)} in line {reader.line_num}", f"{len(header)} fields a line")
        except FileNotFoundError:
            raise self.gone(file) from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise self.error(file, error, "a CSV table") from error

    def json(self, file: str, *keys: str) -> Any:
        """What a JSON file holds: an object with at least these keys, where any are named."""
        try:
            value = json.loads(self.read(file))
        except ValueError as error:
            raise self.error(file, error, "JSON") from error
        if keys and not (isinstance(value, dict) and set(keys) <= value.keys()):
            raise self.error(file, ", ".join(value) if isinstance(value, dict) else type(value).__name__, str(keys))
        return value

    def mat(self, file: str, *keys: str) -> dict[str, Any]:
        """The variables of a MATLAB file, structures as dicts; these must be among them."""
        from scipy.io import loadmat  # type: ignore[import-untyped]

        path = self.root / file
        if not path.is_file():
            raise self.gone(file)
        try:
            value: dict[str, Any] = loadmat(str(path), simplify_cells=True)
        except Exception as error:  # SciPy's reader raises nearly every built-in exception.
            raise self.error(file, error, "a MATLAB file") from error
        if lacking := [key for key in keys if key not in value]:
            raise self.error(file, ", ".join(k for k in value if not k.startswith("__")), ", ".join(lacking))
        return value

    def pickled(self, file: str, *keys: str) -> dict[str, Any]:
        """The dict in a pickle of arrays and plain values; nothing else in it is ever run."""
        try:
            value = read_pickle(self.read(file))
        except ValueError as error:
            raise self.error(file, error, "a pickle of arrays and plain values") from error
        if not isinstance(value, dict) or not set(keys) <= value.keys():
            raise self.error(file, type(value).__name__, f"a dict with {', '.join(keys)}")
        return value

    def xml(self, file: str) -> ET.Element:
        """The root element of an XML file without a document type, which is where its attacks live."""
        content = self.read(file)
        try:
            if b"<!DOCTYPE" in content:
                raise self.error(file, "a document type", "plain XML")
            return ET.fromstring(content)  # noqa: S314 (no document type: no entities)
        except ET.ParseError as error:
            raise self.error(file, error, "XML") from error

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly below one, in byte order."""
        self._check_folder(folder)
        return sorted((e.name for e in entries(str(self.root / folder)) if e.is_dir()), key=os.fsencode)

    def images(self, folder: str) -> list[str]:
        """The images anywhere below a folder, relative to the root, in byte order."""
        self._check_folder(folder)
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        return sorted(images_below(str(self.root / folder), prefix), key=os.fsencode)

    def _check_folder(self, folder: str) -> None:
        if (self.root / folder).is_file():
            raise self.error(folder, "a file", "a folder")
        if not (self.root / folder).is_dir():
            raise self.gone(f"{folder.rstrip('/')}/")
