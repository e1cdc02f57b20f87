"""WebDataset shards: tar files whose members of one stem are one record, ``wds:/data/birds/train-{000..127}.tar``.

Nothing is unpacked: the headers are read once, then each image straight from its place in the shard.
"""

from __future__ import annotations

import glob
import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featurebank.extract.datasets._braces import expand_braces
from featurebank.extract.datasets._folder import EXTENSIONS
from featurebank.extract.datasets._labels import class_index
from featurebank.extract.datasets._reading import (
    IMAGE_BYTES,
    is_inside,
    parse_json,
    passed_over,
    reading,
    shown,
)
from featurebank.extract.datasets._records import ReaderSplit
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError
from featurebank.extract.opening import open_regular
from featurebank.store.errors import unknown_name
from featurebank.store.places import expanded

LABELS = (".cls", ".json")
MAX_LABEL_BYTES = 1 << 20
SHARD_BYTES = 1 << 50
BLOCK = tarfile.BLOCKSIZE
PADDING = 1 << 20
"""How far behind the end marker something is looked for that should not be there."""


class WebDatasetSource:
    """``wds:PATTERN``: shards by braces or wildcards, in one split called ``all``; or a folder of ``<split>-*.tar``.

    A record is an image and, beside it under the same stem, its class index: the number in ``.cls``, or ``label`` (or
    ``cls``) in ``.json``; without either it has no label (-1). Ids are ``<shard>/<stem>``, because stems repeat from
    shard to shard. Records keep the order of the shards, which are sorted, and of the members. A shard must end with
    tar's end marker: without it nobody knows how much was cut off. A note counts the members that are neither.
    """

    prefix = "wds:"

    def names(self) -> Sequence[str]:
        """None: any pattern is a dataset."""
        return ()

    def splits(self, spec_name: str, root: Path | None) -> Sequence[str]:
        """What stands before the number in the shards' names; ``all`` for a pattern."""
        return list(_shards(spec_name.removeprefix(self.prefix), root))

    def open(self, spec: DatasetSpec) -> Split:
        """The records of one split.

        Raises:
            UnknownNameError: no such split.
            DatasetError: shards that are missing, damaged or packed, or records without an image or with two.
        """
        shards = _shards(spec.name.removeprefix(self.prefix), spec.root)
        if spec.split not in shards:
            raise unknown_name(f"split of {spec.name}", spec.split, shards)
        passed: Counter[str] = Counter()
        members = [member for shard in shards[spec.split] for member in _members(shard, passed)]
        labels = np.array([member.label for member in members], np.int64)
        ids = [member.id for member in members]
        notes = [*_gaps(shards[spec.split]), *passed_over(passed, "member")]
        return ReaderSplit(
            spec, ids, labels, notes=notes, read=lambda row: _read(members[row]), reopen=_reopen
        ).subset()


@dataclass(kw_only=True)
class _Member:
    """One record's image: ``size`` bytes of a shard from ``offset``."""

    id: str
    shard: str
    offset: int = -1
    size: int = 0
    label: int = -1
    names: list[str] = field(default_factory=list)


def _read(member: _Member) -> bytes:
    with open_regular(member.shard, SHARD_BYTES) as file:
        content = os.pread(file.fileno(), member.size, member.offset)
    if len(content) != member.size:
        raise OSError(f"{member.shard}: expected {member.size} bytes at {member.offset}, found {len(content)}")
    return content


def _reopen(spec: DatasetSpec) -> Split:
    return WebDatasetSource().open(spec)


def _shards(pattern: str, root: Path | None) -> dict[str, list[Path]]:
    """Split to its shards, in order."""
    path = expanded(pattern) if root is None else expanded(root) / pattern
    if path.is_dir():
        found: dict[str, list[Path]] = {}
        for shard in sorted(path.glob("*.tar")):
            found.setdefault(re.sub(r"[-_.]?\d*$", "", shard.stem) or "all", []).append(shard)
        if not found:
            raise DatasetError(f"{path}: expected shards called <split>-<number>.tar, found none; check the path")
        return found
    names = expand_braces(str(path.absolute()))
    shards = [Path(match) for name in names for match in (sorted(glob.glob(name)) or [name])]  # noqa: PTH207 (absolute)
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise DatasetError(
            f"{pattern}: expected {len(shards)} shards in {path.parent}, {len(missing)} of them missing: "
            f"{', '.join(missing[:10])}{', …' if len(missing) > 10 else ''}; check the pattern"
        )
    return {"all": shards}


