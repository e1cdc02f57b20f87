"""Everything that a stranger may hand us, each with a small good example to begin with and what reads it."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fuzz_datasets import listings
from fuzzing import Refusals, Target, mutate
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.backbones.checkpoint import decode as decode_checkpoint
from featurebank.extract.decode import decode as decode_image
from featurebank.extract.errors import ExtractError
from featurebank.extract.pickles import read_pickle
from featurebank.extract.preprocessing import Decode
from featurebank.pipelines.asking.results import Computed, Results, Row
from featurebank.store import FeatureSet, FeatureStore, StoreError

# The tests' own small files, which have every kind of array, and the official layouts of datasets.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from feature_sets import make_sealed
from resealing import reseal, with_table

__all__ = ["read_everything", "read_values", "sealed_files", "targets"]


def sealed_files(folder: Path) -> list[Path]:
    """A small sealed file and its packed copy, in a store of their own each, so that `ls` can find them."""
    plain = folder / "demo.h5"
    with make_sealed(plain) as fs:
        fs.pack(folder / "packed.h5").close()
    return [plain, folder / "packed.h5"]


def read_values(fs: FeatureSet) -> None:
    with fs:
        _ = (fs.ids, fs.labels, fs.columns, fs.reasons, fs.head, fs.content_hash, repr(fs), fs.class_names, fs.manifest)
        for name in fs.outputs:
            fs[name].max()


def read_everything(path: Path) -> None:
    read_values(FeatureSet(path))
    with FeatureSet(path) as fs:
        fs.verify()


def targets(folder: Path) -> Iterator[Target]:
    """All of them; their files lie in a folder."""
    for place, path in enumerate(sealed_files(folder)):
        yield from _sealed(folder / f"read{place}.h5", path)
    yield _store(folder / "store", folder / "demo.h5")
    yield _bytes(folder / "pickle", _pickles(), _read_pickle, (ValueError,), share=4)
    yield _bytes(folder / "image", _images(), _read_image, (ExtractError,), share=3)
    for suffix, data in _checkpoints().items():
        yield _bytes(folder / f"checkpoint{suffix}", [data], _read_checkpoint, (ExtractError,), share=2)
    yield from listings(folder / "listings")
    yield _results(folder / "answers")


def _read_pickle(path: Path) -> None:
    read_pickle(path.read_bytes())


def _read_image(path: Path) -> None:
    decode_image(path.read_bytes(), Decode())


def _read_checkpoint(path: Path) -> None:
    decode_checkpoint(path.read_bytes(), path)


def _bytes(
    path: Path, examples: Sequence[bytes], read: Callable[[Path], None], refusals: Refusals, share: int
) -> Target:
    read_it = partial(read, path)
    return Target(
        name=path.name, examples=examples, write=path.write_bytes, read=read_it, refusals=refusals, share=share
    )


def _sealed(path: Path, example: Path) -> Iterator[Target]:
    """A feature set with damage anywhere, and with damage that every digest then agrees to."""
    original = example.read_bytes()
    kind = example.stem

    def target(name: str, share: int, mutant: Callable[[np.random.Generator], bytes] | None = None) -> Target:
        return Target(
            name=f"{kind}, {name}",
            examples=[original],
            write=path.write_bytes,
            read=lambda: read_everything(path),
            refusals=(StoreError,),
            mutant=mutant,
            share=share,
            batch=5,
        )

    def agreed(places: NDArray[np.intp], change_table: bool = False) -> Callable[[np.random.Generator], bytes]:
        return lambda generator: _resealed(path.with_suffix(".scratch"), original, places, generator, change_table)

    yield target("anywhere", 4)
    yield target("metadata, right digests", 4, agreed(_metadata(example, original)))
    yield target("table, right digests", 4, agreed(np.arange(0), change_table=True))
    yield target("manifest, right digests", 3, agreed(_manifest(original)))
    if kind == "packed":
        yield target("index and chunks, right digests", 4, agreed(_indexes(example)))


def _metadata(path: Path, original: bytes) -> NDArray[np.intp]:
    """The places of HDF5's metadata: what the file digest covers beyond the header, but for our own small arrays."""
    with FeatureSet(path) as fs:
        inside = np.zeros(len(original), np.bool_)
        for first, last in fs.table.covered(len(original), fs.header.packed):
            inside[max(first, 4096) : last] = True
        for array in fs.table.small_arrays():
            inside[array.address : array.end] = False
    return np.flatnonzero(inside & (np.frombuffer(original, np.uint8) != 0))


def _manifest(original: bytes) -> NDArray[np.intp]:
    start = original.index(b'{"', 4096)
    return np.arange(start, start + original[start:].index(b"\0"))


def _indexes(path: Path) -> NDArray[np.intp]:
    with FeatureSet(path) as fs:
        spans = [entry.index for entry in fs.table.outputs if entry.index is not None]
        chunks = [(int(a), int(a + n)) for index in fs.header.indexes.values() for a, n, _ in index.tolist()]
    places = [np.arange(array.address, array.end) for array in spans]
    return np.concatenate([*places * 8, *(np.arange(first, min(last, first + 64)) for first, last in chunks)])


