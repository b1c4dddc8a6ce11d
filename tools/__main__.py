"""Run a command of the project's environment, with the variables its timings assume: `python -m tools pytest -x`."""

import os
import sys
from pathlib import Path

from tools import timed

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tools COMMAND [ARGUMENT...]")
    programs = Path(sys.executable).parent  # not resolved: a virtual environment's python is a link
    os.environ.update(timed(os.environ), PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
    os.execvp(sys.argv[1], sys.argv[1:])
