"""A local HTTP server that counts what it sends, and misbehaves when told to."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

__all__ = ["Server", "serving"]


@dataclass
class Server:
    """What is served, and how.

    Attributes:
        url: of the folder.
        folder: whose files are served.
        sent: the bytes of each answer.
        ranges: whether ranges are.
        headers: of every answer.
        answer: answers a range instead: the handler, what Content-Range would say, and the bytes.
        whole: answers a request for the whole file instead.
    """

    url: str
    folder: Path
    sent: list[int] = field(default_factory=list)
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    answer: Callable[[BaseHTTPRequestHandler, str, bytes], None] | None = None
    whole: Callable[[BaseHTTPRequestHandler], None] | None = None


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serves the folder's files, with ranges."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = served.folder / unquote(self.path.partition("?")[0]).lstrip("/")
            data = path.read_bytes() if path.is_file() else b""
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if served.ranges else None
            part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
            if asked and served.answer is not None:
                with contextlib.suppress(OSError):
                    served.answer(self, f"bytes {asked[1]}-{asked[2]}/{len(data)}", part)
                return
            if not asked and served.whole is not None:
                with contextlib.suppress(OSError):
                    served.whole(self)
                return
            self.send_response(404 if not path.is_file() else 206 if asked else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            for name, value in served.headers.items():
                self.send_header(name, value)
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
        served = Server(f"http://127.0.0.1:{http.server_port}", folder)
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield served
        finally:
            http.shutdown()
            thread.join()
