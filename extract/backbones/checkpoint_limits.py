"""What a checkpoint file may hold, checked before and after it is decoded: never much more than its own bytes.

``torch.load(weights_only=True)`` runs nothing, and yet a few kilobytes can make it fill the memory: members of the
archive that were deflated, a ``bytearray`` of any length, millions of empty containers, a tensor of one repeated value.
"""

from __future__ import annotations

import contextlib
import io
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

__all__ = ["check_file", "check_tensors", "keys_of"]

MAX_OPERATIONS: Final = 2_000_000
"""Of pickles: a network of a thousand tensors with its optimiser's state needs a tenth."""
MAX_HEADER: Final = 16 << 20
"""Bytes of a safetensors header, which lists the tensors."""
SHARED: Final = 8
"""How often all of a file's bytes may be used: tensors may share them, or repeat a value along an axis."""
SMALL: Final = 64 << 20
"""Bytes of tensors that no file is too small for."""
LEGACY_PICKLES: Final = 5
REFUSED: Final = "bytearray"


def check_file(data: bytes, *, safetensors: bool) -> None:
    """Refuses what would take more memory than its bytes account for.

    Args:
        data: of a ``.safetensors`` file, or one that ``torch.save`` wrote.
        safetensors: which.

    Raises:
        ValueError: it would.
    """
    if safetensors:
        if (length := int.from_bytes(data[:8], "little")) > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes, more than {MAX_HEADER}")
    elif data.startswith(b"PK\3\4"):
        _check_archive(data)
    else:
        stream = io.BytesIO(data)
        for _ in range(LEGACY_PICKLES):
            if stream.tell() < len(data):
                _check_pickle(stream)


def _check_archive(data: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            deflated = next((member for member in members if member.compress_type != zipfile.ZIP_STORED), None)
            if deflated is not None:
                raise ValueError(f"the compressed member {deflated.filename!r}, which torch.save never writes")
            if sum(member.file_size for member in members) > len(data):
                raise ValueError("members of more bytes than the file has")
            for member in members:
                if member.filename.endswith("/data.pkl"):
                    _check_pickle(io.BytesIO(archive.read(member)))
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"a damaged archive: {error}") from error


def _check_pickle(stream: io.BytesIO) -> None:
    for count, (_, argument, _) in enumerate(pickletools.genops(stream)):
        if count > MAX_OPERATIONS:
            raise ValueError(f"a pickle of more than {MAX_OPERATIONS:,} operations")
        if isinstance(argument, str) and REFUSED in argument and argument.split()[-1] == REFUSED:
            raise ValueError("a bytearray, which may be of any length")


def keys_of(data: bytes) -> list[str]:
    """The keys of the dict that ``torch.save`` wrote into a file, without reading any of its values.

    Args:
        data: of a file that `check_file` has passed.
    """
    with contextlib.suppress(ValueError, IndexError, KeyError, zipfile.BadZipFile):
        if not data.startswith(b"PK\3\4"):
            return []
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return list(dict.fromkeys(_keys(archive.read(member))))
    return []


def _keys(pickled: bytes) -> Iterator[str]:
    """Of the outermost dict; the machine's stack holds marks, the texts, and None for everything else."""
    mark = pickletools.markobject
    stack: list[object] = []
    memo: dict[object, object] = {}
    for operation, argument, _ in pickletools.genops(pickled):
        before, name = operation.stack_before, operation.name
        if name in {"BINPUT", "LONG_BINPUT"}:
            memo[argument] = stack[-1]
        taken: list[object] = []
        if mark in before:
            while (top := stack.pop()) is not mark:
                taken.append(top)
            before = before[: before.index(mark)]
        taken += [stack.pop() for _ in before]
        if name in {"SETITEM", "SETITEMS"} and not stack:
            yield from (key for key in taken[-2::-2] if isinstance(key, str))
        known = memo.get(argument) if name in {"BINGET", "LONG_BINGET"} else argument
        text = known if isinstance(known, str) and name != "GLOBAL" else None
        stack += [mark if thing is mark else text for thing in operation.stack_after]


def check_tensors(tensors: Mapping[str, torch.Tensor], nbytes: int) -> None:
    """Refuses tensors that stand for many more values than there are bytes.

    Args:
        tensors: by name.
        nbytes: of the file.

    Raises:
        ValueError: one is not dense and in memory, or together they have more than eight times the file's bytes.
    """
    import torch

    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError(f"{name!r} as a {tensor.layout} tensor on {tensor.device}, not a dense one")
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > SHARED * nbytes + SMALL:
        raise ValueError(f"tensors of {total} bytes in a file of {nbytes}")
