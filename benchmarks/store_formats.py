"""200,000 x 768 float16 in seven formats, with Lance and Vortex nine: writing, reading, random rows, opening, damage.

- In reading all, random rows and opening, ours is first or within 10 % of the first.
- In writing it is the first among the formats that notice a flipped byte.

Each file is synced after writing and in the page cache when read; each format is read as its own library offers. Random
rows are read as a loop reads them: in each turn as many draws as take about 50 ms, at least one; told is one draw.

A byte in the middle of the values is flipped: either reading says so, or other numbers come back without a word. Ours
is read with ``verify="first_touch"`` there, and with the default, which leaves values to ``verify``, in the timings;
the line ``read_all_verified`` is for the former. Opening checks, in our format alone, the digest of all that is no
output or record (here 90 kB) and the key's fingerprint. Lance and Vortex are measured where they are installed
(``pip install pylance vortex-data``). Needs about 3 GB under --dir.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import zarr
from harness import alternate, report, table
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from zarr.codecs import Crc32cCodec

from featurebank.store import FeatureSet, FeatureSetWriter, Output, Records

DIMENSIONS, ROWS_AT_ONCE, CHUNK = 768, 1024, 1024
DRAWS, TURN_SECONDS = 300, 0.05
Values = NDArray[Any]


@dataclass(frozen=True)
class Format:
    """How a format is written, opened and read; ``guarded`` reads so that damage is noticed."""

    write: Callable[[Path, Values], None]
    open: Callable[[Path], Any]
    everything: Callable[[Path], Values]
    rows: Callable[[Any, NDArray[np.intp]], Values]
    close: Callable[[Any], object] = lambda opened: opened.close() if hasattr(opened, "close") else None
    guarded: Callable[[Path], Values] | None = None


@functools.cache
def records_of(n: int) -> Records:
    return Records(
        ids=[f"{row:08}" for row in range(n)], labels=np.arange(n) % 10, content_hash=np.zeros((n, 16), np.uint8)
    )


def write_ours(path: Path, values: Values) -> None:
    n, records = len(values), records_of(len(values))
    output = Output(name="pooled", shape=values.shape[1:])
    with FeatureSetWriter.create(path, key={}, outputs=[output], records=records) as writer:
        rows = writer.chunk_rows("pooled")
        for index in range(writer.n_chunks("pooled")):
            writer.write_chunk("pooled", index, values[index * rows : (index + 1) * rows])
        writer.mark_ok(0, n)
        writer.seal().close()


def read_ours(path: Path, verify: Any = "header") -> Values:
    with FeatureSet(path, verify) as fs:
        return fs.load("pooled")


def hdf5(**settings: Any) -> Format:
    def write(path: Path, values: Values) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("pooled", data=values, chunks=(min(CHUNK, len(values)), values.shape[1]), **settings)

    def everything(path: Path) -> Values:
        with h5py.File(path, "r") as file:
            return np.asarray(file["pooled"][:])

    return Format(write, lambda path: h5py.File(path, "r"), everything, lambda file, rows: file["pooled"][rows])


def write_zarr(path: Path, values: Values) -> None:
    array = zarr.create_array(
        store=str(path),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(min(CHUNK, len(values)), values.shape[1]),
        compressors=[Crc32cCodec()],
    )
    array[:] = values


def open_zarr(path: Path) -> Any:
    return zarr.open_array(store=str(path), mode="r")


def _column(values: Values) -> Any:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.table({"pooled": rows})


def write_parquet(path: Path, values: Values) -> None:
    pq.write_table(
        _column(values), path, row_group_size=CHUNK * 16, compression="none", use_dictionary=False,
        write_page_checksum=True,
    )  # fmt: skip


def parquet_rows(file: Any, rows: NDArray[np.intp]) -> Values:
    return _matrix(file.read(columns=["pooled"])["pooled"].combine_chunks().take(pa.array(rows)))


def read_parquet(path: Path) -> Values:
    return _matrix(pq.read_table(path, page_checksum_verification=True)["pooled"].combine_chunks())


def _matrix(column: Any) -> Values:
    return np.array(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(column), -1)


def safetensors_rows(file: Any, rows: NDArray[np.intp]) -> Values:
    part = file.get_slice("pooled")
    return np.concatenate([part[row : row + 1] for row in rows.tolist()])


def new_formats() -> dict[str, Format]:
    """Lance and Vortex, which keep a matrix as a column of lists; empty where they are not installed."""
    formats = {}
    if importlib.util.find_spec("lance"):
        lance = importlib.import_module("lance")
        formats["lance"] = Format(
            lambda path, values: lance.write_dataset(_column(values), path, mode="overwrite"),
            lance.dataset,
            lambda path: _matrix(lance.dataset(path).to_table()["pooled"].combine_chunks()),
            lambda dataset, rows: _matrix(dataset.take(rows)["pooled"].combine_chunks()),
        )
    if importlib.util.find_spec("vortex"):
        vortex = importlib.import_module("vortex")

        def rows_of(scan: Any) -> Values:
            return _matrix(pa.Table.from_batches(scan.to_arrow())["pooled"].combine_chunks())

        formats["vortex"] = Format(
            lambda path, values: vortex.io.write(vortex.array(_column(values)), str(path)),
            lambda path: vortex.open(str(path)),
            lambda path: rows_of(vortex.open(str(path)).scan()),
            lambda file, rows: rows_of(file.scan(indices=vortex.array(pa.array(rows, pa.uint64())))),
        )
    return formats


FORMATS = {
    "ours": Format(
        write_ours,
        FeatureSet,
        read_ours,
        lambda fs, rows: fs.load("pooled", rows),
        guarded=lambda path: read_ours(path, "first_touch"),
    ),
    "h5py": hdf5(),
    "h5py fletcher32": hdf5(fletcher32=True),
    "zarr 3 crc32c": Format(
        write_zarr, open_zarr, lambda path: np.asarray(open_zarr(path)[:]), lambda array, rows: array.oindex[rows]
    ),
    "parquet crc": Format(write_parquet, pq.ParquetFile, read_parquet, parquet_rows),
    "safetensors": Format(
        lambda path, values: save_file({"pooled": values}, path),
        lambda path: safe_open(path, "np"),
        lambda path: load_file(path)["pooled"],
        safetensors_rows,
    ),
    **new_formats(),
    "np.save": Format(
        lambda path, values: np.save(path, values, allow_pickle=False),
        lambda path: np.load(path, mmap_mode="r"),
        np.load,
        lambda array, rows: array[rows],
    ),
}
NAMES = {
    "ours": "a.h5",
    "vortex": "a.vortex",
    "parquet crc": "a.parquet",
    "safetensors": "a.safetensors",
    "np.save": "a.npy",
}


def files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def written(form: Format, path: Path, values: Values) -> Callable[[], None]:
    def write() -> None:
        remove(path)
        form.write(path, values)
        for file in files(path):
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

    return write


def gather(form: Format, opened: Any, draws: list[NDArray[np.intp]]) -> tuple[Callable[[], object], int]:
    """One turn of reading, and of how many draws it is."""
    turns = itertools.cycle(draws)

    def read(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            form.rows(opened, next(turns))
        return time.perf_counter() - started

    count = max(1, int(TURN_SECONDS / min(read(1) for _ in range(3))))
    return partial(read, count), count


def beginning(form: Format, path: Path) -> Callable[[], object]:
    return lambda: form.close(form.open(path))


def flipped(form: Format, path: Path, values: Values) -> str:
    """What a flipped byte in the middle of the values does to reading everything."""
    file = max(files(path), key=lambda file: (file.stat().st_size, file.as_posix()))
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        (byte,) = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 0x40]))
    try:
        same = np.array_equal((form.guarded or form.everything)(path), values)
    except Exception as error:
        return f"found ({type(error).__name__})"
    return "harmless" if same else "other numbers, silently"


def middle(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare(name: str, took: dict[str, float], bound: str) -> None:
    best = min((other for other in took if other != "ours"), key=lambda other: took[other])
    report(name, ours=took["ours"], reference=took[best], unit="s", bound=bound, first_of_the_others=best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure; else the system's temporary one")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    values = np.random.default_rng(0).standard_normal((args.rows, DIMENSIONS), np.float32).astype(np.float16)
    generator = np.random.default_rng(1)
    draws = [np.sort(generator.choice(args.rows, ROWS_AT_ONCE, replace=False)) for _ in range(DRAWS)]
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        paths = {name: Path(folder) / NAMES.get(name, name.replace(" ", "-")) for name in FORMATS}
        writing = alternate(
            {name: written(form, paths[name], values) for name, form in FORMATS.items()}, repeats=args.repeats
        )
        for name, form in FORMATS.items():
            np.testing.assert_array_equal(form.everything(paths[name]), values)
        reading = alternate(
            {
                **{name: partial(form.everything, paths[name]) for name, form in FORMATS.items()},
                "ours verified": lambda: read_ours(paths["ours"], "first_touch"),
            },
            repeats=args.repeats,
        )
        opened = {name: form.open(paths[name]) for name, form in FORMATS.items()}
        turns = {name: gather(form, opened[name], draws) for name, form in FORMATS.items()}
        seconds = alternate({name: turn for name, (turn, _) in turns.items()}, repeats=args.repeats)
        gathering = {name: [took / turns[name][1] for took in values] for name, values in seconds.items()}
        for name, form in FORMATS.items():
            form.close(opened[name])
        opening = alternate(
            {name: beginning(form, paths[name]) for name, form in FORMATS.items()},
            repeats=args.repeats * 8,
        )
        sizes = {name: f"{sum(file.stat().st_size for file in files(path)):,} bytes" for name, path in paths.items()}
        flips = {name: flipped(form, paths[name], values) for name, form in FORMATS.items()}
    table(f"writing {args.rows} x {DIMENSIONS} float16, synced", writing, sizes)
    table("reading all", reading, flips)
    table(f"{ROWS_AT_ONCE} random rows", gathering, {name: f"{n} draws a turn" for name, (_, n) in turns.items()})
    table("opening", opening)
    noticing = {name: seconds for name, seconds in middle(writing).items() if flips[name].startswith("found")}
    compare("formats_write", noticing, "ratio <= 1, among the formats that notice a flipped byte")
    took = middle(reading)
    verified = took.pop("ours verified")
    compare("formats_read_all", took, "ratio <= 1.1")
    compare("formats_read_all_verified", {**took, "ours": verified}, "told, not bounded")
    compare("formats_random_rows", middle(gathering), "ratio <= 1.1")
    compare("formats_open", middle(opening), "ratio <= 1.1")


if __name__ == "__main__":
    main()
