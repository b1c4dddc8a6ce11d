"""Pack the built pages into one zip that a browser reads from the disk, without a server and without a network.

    python -m tools.offline [--html _build/html] [--out _build/sepriors-book.zip]

The same pages give the same bytes: names in order, one date and one mode for all.
"""

import argparse
import sys
import zipfile
from pathlib import Path

from tools import ROOT

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
MODE = 0o644 << 16  # readable by all, whatever the builder's umask


def pack(html: Path, out: Path) -> Path:
    """Write all files under `html` into the zip `out`, in a folder of the zip's name, and return `out`.

    Raises FileNotFoundError if there is no book in `html`.
    """
    if not (html / "index.html").is_file():
        raise FileNotFoundError(f"expected a built book, got no index.html in {html}; `make book` builds it")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    with zipfile.ZipFile(part, "w") as archive:
        for path in sorted(path for path in html.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{out.stem}/{path.relative_to(html).as_posix()}", EPOCH)
            entry.external_attr = MODE
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return part.replace(out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pack the built book into a zip that opens without a network.")
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "sepriors-book.zip")
    args = parser.parse_args(argv)
    try:
        out = pack(args.html, args.out)
    except FileNotFoundError as error:
        sys.exit(f"offline: {error}")
    print(f"[book] {out}: {out.stat().st_size / 1e6:.1f} MB; unpack it and open {out.stem}/index.html")


if __name__ == "__main__":
    main()
