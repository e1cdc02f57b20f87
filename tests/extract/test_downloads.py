"""Whole files from servers that misbehave: one clear error, nothing left behind, no secret in it."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from serving import Server, serving

from featurebank.extract import downloads
from featurebank.extract.backbones import describe, resolve
from featurebank.extract.backbones.checkpoint_source import cache_name
from featurebank.extract.errors import AssetError
from featurebank.store.errors import UnknownNameError

BODY = bytes(range(256)) * 300


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "w.pth").write_bytes(BODY)
    with serving(tmp_path / "served") as served:
        yield served


def answer(handler: BaseHTTPRequestHandler, body: bytes, length: int | None, **headers: str) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def endless(handler: BaseHTTPRequestHandler) -> None:
    answer(handler, b"", None)
    for _ in range(1000):
        handler.wfile.write(bytes(1 << 20))


def silent(handler: BaseHTTPRequestHandler) -> None:
    answer(handler, BODY[:100], len(BODY))
    handler.wfile.flush()
    time.sleep(1)


def elsewhere(place: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", place)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return redirect


BAD: dict[str, tuple[Callable[[BaseHTTPRequestHandler], None], str]] = {
    "endless": (endless, r"at most 1,000,000 bytes; found more"),
    "too large": (lambda h: answer(h, b"", 3 << 30), r"at most 1,000,000 bytes; found 3,221,225,472"),
    "cut short": (
        lambda h: answer(h, BODY[:-1], len(BODY)),
        r"expected 76,800 bytes, as the server said; found 76,799",
    ),
    "gzip": (lambda h: answer(h, BODY, len(BODY), Content_Encoding="gzip"), "found it encoded, 'gzip'"),
    "silent": (silent, "silence for 0.2 s"),
    "refused": (lambda h: h.send_error(403), "403"),
    "no number": (lambda h: answer(h, BODY, None, Content_Length="many"), "invalid literal"),
    "a local file": (elsewhere("file:///etc/hostname"), "file:///etc/hostname' is not allowed"),
    "another protocol": (elsewhere("ftp://me:word@host/x"), r"found ftp://host/x"),
}


@pytest.mark.parametrize("name", BAD)
def test_c10_downloads_end(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(downloads, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(downloads, "LARGEST", 1_000_000)
    server.whole, message = BAD[name]
    target = tmp_path / "cache" / "w.pth"
    address = server.url.replace("://", "://me:word@")
    with pytest.raises(AssetError, match=message) as raised:
        downloads.download(f"{address}/w.pth?token=hush", target)
    assert f"cannot download {server.url}/w.pth:" in str(raised.value)
    assert not {"word", "hush"} & set(str(raised.value).replace("=", " ").replace(":", " ").split())
    assert not target.parent.exists() or not list(target.parent.iterdir())


def test_c10_downloads_are_whole(server: Server, tmp_path: Path) -> None:
    target, digest = tmp_path / "cache" / "w.pth", hashlib.sha256(BODY).hexdigest()
    asked: list[Any] = []

    def answered(handler: BaseHTTPRequestHandler) -> None:
        asked.append((handler.path, handler.headers["Authorization"], handler.headers["Accept-Encoding"]))
        answer(handler, BODY, len(BODY))

    server.whole = answered
    address = server.url.replace("://", "://me:w%6Frd@")
    downloads.download(f"{address}/w.pth?token=hush#part", target, sha256=digest[:8])
    assert target.read_bytes() == BODY
    assert asked == [("/w.pth?token=hush", "Basic " + base64.b64encode(b"me:word").decode(), "identity")]
    target.write_bytes(b"mine")
    downloads.download(f"{server.url}/w.pth", target)
    assert target.read_bytes() == b"mine"
    with pytest.raises(AssetError, match="expected SHA-256 00000000…, found"):
        downloads.download(f"{server.url}/w.pth", tmp_path / "other.pth", sha256="0" * 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "served"]


def test_c10_secrets_of_an_address_are_in_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("FEATUREBANK_OFFLINE", "1")
    url = "https://me:word@example.org/w.pth?token=hush"
    with pytest.raises(AssetError, match="FEATUREBANK_OFFLINE forbids downloads") as failed:
        resolve(f"url:test_vit={url}")
    (tmp_path / "checkpoints").mkdir()
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "checkpoints" / cache_name(url))
    spec = resolve(f"url:test_vit={url}")
    assert spec.name == "url:test_vit=https://example.org/w.pth"
    shown = [str(failed.value), repr(spec), str(describe(f"url:test_vit={url}"))]
    for name in (f"url:no_such={url}", f"url:test_vit={url}#{'0' * 64}", f"url:{url}"):
        with pytest.raises((AssetError, UnknownNameError)) as refused:
            resolve(name)
        shown.append(str(refused.value))
    assert not [text for text in shown if "word" in text or "hush" in text]
    assert resolve(f"url:test_vit={url}@random:3").weights.sha256 == "random:3"