def _gaps(shards: Sequence[Path]) -> list[str]:
    """A note on numbers that are missing between those of the shards: whether they should be there nobody says."""
    numbers = [int(found[0]) for shard in shards if (found := re.search(r"\d{1,9}$", shard.stem))]
    lacking = len(set(range(min(numbers), max(numbers) + 1)) - set(numbers)) if len(numbers) == len(shards) > 1 else 0
    return [f"{lacking:,} numbers between those of the {len(shards):,} shards have no shard"] if lacking else []


def _members(shard: Path, passed: Counter[str]) -> Iterator[_Member]:
    """The records of one shard; their members stand next to one another."""
    member = _Member(id="", shard=str(shard))
    with reading(shard, "a tar file that is not packed, whole to its end marker", "unpack it, or fetch it again"):
        for info, content in _headers(shard):
            folder, _, name = info.name.removeprefix("./").rpartition("/")
            stem, _, suffix = name.partition(".")
            if info.isdir() or name.startswith("."):
                continue
            key = f"{shard.stem}/{folder}/{stem}" if folder else f"{shard.stem}/{stem}"
            if key != member.id:
                if member.id:
                    yield _whole(member)
                member = _Member(id=key, shard=str(shard))
            _add(member, info, content, f".{suffix.lower()}", passed)
    if member.id:
        yield _whole(member)


def _headers(shard: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Each member, with its content where that is a label.

    Raises:
        ValueError, tarfile.TarError: the shard is damaged, or something follows or lacks its end marker.
    """
    with open_regular(shard, SHARD_BYTES) as file, tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:
        end = os.fstat(file.fileno()).st_size
        while (info := tar.next()) is not None:
            vars(tar)["members"].clear()  # It keeps every header otherwise.
            if not (0 <= info.size <= end - info.offset_data) or not is_inside(info.name):
                raise ValueError(f"a member {shown(info.name)} of {info.size:,} bytes at {info.offset_data:,}")
            is_label = info.name.lower().endswith(LABELS) and info.size <= MAX_LABEL_BYTES
            yield info, os.pread(file.fileno(), info.size, info.offset_data) if is_label else b""
        if os.pread(file.fileno(), BLOCK, tar.offset) != bytes(BLOCK):
            raise ValueError(f"no end marker at {tar.offset:,}, where a header is cut short or damaged")
        if os.pread(file.fileno(), PADDING, tar.offset).strip(b"\0"):
            raise ValueError(f"something behind the end marker at {tar.offset:,}, as if two shards were one file")


class _Bounded(io.RawIOBase):
    """A file that hands tarfile no more at once than headers have, whatever a header says of itself."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """As a file's, within bounds."""
        if not 0 <= size <= MAX_LABEL_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()


def _add(member: _Member, info: tarfile.TarInfo, content: bytes, suffix: str, passed: Counter[str]) -> None:
    member.names.append(info.name)
    plain = info.isreg() and not info.issparse()
    if suffix in EXTENSIONS and not plain:
        raise DatasetError(
            f"{member.shard}: expected images as plain files, found {shown(info.name)} as a link or holes"
        )
    if suffix in EXTENSIONS and info.size > IMAGE_BYTES:
        raise DatasetError(f"{member.shard}: expected an image in {shown(info.name)}, found {info.size:,} bytes")
    if suffix in EXTENSIONS:
        if member.offset >= 0:
            raise DatasetError(f"{member.shard}: expected one image a record, found {', '.join(member.names)}")
        member.offset, member.size = info.offset_data, info.size
    elif suffix in LABELS and plain:
        label = _label(content, suffix)
        if label is None:
            found = f"{content[:40]!r} of {info.size:,} bytes"
            raise DatasetError(f"{member.shard}: expected a class index from -1 in {info.name}, found {found}")
        member.label = label if suffix == ".cls" or member.label < 0 else member.label
    else:
        passed[suffix.rstrip(".")] += 1


def _label(content: bytes, suffix: str) -> int | None:
    """The class index, -1 where JSON has none, None where it is no whole number from -1 upwards."""
    try:
        value = parse_json(content)
    except ValueError:
        return None
    if suffix == ".json":
        if not isinstance(value, dict):
            return None
        value = value.get("label", value.get("cls", -1))
    return class_index(value)


def _whole(member: _Member) -> _Member:
    if member.offset < 0:
        raise DatasetError(f"{member.shard}: expected an image in each record, found only {', '.join(member.names)}")
    return member
