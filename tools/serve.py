"""Serve a folder over HTTP, with byte ranges, which a browser needs to move the playhead in an audio file.

python tools/serve.py [DIR] [--port 8000] [--host 127.0.0.1]
"""

import argparse
import logging
import mimetypes
import sys
from pathlib import Path

from werkzeug import Request, Response
from werkzeug.exceptions import NotFound
from werkzeug.serving import BaseWSGIServer
from werkzeug.serving import make_server as bind
from werkzeug.utils import redirect, send_file

# Not left to the machine: some registries know no FLAC, some call JavaScript plain text.
for suffix, kind in {".flac": "audio/flac", ".js": "text/javascript", ".ipynb": "application/json"}.items():
    mimetypes.add_type(kind, suffix)


def make_server(directory: str | Path, host: str = "127.0.0.1", port: int = 0) -> BaseWSGIServer:
    """A server for `directory`, bound but not yet serving; port 0 takes a free one, found in `server_port`.

    It sends nothing outside the folder, wherever a link in it leads. Where the port is taken, werkzeug says so
    and exits.
    """
    root = Path(directory).resolve()

    @Request.application
    def files(request: Request) -> Response:
        if "\0" in request.path:
            return NotFound().get_response()
        path = (root / request.path.lstrip("/")).resolve()
        if path.is_dir() and not request.path.endswith("/"):
            return redirect(f"{request.path}/")
        path = path / "index.html" if path.is_dir() else path
        if not (path.is_relative_to(root) and path.is_file()):
            return NotFound().get_response()
        return send_file(path, request.environ)  # asks the browser to ask again, so a rebuilt page is seen at once

    return bind(host, port, files, threaded=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Serve a folder over HTTP, with byte ranges.")
    parser.add_argument("directory", metavar="DIR", nargs="?", default="_build/html", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args(argv)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a page asks for dozens of files
    if not args.directory.is_dir():
        sys.exit(f"serve: no directory {args.directory}; `make book` builds it")
    server = make_server(args.directory, args.host, args.port)
    print(f"Serving {args.directory} at http://{args.host}:{server.server_port}/ (Ctrl-C stops)", flush=True)
    server.serve_forever()  # until Ctrl-C


if __name__ == "__main__":
    main()
