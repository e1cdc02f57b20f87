"""Reading over HTTP: what is opened and gathered costs the bytes it needs, counted by a local server."""

from __future__ import annotations

import gzip
import pickle
import re
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import KEY, N_ROWS, make_values
from serving import Server

from featurebank.store import (
    CorruptError,
    FeatureSet,
    FeatureSetWriter,
    InvalidInputError,
    NotFoundError,
    Output,
    Records,
    StorageError,
    StoreError,
    _http,
    _remote,
)
from featurebank.store.addresses import Url

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
ROWS, WIDTH, AT_ONCE = 20_000, 192, 1024


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


def regions(path: Path) -> dict[str, list[int]]:
    """Bytes of each part of a file whose change must be noticed."""
    with FeatureSet(path) as fs:
        places = {"magic": [0], "user block": [13], "size": [17], "table digest": [40], "state": [48], "digest": [70]}
        places |= {"slot": [130], "table": [700], "rest of the user block": [4000]}
        for array in fs.table.small_arrays():
            places[array.path] = [array.address, array.end - 1]
        for entry in fs.table.outputs:
            if entry.index is None:
                first, last = entry.extent
                places[entry.values.path] = [first, first + entry.values.nbytes - 1, last - 1]
            else:
                index = fs.header.indexes[entry.name]
                places[entry.values.path] = [int(start) + int(n) - 1 for start, n in (index[0, :2], index[-1, :2])]
        covered = [first for first, last in fs.table.covered(fs.nbytes, fs.header.packed) if last - first > 64]
        places["HDF5 metadata"] = [covered[-1] + 10]
    return places


def touch_everything(path: Any) -> None:
    with FeatureSet(path, verify="first_touch") as fs:
        _ = (fs.manifest, fs.ids, fs.labels, fs.content_hash, fs.columns, fs.reasons, fs.head)
        fs._record(fs.table.records["reason"])
        for name in fs.outputs:
            fs.load(name, np.arange(len(fs)))


@pytest.mark.parametrize("backend", ["mapped", "packed", "remote", "packed remote"])
def test_b4_first_touch_notices_a_changed_byte_of_every_part(server: Server, sealed: Path, backend: str) -> None:
    path = sealed
    if "packed" in backend:
        pytest.importorskip("hdf5plugin")
        path = sealed.with_name("packed.h5")
        with FeatureSet(sealed) as fs:
            fs.pack(path).close()
    where: Any = f"{server.url}/{path.name}" if "remote" in backend else path
    touch_everything(where)
    original = path.read_bytes()
    missed = []
    for name, places in regions(path).items():
        for place in places:
            data = bytearray(original)
            data[place] ^= 4
            path.write_bytes(data)
            try:
                touch_everything(where)
            except StoreError:
                continue
            missed.append((name, place))
    assert missed == []


READS: dict[str, Callable[[FeatureSet], Any]] = {
    "view": lambda fs: fs["tokens"],
    "all": lambda fs: fs.load("tokens"),
    "rows": lambda fs: fs.load("tokens", [3, 31]),
    "mask": lambda fs: fs.load("tokens", np.arange(N_ROWS) == 16),
    "slice": lambda fs: fs.load("tokens", slice(10, 20)),
    "batches": lambda fs: list(fs.batches(7, outputs=["tokens"], shuffle=True)),
    "item": lambda fs: fs.to_torch("tokens")[20],
}