def _resealed(
    path: Path, original: bytes, places: NDArray[np.intp], generator: np.random.Generator, change_table: bool
) -> bytes:
    """Damage with every digest made right again, where the file is still whole enough to have any."""
    data = original if change_table else mutate(original, places, generator, 4)
    path.write_bytes(data)
    try:
        whole = bytearray(data)
        whole[16:24] = len(whole).to_bytes(8, "little")
        path.write_bytes(whole)
        with_table(path, (lambda table: _spoil(table, generator)) if change_table else (lambda _: None))
        reseal(path)
    except Exception:  # noqa: S110 - then it stays as damaged as it is
        pass
    return path.read_bytes()


VALUES: tuple[object, ...] = (
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64,
    10**30,
    4096,
    None,
    "",
    "x" * 300,
    "../x",
    "<f2",
    "|O",
    [],
    {},
    [10**9],
    0.5,
    True,
    "\x1b[31m",
)


def _spoil(value: object, generator: np.random.Generator, most: int = 3) -> None:
    """Some values inside nested dicts and lists replaced, removed or repeated."""
    inner = list(_containers(value))
    for _ in range(int(generator.integers(1, most + 1))):
        container = inner[int(generator.integers(len(inner)))]
        keys: list[str] | range = list(container) if isinstance(container, dict) else range(len(container))
        if not keys:
            continue
        key = keys[int(generator.integers(len(keys)))]
        kind = int(generator.integers(6))
        if kind == 0:
            del container[key]  # type: ignore[arg-type]
        elif kind == 1 and isinstance(container, list):
            container.extend([container[key]] * int(generator.integers(1, 9)))  # type: ignore[index]
        else:
            container[key] = VALUES[int(generator.integers(len(VALUES)))]  # type: ignore[index]


def _containers(value: object) -> Iterator[dict[str, object] | list[object]]:
    if isinstance(value, dict | list):
        yield value
        for inner in list(value.values()) if isinstance(value, dict) else list(value):
            yield from _containers(inner)


def _store(root: Path, example: Path) -> Target:
    """A store in which one entry is damaged: listing it must name the entry and go on with the other."""
    store = FeatureStore(root)
    with FeatureSet(example) as fs:
        path = store.path_for("demo", "test", "tiny/net", fs.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)

    def read() -> None:
        list(FeatureStore(root).ls())
        list(FeatureStore(root).verify())

    original = example.read_bytes()
    return Target(
        name="store with a damaged entry",
        examples=[original],
        write=path.write_bytes,
        read=read,
        refusals=(),
        share=1,
        batch=5,
    )


def _pickles() -> list[bytes]:
    arrays = {
        "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
        b"labels": [1, 2, 3],
        "names": ("a", "é"),
        "none": None,
    }
    truth = {
        "gnd": [{"bbx": [1.5, 2.0], "easy": [1, 2], "hard": np.arange(3.0)} for _ in range(3)],
        "imlist": ["x", "y"],
    }
    texts = {
        "order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 3), ">i4"),
        "one": np.float32(2),
    }
    return [
        pickle.dumps(value, protocol=protocol) for value in (arrays, truth, texts) for protocol in (0, 1, 2, 3, 4, 5)
    ]


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 4), dtype=np.uint8)
    made = []
    for kind, mode in (
        *(("JPEG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "L")),
        *(("WEBP", "RGBA"), ("ICO", "RGBA"), ("PPM", "RGB")),
    ):
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(
            file, format=kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {})
        )
        made.append(file.getvalue())
    return made


def _checkpoints() -> dict[str, bytes]:
    from safetensors.torch import save

    tensors = {f"blocks.{k}.weight": torch.arange(6.0).reshape(2, 3) + k for k in range(3)}
    made = {".safetensors": save(tensors)}
    for suffix, wrapped, new in (
        (".pth", tensors, True),
        (".pt", {"state_dict": tensors, "epoch": 3}, True),
        (".bin", tensors, False),
    ):
        file = io.BytesIO()
        torch.save(wrapped, file, _use_new_zipfile_serialization=new)
        made[suffix] = file.getvalue()
    return made


def _results(root: Path) -> Target:
    """A stranger's answers: read, tabulated, and their arrays loaded."""
    results = Results(root)

    def compute() -> Computed:
        rows = [
            Row(
                question="linear",
                backbone="b",
                train="d/train",
                test="d/test",
                set="d/test",
                metric="accuracy",
                primary=True,
                value=0.5,
                low=0.4,
                high=0.6,
                n=4,
                fingerprints=("ab" * 32,),
                details={"a": 1},
            )
        ]
        arrays = {"predictions": np.arange(4)}
        return Computed(rows=rows, arrays=arrays, notes=["a note"], settings={"b": [2]}, chosen={"C": 1.0})

    results.once("linear", {"C": 1.0}, ["ab" * 32], compute, version=1)
    path = next(root.rglob("*.json"))
    arrays = path.with_suffix(".npz")
    originals = [b"J" + path.read_bytes(), b"N" + arrays.read_bytes()]
    good = {b"J": (path, originals[0][1:]), b"N": (arrays, originals[1][1:])}

    def write(data: bytes) -> None:
        for mark, (place, whole) in good.items():
            place.write_bytes(data[1:] if data[:1] == mark else whole)

    def read() -> None:
        again = Results(root)
        for row in again.rows():
            again.arrays(row)
        again.write_table()

    return Target(name="results", examples=originals, write=write, read=read, refusals=(ValueError,), share=3)
