"""A server on this machine, for whatever downloads, and archives for it."""

from __future__ import annotations

import hashlib
import importlib
import io
import random
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

import pytest


class Server(ThreadingHTTPServer):
    """Serves `files`; may break off each answer after `cut` bytes (`cuts` times), and may know no ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []  # path, Range
        self.cut, self.cuts, self.ranges = 0, 0, True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._head(200 if self.path[1:] in self.server.files else 404, {})

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        content = self.server.files.get(self.path[1:])
        if content is None:
            self._head(404, {"Content-Length": "0"})
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(content) > 0:
            self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        body, headers = content[start:], {"Content-Length": str(len(content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if start else 200, headers)
        if self.server.cuts:
            self.server.cuts -= 1
            body = body[: self.server.cut]
            self.close_connection = True
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextmanager
def running(server: HTTPServer) -> Iterator[None]:
    """Let a server serve, in a thread of its own."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with running(server):
        yield server


@pytest.fixture
def archive(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A download of 500 kB, without waits."""
    monkeypatch.setattr(importlib.import_module("sepriors.lab.corpora.fetch"), "WAITS", (0.0, 0.0, 0.0))
    server.files["a.zip"] = content = random.Random(0).randbytes(500_000)
    return {"name": "a.zip", "urls": [f"{server.url}/a.zip"], "sha256": hashlib.sha256(content).hexdigest()}


def registry_of(server: Server, archives: dict[str, dict[str, bytes]], **change: Any) -> str:
    """A registry.toml of corpora, whose archives the server has from now on; keywords change the entries."""
    lines = []
    for corpus, files in archives.items():
        lines += [f"[{corpus}]", "auto = true"]
        for name, content in files.items():
            server.files[name] = content
            entry = {"name": name, "urls": [f"{server.url}/{name}"], "bytes": len(content)}
            entry |= {"sha256": hashlib.sha256(content).hexdigest()} | change
            lines.append(f"[[{corpus}.archives]]")
            lines += [f"{key} = {value!r}" for key, value in entry.items() if value is not None]
    return "\n".join(lines)


def tarred(*members: tuple[str | tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    """A tar of names and what they hold."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:  # type: ignore[call-overload]
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """A zip of names and what they hold."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that stand there twice
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members:
                file.writestr(name, content)
    return buffer.getvalue()