@pytest.mark.parametrize("how", READS)
def test_b4_zeroed_rows_are_not_handed_out_from_a_server(server: Server, sealed: Path, how: str) -> None:
    values = make_values()["tokens"]
    data = bytearray(sealed.read_bytes())
    at = data.index(values[20].tobytes())
    with FeatureSet(f"{server.url}/{sealed.name}", verify="first_touch") as fs:
        np.testing.assert_array_equal(fs.load("tokens", [20, 3, -1, 20]), values[[20, 3, -1, 20]], strict=True)
        np.testing.assert_array_equal(fs.load("tokens", slice(3, 60, 2)), values[3:60:2], strict=True)
        np.testing.assert_array_equal(fs["tokens"], values, strict=True)
        # What the server gave before says nothing of what it gives now.
        data[at : at + values[20].nbytes] = bytes(values[20].nbytes)
        sealed.write_bytes(data)
        for _ in range(2):
            with pytest.raises(CorruptError, match=r"'tokens', 1 chunk \(1\) .* chunk 1, rows 16 to 31"):
                READS[how](fs)
        np.testing.assert_array_equal(fs.load("tokens", [0, 15, 32]), values[[0, 15, 32]], strict=True)
        copy = pickle.loads(pickle.dumps(fs))  # noqa: S301
    with copy, pytest.raises(CorruptError, match="chunk 1, rows 16 to 31"):
        READS[how](copy)


