"""Reading over HTTP: what is opened and gathered costs the bytes it needs, counted by a local server."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import KEY, N_ROWS, make_values

from featurebank.store import (
    CorruptError,
    FeatureSet,
    FeatureSetWriter,
    InvalidInputError,
    NotFoundError,
    Output,
    Records,
    StoreError,
)

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
ROWS, WIDTH, AT_ONCE = 20_000, 192, 1024


@dataclass
class Server:
    url: str
    folder: Path
    sent: list[int] = field(default_factory=list)
    ranges: bool = True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = served.folder / self.path.lstrip("/")
            data = path.read_bytes() if path.is_file() else b""
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if served.ranges else None
            part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
            self.send_response(206 if asked else 200 if path.is_file() else 404)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{len(data)}")
            self.end_headers()
            if body:
                served.sent.append(len(part))
                self.wfile.write(part)

        def log_message(self, *_: Any) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        request_queue_size = 256  # or connections beyond five at a time wait for a second and longer
        daemon_threads = True
        block_on_close = False

    with Listening(("127.0.0.1", 0), Handler) as http:
        served = Server(f"http://127.0.0.1:{http.server_port}", tmp_path)
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture
def values(tmp_path: Path) -> Any:
    values = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float16)
    records = Records(
        ids=[str(row) for row in range(ROWS)], labels=np.arange(ROWS), content_hash=np.zeros((ROWS, 16), np.uint8)
    )
    outputs = [Output(name="pooled", shape=(WIDTH,))]
    with FeatureSetWriter.create(tmp_path / "large.h5", key=KEY, outputs=outputs, records=records) as writer:
        rows = writer.chunk_rows("pooled")
        for index in range(writer.n_chunks("pooled")):
            writer.write_chunk("pooled", index, values[index * rows : (index + 1) * rows])
        writer.mark_ok(0, ROWS)
        writer.seal().close()
    return values


def test_random_rows_cost_their_bytes(server: Server, values: Any) -> None:
    rows = np.random.default_rng(1).choice(ROWS, AT_ONCE, replace=False)
    with FeatureSet(f"{server.url}/large.h5") as fs:
        opening = sum(server.sent)
        assert len(fs) == ROWS
        np.testing.assert_array_equal(fs.load("pooled", rows), values[rows], strict=True)
        gathering = sum(server.sent) - opening
    assert opening < 200_000
    assert gathering == AT_ONCE * WIDTH * 2


def test_everything_else_reads_as_from_a_disk(server: Server, sealed: Path) -> None:
    with FeatureSet(f"{server.url}/{sealed.name}") as fs, FeatureSet(sealed) as local:
        for name, expected in make_values().items():
            np.testing.assert_array_equal(fs[name], expected, strict=True)
            for rows in ([3, 3, -1], np.arange(N_ROWS) % 3 == 0, slice(5, 61), slice(60, 5, -7), [], slice(9, 9)):
                np.testing.assert_array_equal(fs.load(name, rows), expected[rows], strict=True)
        assert fs.ids.tolist() == local.ids.tolist()
        assert (fs.manifest, fs.reasons, repr(fs)) == (local.manifest, local.reasons, repr(local))
        np.testing.assert_array_equal(fs.labels, local.labels)
        copy = pickle.loads(pickle.dumps(fs))  # noqa: S301
        np.testing.assert_array_equal(copy.load("tokens", [5]), make_values()["tokens"][[5]])
        with pytest.raises(InvalidInputError, match="must be a local file to be verified"):
            fs.verify()
        with pytest.raises(IndexError):
            fs.load("pooled", [N_ROWS])


def test_any_file_system_of_fsspec_serves(sealed: Path) -> None:
    import fsspec  # type: ignore[import-untyped]

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/sets/demo.h5", sealed.read_bytes())
    try:
        with FeatureSet("memory://sets/demo.h5") as fs, FeatureSet(sealed) as local:
            np.testing.assert_array_equal(fs["pooled"], local["pooled"])
            np.testing.assert_array_equal(fs.load("tokens", [3, 1]), local.load("tokens", [3, 1]))
    finally:
        memory.rm("/sets/demo.h5")


def test_packed_sets_are_read_chunk_by_chunk(server: Server, values: Any) -> None:
    pytest.importorskip("hdf5plugin")
    with FeatureSet(server.folder / "large.h5") as fs:
        fs.pack(server.folder / "packed.h5").close()
    with FeatureSet(f"{server.url}/packed.h5") as fs:
        opening = sum(server.sent)
        np.testing.assert_array_equal(fs.load("pooled", [5, 19_000]), values[[5, 19_000]])
        assert 0 < sum(server.sent) - opening < 2 * 40_000


def test_damage_is_found(server: Server, sealed: Path) -> None:
    data = bytearray(sealed.read_bytes())
    data[data.index(b'"key"')] ^= 1
    sealed.write_bytes(data)
    with pytest.raises(CorruptError, match="the file digest"):
        FeatureSet(f"{server.url}/{sealed.name}")


def test_servers_that_do_not_serve_it_are_one_clear_error(server: Server, sealed: Path) -> None:
    with pytest.raises(NotFoundError, match="check the URL"):
        FeatureSet(f"{server.url}/absent.h5")
    with pytest.raises(NotFoundError, match="does not answer"):
        FeatureSet("http://127.0.0.1:9/closed.h5")
    server.ranges = False
    with pytest.raises(StoreError, match=re.escape(server.url)):
        FeatureSet(f"{server.url}/{sealed.name}")
