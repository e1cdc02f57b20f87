"""The folder in which a dataset's official files lie, read with errors that name the file and what was expected."""

from __future__ import annotations

import csv
import io
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from featurebank.extract.datasets._folder import entries, images_below, is_folder, walk_notes
from featurebank.extract.datasets._matlab import read_mat
from featurebank.extract.datasets._reading import (
    LIST_BYTES,
    check_inside,
    parse_json,
    parse_xml,
    read_file,
    reading,
)
from featurebank.extract.errors import DatasetError
from featurebank.extract.pickles import read_pickle


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
        self._passed: Counter[str] = Counter()

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

    def notes(self) -> list[str]:
        """What the folders looked into hold beside images, in words."""
        return walk_notes(self._passed)

    def read(self, file: str) -> bytes:
        """A file's bytes."""
        check_inside(self.name, [file])
        try:
            return read_file(self.root / file, LIST_BYTES)
        except FileNotFoundError:
            raise self.gone(file) from None
        except OSError as error:
            raise self.error(file, error.strerror) from error

    def reading(self, file: str, expected: str) -> AbstractContextManager[None]:
        """Makes an error about a file of whatever goes wrong with its content."""
        return reading(self.name, f"{expected} at {self.root / file}", self.advice)

    def lines(self, file: str) -> list[str]:
        """A text file's lines that are not blank, without white space around them."""
        content = self.read(file)
        with self.reading(file, "UTF-8 text"):
            text = content.decode("utf-8-sig")
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
        content = self.read(file)
        with self.reading(file, "a CSV table"):
            reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
            header = next(reader, [])
            if lacking := [name for name in columns if name not in header]:
                raise self.error(file, ", ".join(header) or "none", f"the columns {', '.join(lacking)}")
            places = [header.index(name) for name in columns]
            rows = []
            for row in reader:
                if len(row) == len(header):
                    rows.append(tuple([row[place] for place in places]))
                elif row:
                    raise self.error(file, f"{len(row)} in line {reader.line_num}", f"{len(header)} fields a line")
        return iter(rows)

    def json(self, file: str, *keys: str) -> Any:
        """What a JSON file holds: an object with at least these keys, where any are named."""
        content = self.read(file)
        with self.reading(file, "JSON"):
            value = parse_json(content)
        if keys and not (isinstance(value, dict) and set(keys) <= value.keys()):
            raise self.error(file, ", ".join(value) if isinstance(value, dict) else type(value).__name__, str(keys))
        return value

    def mat(self, file: str, *keys: str) -> dict[str, Any]:
        """The variables of a MATLAB file, structures as dicts; these must be among them."""
        content = self.read(file)
        with self.reading(file, "a MATLAB file"):
            value = read_mat(content)
        if lacking := [key for key in keys if key not in value]:
            raise self.error(file, ", ".join(map(ascii, value)) or "none", ", ".join(lacking))
        return value

    def pickled(self, file: str, *keys: str) -> dict[str, Any]:
        """The dict in a pickle of arrays and plain values; nothing else in it is ever run."""
        content = self.read(file)
        with self.reading(file, "a pickle of arrays and plain values"):
            value = read_pickle(content)
        if not isinstance(value, dict) or not set(keys) <= value.keys():
            raise self.error(file, type(value).__name__, f"a dict with {', '.join(keys)}")
        return value

    def xml(self, file: str) -> ET.Element:
        """The root element of an XML file without a document type, which is where its attacks live."""
        content = self.read(file)
        with self.reading(file, "plain XML"):
            root: ET.Element = parse_xml(content)
        return root

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly below one, in byte order."""
        self._check_folder(folder)
        return sorted((e.name for e in entries(str(self.root / folder)) if is_folder(e)), key=os.fsencode)

    def images(self, folder: str) -> list[str]:
        """The images anywhere below a folder, relative to the root, in byte order."""
        self._check_folder(folder)
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        return sorted(images_below(str(self.root / folder), prefix, self._passed), key=os.fsencode)

    def _check_folder(self, folder: str) -> None:
        check_inside(self.name, [folder] if folder else [])
        if (self.root / folder).is_file():
            raise self.error(folder, "a file", "a folder")
        if not (self.root / folder).is_dir():
            raise self.gone(f"{folder.rstrip('/')}/")
