"""Tables of Arrow and Parquet files whose rows are read one at a time.

Arrow files are mapped; of Parquet files the row groups last used are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from featurebank.extract.datasets._reading import reading
from featurebank.extract.opening import open_regular

ROW_GROUPS_KEPT = 4
ROWS = 1 << 26
FEW_ROWS = 1 << 20
ROWS_PER_BYTE = 16
"""A file of more rows than these for its size repeats one value without end."""
LARGEST = 1 << 50
COLUMN_BYTES = 1 << 30
"""What a column of numbers or texts of one file unpacks to."""
GROUP_BYTES = 1 << 32
"""What a row group of images unpacks to."""
BATCH = 4096
END = bytes.fromhex("ffffffff00000000")
"""What a stream of Arrow's ends with. Its reader takes a stream cut between two batches for a whole one."""


class Table(Protocol):
    """Files with one schema, one after another.

    Attributes:
        schema: pyarrow's schema.
    """

    schema: Any

    def __len__(self) -> int: ...

    def column(self, name: str) -> Any:
        """A whole column, as pyarrow's chunked array."""
        ...

    def cell(self, name: str, row: int) -> Any:
        """One value, as Python has it. Safe in threads."""
        ...


def open_table(files: Sequence[Path]) -> Table:
    """The table of some Arrow or Parquet files.

    Raises:
        DatasetError: a file is missing, damaged, or has another schema than the first.
    """
    place = files[0] if len(files) == 1 else files[0].parent
    with reading(place, "Arrow or Parquet files of one schema", "save the dataset again"):
        for file in files:
            open_regular(file, LARGEST).close()  # Arrow would wait for a pipe.
        table = _ParquetTable(files) if files[0].suffix == ".parquet" else _ArrowTable(files)
        check_rows(len(table), sum(file.stat().st_size for file in files))
        return table


def check_rows(rows: int, size: int) -> None:
    """Refuses files that have more rows than files of their size.

    Raises:
        ValueError: they have.
    """
    most = min(ROWS, max(FEW_ROWS, ROWS_PER_BYTE * size))
    if rows > most:
        raise ValueError(f"{rows:,} rows in {size:,} bytes, more than {most:,}")


def read_parquet(content: Any, limit: int, columns: Sequence[str] | None = None, group: int | None = None) -> Any:
    """An open Parquet file, or some columns or one row group of it, as a table.

    A value that is written once may stand in every row, so sizes are known only when they have been unpacked.

    Raises:
        ValueError: they unpack to more than ``limit`` bytes.
    """
    import pyarrow as pa  # type: ignore[import-untyped]

    batches, size = [], 0
    for batch in content.iter_batches(BATCH, columns=columns, row_groups=None if group is None else [group]):
        whole = [part.dictionary_decode() if pa.types.is_dictionary(part.type) else part for part in batch.columns]
        batches.append(pa.RecordBatch.from_arrays(whole, batch.schema.names))
        size += batches[-1].nbytes
        if size > limit:
            raise ValueError(f"columns that unpack to more than {limit:,} bytes")
    return pa.Table.from_batches(batches, batches[0].schema if batches else content.schema_arrow)


class _ArrowTable:
    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow as pa

        for file in files:
            with file.open("rb") as content:
                content.seek(max(0, file.stat().st_size - len(END)))
                if content.read() != END:
                    raise ValueError(f"{file.name} is cut short: it has no end marker")
        self._table = pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(file), "r")).read_all() for file in files])
        self.schema = self._table.schema

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def column(self, name: str) -> Any:
        return self._table.column(name)

    def cell(self, name: str, row: int) -> Any:
        return self._table.column(name)[row].as_py()


class _ParquetTable:
    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        self._files = files
        metadata = [pq.read_metadata(file) for file in files]
        self.schema = pq.read_schema(files[0])
        for file in files[1:]:
            if not pq.read_schema(file).equals(self.schema):
                raise pa.ArrowInvalid(f"another schema in {file.name} than in {files[0].name}")
        self._groups = [
            (file, k) for file, found in zip(files, metadata, strict=True) for k in range(found.num_row_groups)
        ]
        counts = [found.row_group(k).num_rows for found in metadata for k in range(found.num_row_groups)]
        self._ends = np.cumsum(counts)
        self._kept: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def column(self, name: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        chunks = []
        for file in self._files:
            with pq.ParquetFile(file) as content:
                chunks += read_parquet(content, COLUMN_BYTES, [name]).column(name).chunks
        return pa.chunked_array(chunks, type=chunks[0].type if chunks else self.schema.field(name).type)

    def cell(self, name: str, row: int) -> Any:
        group = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        return self._group(name, group)[row - first].as_py()

    def _group(self, name: str, group: int) -> Any:
        import pyarrow.parquet as pq

        key = (name, group)
        with self._lock:
            if key not in self._kept:
                file, k = self._groups[group]
                with pq.ParquetFile(file) as content:
                    self._kept[key] = read_parquet(content, GROUP_BYTES, [name], k).column(name)
            self._kept.move_to_end(key)
            while len(self._kept) > ROW_GROUPS_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]
