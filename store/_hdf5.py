"""What HDF5's own library says of a file, asked in a process of its own with bounded memory and time.

A file may come from a stranger, and its digests may be right. Whatever such a file does to HDF5's C parser, it does to
that process alone: the caller gets a `CorruptError`. Where that process had too little memory or time, or was ended by
somebody else, nothing is known of the file: an `UncheckedError`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from featurebank.store.errors import CorruptError, UncheckedError

_SECONDS = 120
# What HDF5 says where malloc gives it nothing.
_NO_MEMORY = ("memory allocation failed", "can't allocate", "unable to allocate", "no space available for allocation")
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_MEMORY = 2 << 30
_MOST_OBJECTS = 10_000
_LONGEST_ATTRIBUTE = 1024
_LONGEST_NAME = 1024


def described(path: Path) -> dict[str, Any]:
    """The objects of an HDF5 file by their path, the root's attributes as ``attributes``; follows no link out of it.

    A dataset is its dtype, shape, chunks, filters (number and parameters) and place: an address, or what `chunk_digest`
    gives. Anything that a store does not hold is described by a sentence.

    Raises:
        CorruptError: HDF5 cannot read the file, or crashes on it.
        UncheckedError: the process could not answer, for want of memory or time, or because somebody ended it.
    """
    import subprocess

    command = [sys.executable, "-P", "-m", "featurebank.store._hdf5", os.path.abspath(path)]  # noqa: PTH100
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, this module
            command, env=environment, capture_output=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise _unchecked(path, f"no answer within {_SECONDS} s") from error
    except OSError as error:
        raise _unchecked(path, f"no process could be started ({error.strerror or error})") from error
    if -done.returncode in _CRASHES:
        raise _damaged(path, f"a crash, {signal.Signals(-done.returncode).name}")
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise _unchecked(path, f"exit status {done.returncode}{''.join(f', {line:.200}' for line in said)}")
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise _damaged(path, "no answer") from error
    if "error" in found:
        raise (_unchecked if found["memory"] else _damaged)(path, found["error"])
    return dict(found["objects"])


def _damaged(path: Path, found: str) -> CorruptError:
    return CorruptError(
        f"{path} is damaged or hostile: HDF5 must be able to read its metadata; found {found}; "
        f"restore it from a copy or extract it again"
    )


def _unchecked(path: Path, why: str) -> UncheckedError:
    return UncheckedError(
        f"{path} could not be checked: HDF5 must read its metadata in another process; found {why}; "
        f"verify it again where there is more memory or time"
    )


def chunk_digest(chunks: NDArray[np.uint64]) -> str:
    """The digest of where the chunks lie: (first row, address, bytes) of each, (chunks, 3), in any order."""
    in_order = chunks[np.argsort(chunks[:, 0], kind="stable")]
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(in_order, "<u8").tobytes())


def _describe(path: str) -> dict[str, Any]:
    import h5py  # type: ignore[import-untyped]

    objects: dict[str, Any] = {}

    def visit(name: str, link: Any) -> bool | None:
        if len(objects) > _MOST_OBJECTS or len(name) > _LONGEST_NAME:
            return True
        if isinstance(link, h5py.HardLink):
            objects[f"/{name}"] = _object(file[name])
        else:
            objects[f"/{name}"] = f"a link of another kind, {type(link).__name__}"
        return None

    with h5py.File(path, "r", locking=False) as file:
        objects["attributes"] = _attributes(file)
        if file.visititems_links(visit):
            raise ValueError(f"more than {_MOST_OBJECTS} objects, or a name of more than {_LONGEST_NAME} characters")
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
        # As plain integers: tuples of a few million chunks would take a gigabyte.
        chunks = array("Q")
        item.id.chunk_iter(lambda info: chunks.extend((info.chunk_offset[0], info.byte_offset, info.size)))
        place = chunk_digest(np.frombuffer(chunks, np.uint64).reshape(-1, 3))
    return [item.dtype.str, list(item.shape), None if item.chunks is None else list(item.chunks), filters, place]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def main() -> None:
    """Prints the description of the file that the first argument names."""
    import resource

    import h5py  # noqa: F401 - before the limits, which are for what the file needs

    own = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    for limit, most in (
        (resource.RLIMIT_AS, own + _MEMORY),
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        # What this process was given may be less already, and only root may raise it.
        given = resource.getrlimit(limit)[1]
        bound = most if given == resource.RLIM_INFINITY else min(most, given)
        resource.setrlimit(limit, (bound, bound))
    try:
        answer: dict[str, Any] = {"objects": _describe(sys.argv[1])}
    except Exception as error:  # whatever HDF5 makes of the file is the answer
        text = f"{type(error).__name__}: {error}"
        short = isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY)
        answer = {"error": text[:400], "memory": short}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
