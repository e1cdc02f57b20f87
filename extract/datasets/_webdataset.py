"""WebDataset shards: tar files whose members of one stem are one record, ``wds:/data/birds/train-{000..127}.tar``.

Nothing is unpacked: the headers are read once, then each image straight from its place in the shard.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featurebank.extract.datasets._braces import expand_braces
from featurebank.extract.datasets._folder import EXTENSIONS
from featurebank.extract.datasets._records import ReaderSplit
from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.errors import DatasetError, nearest

__all__ = ["WebDatasetSource"]

LABELS = (".cls", ".json")
MAX_LABEL_BYTES = 1 << 20


class WebDatasetSource:
    """``wds:PATTERN``: shards by braces or wildcards, in one split called ``all``; or a folder of ``<split>-*.tar``.

    A record is an image and, beside it under the same stem, its class index: the number in ``.cls``, or ``label`` (or
    ``cls``) in ``.json``; without either it has no label (-1). Ids are ``<shard>/<stem>``, because stems repeat from
    shard to shard. Records keep the order of the shards, which are sorted, and of the members.
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
            raise nearest(f"split of {spec.name}", spec.split, shards)
        members = [member for shard in shards[spec.split] for member in _members(shard)]
        labels = np.array([member.label for member in members], np.int64)
        ids = [member.id for member in members]
        return ReaderSplit(spec, ids, labels, read=lambda row: _read(members[row]), reopen=_reopen).subset()


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
    with open(member.shard, "rb", buffering=0) as file:  # noqa: PTH123 (called a million times)
        content = os.pread(file.fileno(), member.size, member.offset)
    if len(content) != member.size:
        raise OSError(f"{member.shard}: expected {member.size} bytes at {member.offset}, found {len(content)}")
    return content


def _reopen(spec: DatasetSpec) -> Split:
    return WebDatasetSource().open(spec)


def _shards(pattern: str, root: Path | None) -> dict[str, list[Path]]:
    """Split to its shards, in order."""
    path = Path(pattern).expanduser() if root is None else root / pattern
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


def _members(shard: Path) -> Iterator[_Member]:
    """The records of one shard; their members stand next to one another."""
    member = _Member(id="", shard=str(shard))
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                folder, _, name = info.name.removeprefix("./").rpartition("/")
                stem, _, suffix = name.partition(".")
                if not info.isreg() or name.startswith("."):
                    continue
                key = f"{shard.stem}/{folder}/{stem}" if folder else f"{shard.stem}/{stem}"
                if key != member.id:
                    if member.id:
                        yield _whole(member)
                    member = _Member(id=key, shard=str(shard))
                _add(member, tar, info, f".{suffix.lower()}")
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(f"{shard}: expected a tar file that is not packed, found: {error}; unpack it") from error
    if member.id:
        yield _whole(member)


def _add(member: _Member, tar: tarfile.TarFile, info: tarfile.TarInfo, suffix: str) -> None:
    member.names.append(info.name)
    if suffix in EXTENSIONS:
        if member.offset >= 0:
            raise DatasetError(f"{member.shard}: expected one image a record, found {', '.join(member.names)}")
        member.offset, member.size = info.offset_data, info.size
    elif suffix in LABELS:
        content = tar.extractfile(info)
        text = b"" if content is None else content.read(MAX_LABEL_BYTES)
        label = _label(text, suffix)
        if label is None:
            raise DatasetError(f"{member.shard}: expected a class index from -1 in {info.name}, found {text[:40]!r}")
        member.label = label if suffix == ".cls" or member.label < 0 else member.label


def _label(content: bytes, suffix: str) -> int | None:
    """The class index, -1 where JSON has none, None where it is no whole number from -1 upwards."""
    try:
        value = json.loads(content)
    except ValueError:
        return None
    if suffix == ".json":
        if not isinstance(value, dict):
            return None
        value = value.get("label", value.get("cls", -1))
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= -1 else None


def _whole(member: _Member) -> _Member:
    if member.offset < 0:
        raise DatasetError(f"{member.shard}: expected an image in each record, found only {', '.join(member.names)}")
    return member
