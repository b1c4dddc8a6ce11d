"""The `sepriors` command. Exit status: 0 done, 2 bad input (one clear line), 130 interrupted."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from sepriors import __version__
from sepriors.commands import say

CORE, LAB = "sepriors.commands", "sepriors.lab.commands"
COMMANDS = {  # what each does, and the package with its module, imported when the command is the one that is asked for
    "methods": ("list the methods, the weights they need, and where they depart from their papers", CORE),
    "corpora": ("show the speech and noise at hand", LAB),
    "fetch": ("download a corpus, or enter a folder that you own", LAB),
    "mix": ("mix speech and noise at an exact signal-to-noise ratio, or write a bench set", LAB),
    "enhance": ("enhance files; names, lengths and sample rates are kept", CORE),
    "score": ("measure estimates against clean speech, or without it by DNSMOS alone", LAB),
    "bench": ("run methods over a bench set and print the table", LAB),
    "records": ("measure what is missing of the records, or check some of them again", LAB),
    "train": ("train the weights of a card again", LAB),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):  # whatever a terminal cannot show, a table or a name is not lost for it
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command = next((word for word in arguments if not word.startswith("-")), "")
    try:
        a = parser(command).parse_args(arguments)
        a.run(a)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        _forget_unwritten()
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("sepriors"):
            raise
        say(f"sepriors {command} needs {error.name}: pip install 'sepriors[lab]'")
        return 2
    except (ValueError, OSError) as error:  # what a user can mend: bad input, a wrong name, a full disk
        say(f"sepriors {command}: {' '.join(str(error).split())}")
        _forget_unwritten()
        return 2
    except KeyboardInterrupt:
        say(f"sepriors {command}: interrupted")
        return 130
    return 0


def _forget_unwritten() -> None:
    """Write what has been printed, or let go of it: at exit Python would try again, and complain once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong; --help has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parser(*chosen: str) -> argparse.ArgumentParser:
    """The command line, with the options of the commands that are named: each imports what it needs for them."""
    top = Parser(prog="sepriors", description=__doc__)
    top.add_argument("--version", action="version", version=f"sepriors {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (about, package) in COMMANDS.items():
        c = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        if name in chosen:
            module = import_module(f"{package}.{name}")
            module.options(c)
            c.set_defaults(run=module.run)
    return top


if __name__ == "__main__":
    sys.exit(main())
