"""Serve a folder over HTTP, with byte ranges, which a browser needs to move the playhead in an audio file.

python tools/serve.py [DIR] [--port 8000] [--host 127.0.0.1]
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 16  # bytes


class Handler(SimpleHTTPRequestHandler):
    """The standard library's file handler, with `Range: bytes=...` (RFC 9110 §14) and nothing outside the folder."""

    protocol_version = "HTTP/1.1"
    # Not left to the machine: some registries know no FLAC, some call JavaScript plain text.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".flac": "audio/flac",
        ".js": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
        ".ipynb": "application/json",
    }
    remaining: int | None = None  # bytes still to send of the range asked for

    def send_head(self) -> Any:
        self.remaining = None
        name = self.translate_path(self.path)
        if "\0" in name or not Path(name).resolve().is_relative_to(Path(self.directory).resolve()):
            self.send_error(HTTPStatus.NOT_FOUND, "File not found")
            return None
        path = Path(name)
        if self.command != "GET" or "Range" not in self.headers or not path.is_file():
            return super().send_head()
        return self.send_range(path)

    def send_range(self, path: Path) -> IO[bytes] | None:
        size = path.stat().st_size
        modified = self.date_time_string(int(path.stat().st_mtime))
        span = byte_range(self.headers["Range"], size)
        # To be ignored: a unit or form not known here, and a range of a file that has changed since its first part.
        if span is None or self.headers.get("If-Range", modified) != modified:
            return super().send_head()
        first, last = span
        if first > last:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        file = path.open("rb")
        file.seek(first)
        self.remaining = last - first + 1
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Last-Modified", modified)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(self.remaining))
        self.end_headers()
        return file

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-cache")  # a rebuilt page is seen at once
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if self.remaining is None:
            return super().copyfile(source, outputfile)
        while self.remaining > 0 and (data := source.read(min(CHUNK, self.remaining))):
            outputfile.write(data)
            self.remaining -= len(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Only what went wrong; a page asks for dozens of files."""

    def log_error(self, format: str, *args: Any) -> None:
        print(f"{self.command} {self.path}: {format % args}", file=sys.stderr)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has heard enough closes the connection; that is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of `bytes=a-b`, `bytes=a-` or `bytes=-n` in a file of `size` bytes.

    None if the header is to be ignored (another unit, several ranges, not well formed); first > last if it cannot be
    met.

    >>> byte_range("bytes=2-5", 10), byte_range("bytes=7-", 10), byte_range("bytes=-3", 10)
    ((2, 5), (7, 9), (7, 9))
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not match or match.group(0).endswith("=-"):
        return None
    first, last = match.groups()
    if not first:
        return (size - min(int(last), size), size - 1)
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last), size - 1) if last else size - 1


def make_server(directory: str | Path, host: str = "127.0.0.1", port: int = 0) -> Server:
    """A server for `directory`, bound but not yet serving; port 0 takes a free one, found in `server_port`.

    Raises FileNotFoundError if there is no such directory, OSError if the port is taken.
    """
    if not Path(directory).is_dir():
        raise FileNotFoundError(f"no directory {directory}; `make book` builds it")
    return Server((host, port), functools.partial(Handler, directory=os.fspath(directory)))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serve a folder over HTTP, with byte ranges.")
    parser.add_argument("directory", metavar="DIR", nargs="?", default="_build/html", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args(argv)
    try:
        server = make_server(args.directory, args.host, args.port)
    except FileNotFoundError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    except (OSError, OverflowError) as error:
        print(f"serve: cannot listen on {args.host}:{args.port}: {error}; try another --port", file=sys.stderr)
        return 2
    print(f"Serving {args.directory} at http://{args.host}:{server.server_port}/ (Ctrl-C stops)", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
