"""What HDF5's own library says of a file, asked in a process of its own with bounded memory and time.

A file may come from a stranger, and its digests may be right. Whatever such a file does to HDF5's C parser, it does to
that process alone: the caller gets a `CorruptError`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from featurebank.store.errors import CorruptError

__all__ = ["described", "placed"]

_SECONDS = 120
_MEMORY = 2 << 30
_MOST_OBJECTS = 10_000
_LONGEST_ATTRIBUTE = 1024


def described(path: Path) -> dict[str, Any]:
    """The objects of an HDF5 file by their path, the root's attributes as ``attributes``; follows no link out of it.

    A dataset is its dtype, shape, chunks, filters (number and parameters) and place: an address, or what `placed`
    gives. Anything that a store does not hold is described by a sentence.

    Raises:
        CorruptError: HDF5 cannot read the file, fails on it, or needs more memory or time than any feature set does.
    """
    import subprocess

    command = [sys.executable, "-P", "-m", "featurebank.store._hdf5", os.path.abspath(path)]  # noqa: PTH100
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    found: dict[str, Any]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, this module
            command, env=environment, capture_output=True, check=False, timeout=_SECONDS
        )
        found = json.loads(done.stdout) if done.returncode == 0 else {"error": f"exit status {done.returncode}"}
    except subprocess.TimeoutExpired:
        found = {"error": f"no answer within {_SECONDS} s"}
    except ValueError:
        found = {"error": "no answer"}
    if "error" in found:
        raise CorruptError(
            f"{path} is damaged or hostile: HDF5 must be able to read its metadata; found {found['error']}; "
            f"restore it from a copy or extract it again"
        )
    return dict(found["objects"])


def placed(chunks: Iterable[tuple[int, int, int]]) -> str:
    """The digest of where the chunks lie: (first row, address, bytes) of each, in the order of the rows."""
    return xxhash.xxh3_128_hexdigest(np.array(sorted(chunks), "<u8").reshape(-1, 3).tobytes())


def _describe(path: str) -> dict[str, Any]:
    import h5py  # type: ignore[import-untyped]

    objects: dict[str, Any] = {}

    def visit(name: str, link: Any) -> bool | None:
        if len(objects) > _MOST_OBJECTS:
            return True
        if isinstance(link, h5py.HardLink):
            objects[f"/{name}"] = _object(file[name])
        else:
            objects[f"/{name}"] = f"a link of another kind, {type(link).__name__}"
        return None

    with h5py.File(path, "r", locking=False) as file:
        objects["attributes"] = _attributes(file)
        if file.visititems_links(visit):
            raise ValueError(f"more than {_MOST_OBJECTS} objects")
    return objects


def _attributes(file: Any) -> dict[str, Any]:
    from h5py import h5a

    if (count := h5a.get_num_attrs(file.id)) > 2:
        return {"number": count}
    found: dict[str, Any] = {}
    for name in file.attrs:
        attribute = h5a.open(file.id, name.encode())
        if attribute.get_storage_size() > _LONGEST_ATTRIBUTE:
            raise ValueError(f"an attribute of {attribute.get_storage_size()} bytes, {name!r:.40}")
        value = file.attrs[name]
        found[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else np.asarray(value).tolist()
    return found


def _object(item: Any) -> Any:
    import h5py
    from h5py import h5a

    if h5a.get_num_attrs(item.id):
        return "an object with attributes"
    if isinstance(item, h5py.Group):
        return "a group"
    return _dataset(item) if isinstance(item, h5py.Dataset) else f"an object of another kind, {type(item).__name__}"


def _dataset(item: Any) -> Any:
    from h5py import h5d

    created = item.id.get_create_plist()
    if created.get_layout() == h5d.VIRTUAL:
        return "a virtual dataset, whose values lie elsewhere"
    if created.get_external_count():
        return "a dataset with external storage, whose values lie in other files"
    if created.get_layout() not in (h5d.CONTIGUOUS, h5d.CHUNKED):
        return "a dataset that is neither contiguous nor chunked"
    filters = [list(map(_plain, created.get_filter(i)[0:3:2])) for i in range(created.get_nfilters())]
    place: Any = item.id.get_offset()
    if item.chunks is not None:
        chunks: list[tuple[int, int, int]] = []
        item.id.chunk_iter(lambda info: chunks.append((info.chunk_offset[0], info.byte_offset, info.size)))
        place = placed(chunks)
    return [item.dtype.str, list(item.shape), None if item.chunks is None else list(item.chunks), filters, place]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def main() -> None:
    """Prints the description of the file that the first argument names."""
    import resource

    import h5py  # noqa: F401 - before the limits, which are for what the file needs

    own = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + _MEMORY, own + _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer: dict[str, Any] = {"objects": _describe(sys.argv[1])}
    except Exception as error:  # whatever HDF5 makes of the file is the answer
        answer = {"error": f"{type(error).__name__}: {error}"[:400]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