@pytest.mark.parametrize("name", ["ETag", "Last-Modified", "size"])
@pytest.mark.parametrize("read", [lambda fs: fs.load("pooled", [1]), lambda fs: fs.labels])
def test_b4_a_file_that_changes_meanwhile_is_one_clear_error(
    server: Server, sealed: Path, name: str, read: Callable[[FeatureSet], Any]
) -> None:
    server.headers = {"ETag": '"one"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    with FeatureSet(f"{server.url}/{sealed.name}") as fs:
        fs.load("pooled", [0])
        if name == "size":
            sealed.write_bytes(sealed.read_bytes() + b"more")
        else:
            server.headers[name] = '"two"'
        with pytest.raises(StorageError, match="it has changed on the server; open it again") as raised:
            read(fs)
        assert name in str(raised.value)


def test_b4_other_file_systems_notice_a_change_too(sealed: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/sets/demo.h5", sealed.read_bytes())
    try:
        with FeatureSet("memory://sets/demo.h5", verify="first_touch") as fs:
            np.testing.assert_array_equal(fs.load("tokens", [3, 1]), make_values()["tokens"][[3, 1]])
            memory.pipe_file("/sets/demo.h5", sealed.read_bytes())
            with pytest.raises(StorageError, match="it has changed; open it again"):
                fs.load("tokens", [3])
    finally:
        memory.rm("/sets/demo.h5")


def forever(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    for _ in range(4000):
        handler.wfile.write(bytes(1 << 20))


def whole(handler: BaseHTTPRequestHandler, length: int | None) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    forever(handler)


def part(handler: BaseHTTPRequestHandler, said: str | None, body: bytes | None, **headers: str) -> None:
    handler.send_response(206)
    if said is not None:
        handler.send_header("Content-Range", said)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    if body is not None:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if body is None:
        forever(handler)
    else:
        handler.wfile.write(body)


def drip(handler: BaseHTTPRequestHandler, said: str, body: bytes, seconds: float) -> None:
    handler.send_response(206)
    handler.send_header("Content-Range", said)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for start in range(0, len(body), -(-len(body) // 6)):
        time.sleep(seconds)
        handler.wfile.write(body[start : start + -(-len(body) // 6)])
        handler.wfile.flush()


BAD_SERVERS: dict[str, tuple[Callable[..., None], str]] = {
    "endless 200": (lambda h, _said, _body: whole(h, None), "with status 206; found 200, the whole file"),
    "3 GiB": (lambda h, _said, _body: whole(h, 3 << 30), "with status 206; found 200, the whole file"),
    "endless 206": (lambda h, said, _body: part(h, said, None), "found more in the answer"),
    "gzip": (
        lambda h, said, _body: part(h, said, gzip.compress(bytes(1 << 24)), Content_Encoding="gzip"),
        "serve the file as it is; found it encoded, 'gzip'",
    ),
    "no range": (lambda h, _said, body: part(h, None, body), "which range it serves and of how much; found ''"),
    "unknown size": (lambda h, said, body: part(h, said.rpartition("/")[0] + "/*", body), "and of how much; found"),
    "another range": (
        lambda h, said, body: part(h, "bytes 1-" + said.partition("-")[2], body),
        "the range must begin at 0; found 1|found bytes 1 to",
    ),
    "too little": (lambda h, said, body: part(h, said, body[:-1]), r"found \d+ in the answer; try again"),
    "too much": (lambda h, said, body: part(h, said, body + b"x"), "found more in the answer"),
    "refused": (lambda h, _said, _body: h.send_error(403), "with status 206; found 403"),
    "silent": (lambda h, said, body: drip(h, said, body, 2.0), "found 0.3 s of silence"),
}


@pytest.mark.parametrize("when", ["opening", "reading"])
@pytest.mark.parametrize("name", BAD_SERVERS)
def test_c10_a_server_decides_nothing(
    server: Server, sealed: Path, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    monkeypatch.setattr(_http, "_SILENT_SECONDS", 0.3)
    _http._client.cache_clear()
    answer, message = BAD_SERVERS[name]
    try:
        if when == "opening":
            server.answer = answer
            with pytest.raises(StoreError, match=message):
                FeatureSet(f"{server.url}/{sealed.name}")
            return
        with FeatureSet(f"{server.url}/{sealed.name}") as fs:
            server.answer = answer
            with pytest.raises(StoreError, match=message):
                fs.load("pooled", [0, 5])
    finally:
        _http._client.cache_clear()


def test_c10_what_keeps_coming_may_take_its_time(server: Server, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "_SILENT_SECONDS", 1.0)
    _http._client.cache_clear()
    with FeatureSet(f"{server.url}/{sealed.name}") as fs:
        server.answer = lambda handler, said, body: drip(handler, said, body, 0.25)
        np.testing.assert_array_equal(fs.load("pooled", [5]), make_values()["pooled"][[5]])
    _http._client.cache_clear()


def test_c10_ranges_are_small(server: Server, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_remote, "_LARGEST_RANGE", 1000)
    for verify in ("header", "first_touch"):
        with FeatureSet(f"{server.url}/{sealed.name}", verify=verify) as fs:
            np.testing.assert_array_equal(fs["pooled"], make_values()["pooled"])
    assert max(server.sent) == 1000


def test_c10_secrets_of_an_address_are_shown_nowhere(server: Server, sealed: Path) -> None:
    secret = server.url.replace("://", "://me:word@") + f"/{sealed.name}?token=hush#part"
    with FeatureSet(secret) as fs, FeatureSet(sealed) as local:
        assert str(fs.path) == f"{server.url}/{sealed.name}"
        with pytest.raises(NotFoundError) as unknown:
            fs["poold"]
        with pytest.raises(InvalidInputError) as remote:
            fs.verify()
        server.answer = BAD_SERVERS["refused"][0]
        with pytest.raises(StoreError) as refused:
            fs.load("pooled", [0])
        server.answer = None
        shown = [
            repr(fs),
            str(fs.path),
            repr(fs.path),
            fs.path.name,
            *(str(error.value) for error in (unknown, remote, refused)),
        ]
        copy = pickle.loads(pickle.dumps(fs))  # noqa: S301
        np.testing.assert_array_equal(copy.load("pooled", [0]), local.load("pooled", [0]))
    for address in (secret.replace(sealed.name, "absent.h5"), "s3x://me:word@bucket/a.h5?token=hush"):
        with pytest.raises(StoreError) as failed:
            FeatureSet(address)
        shown.append(str(failed.value))
    assert not [text for text in shown if "word" in text or "hush" in text or "me:" in text]


def test_f6_an_address_is_no_path() -> None:
    address = Url("https://me:word@host/sets/0123456789abcdef.h5?x=/a")
    copy = pickle.loads(pickle.dumps(address))  # noqa: S301
    assert (copy, copy.url, hash(copy)) == (address, address.url, hash(address))
    assert (str(address), address.name) == ("https://host/sets/0123456789abcdef.h5", "0123456789abcdef.h5")
    assert address != Url("https://host/sets/0123456789abcdef.h5")
    assert not isinstance(address, Path)
