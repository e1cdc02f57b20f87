"""Files of strangers, read within bounds: regular ones only, none too large, one clear error for whatever is wrong.

A name may lead to a pipe that never answers, to a device that never ends, or through ``..`` to what nobody meant.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, Final

from featurebank.extract.errors import DatasetError, ExtractError
from featurebank.extract.opening import open_regular
from featurebank.store.errors import UnknownNameError

IMAGE_BYTES: Final = 1 << 29
"""The largest encoded image: one of 178 million pixels without any compression."""
LIST_BYTES: Final = 1 << 30
"""The largest list, table, or file of labels."""
JSON_BYTES: Final = 1 << 29
"""The largest JSON file; COCO's is 448 MB, and what Python makes of it many times as much."""
XML_BYTES: Final = 1 << 24
XML_DEPTH: Final = 64
REASON_CHARACTERS: Final = 300
KINDS_NAMED: Final = 8


def read_within(file: io.FileIO, limit: int = IMAGE_BYTES) -> bytes:
    """The rest of a file.

    Raises:
        OSError: it has more than ``limit`` bytes, whatever it said of its size.
    """
    expected = os.fstat(file.fileno()).st_size
    content = file.read(expected + 1) or b""
    if len(content) <= expected:
        return content
    parts = [content]
    while part := file.read(1 << 20):
        parts.append(part)
        if sum(map(len, parts)) > limit:
            raise OSError(errno.EFBIG, f"has more than {limit:,} bytes")
    return b"".join(parts)


def read_file(path: str | os.PathLike[str], limit: int = IMAGE_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: as `open_regular` and `read_within`.
    """
    with open_regular(path, limit) as file:
        return read_within(file, limit)


def unpack_gzip(content: bytes, limit: int) -> bytes:
    """What a gzip file holds.

    Raises:
        OSError, EOFError, zlib.error: it is damaged, cut short, or unpacks to more than ``limit`` bytes.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        unpacked = file.read(limit + 1)
    if len(unpacked) > limit:
        raise OSError(errno.EFBIG, f"unpacks to more than {limit:,} bytes")
    return unpacked


def parse_json(content: bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is damaged, or larger or nested deeper than any list of images.
    """
    if len(content) > JSON_BYTES:
        raise ValueError(f"{len(content):,} bytes, more than {JSON_BYTES:,}")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("lists nested too deep") from None


def parse_xml(content: bytes) -> Any:
    """The root element of plain XML, as ``xml.etree.ElementTree`` has it.

    A document type, where entities and their bombs are declared, is refused by the parser itself, which knows it in
    every encoding.

    Raises:
        ValueError: it is damaged, has a document type, or is larger or nested deeper than any annotation.
    """
    import xml.etree.ElementTree as ET
    from xml.parsers import expat

    if len(content) > XML_BYTES:
        raise ValueError(f"{len(content):,} bytes, more than {XML_BYTES:,}")
    builder, depth = ET.TreeBuilder(), 0

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > XML_DEPTH:
            raise ValueError(f"elements nested deeper than {XML_DEPTH}")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
    return builder.close()


@contextmanager
def reading(place: object, expected: str, advice: str = "") -> Iterator[None]:
    """Makes one `DatasetError` of whatever goes wrong with a file or dataset: parsers raise nearly every exception.

    Args:
        place: names it.
        expected: what it should be.
        advice: what to do.
    """
    try:
        yield
    except (ExtractError, UnknownNameError, ImportError):
        raise
    except Exception as error:
        raise DatasetError(
            f"{place}: expected {expected}, found: {reason(error)}" + (f"; {advice}" if advice else "")
        ) from error


def reason(error: BaseException) -> str:
    """What an exception says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")[:REASON_CHARACTERS]
    built_in = isinstance(error, (LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, RuntimeError))
    return f"{type(error).__name__}: {line}".removesuffix(": ") if built_in or not line else line


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: names of files that are none hold lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_inside(name: str) -> bool:
    """Whether a path from a list stays below the folder that it is relative to.

    >>> is_inside("a/1.jpg"), is_inside("../1.jpg"), is_inside("/etc/passwd"), is_inside("")
    (True, False, False, False)
    """
    return bool(name) and not name.startswith("/") and ".." not in PurePosixPath(name).parts and "\0" not in name


def check_inside(place: object, files: Sequence[str]) -> None:
    """Refuses a list that names a file outside its folder.

    Raises:
        DatasetError: which.
    """
    # One look at one long string: a million separate ones take a second.
    joined = "\n".join(files)
    if ".." not in joined and "\0" not in joined and "\n/" not in f"\n{joined}" and "" not in files:
        return
    if bad := [name for name in files if not is_inside(name)]:
        raise DatasetError(
            f"{place}: paths must lie below the folder that they are relative to, without '..' and not absolute, found "
            f"{len(bad)} others: {', '.join(ascii(name) for name in bad[:5])}{', …' if len(bad) > 5 else ''}"
        )


def passed_over(suffixes: Mapping[str, int] | Iterable[str], noun: str = "file") -> list[str]:
    """A note on what lies beside the images and is none, by suffix; none where there is nothing.

    >>> passed_over([".heic", ".heic", ""])
    ['3 files passed over: .heic 2, (none) 1']
    """
    counts = sorted(Counter(suffixes).items(), key=lambda item: (-item[1], item[0]))
    if not counts:
        return []
    n = sum(count for _, count in counts)
    named = [f"{_plain(suffix)} {count:,}" for suffix, count in counts[:KINDS_NAMED]]
    more = [f"others {sum(count for _, count in counts[KINDS_NAMED:]):,}"] if len(counts) > KINDS_NAMED else []
    return [f"{n:,} {noun}{'' if n == 1 else 's'} passed over: {', '.join(named + more)}"]


def _plain(suffix: str) -> str:
    if not suffix:
        return "(none)"
    return suffix[:20] if suffix.isprintable() and suffix.isascii() else shown(suffix)


def shown(text: str) -> str:
    """A text of a stranger's, quoted and cut, so that no terminal obeys it.

    >>> shown("a" * 100)[-4:]
    "aa…'"
    """
    return ascii(text[:60]) if len(text) <= 60 else f"{ascii(text[:60])[:-1]}…'"
