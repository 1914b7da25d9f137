"""``chiasm``: the command line. Imports nothing heavy: each command imports what it needs when it runs.

Exit codes: 0 all ok; 1 some sessions failed; 2 usage or recipe; 3 no valid input; 70 internal; 75 stopped, resumable; 126 weights
missing; 127 tool missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ... import __version__
from ..console import complain

COMMANDS = {
    "run": "run a recipe on every patient of a folder",
    "train": "train a recipe's network",
    "evaluate": "compare results with a labelled data set",
    "phantom": "make a synthetic cohort with a known answer",
    "weights": "list, add, convert and verify weights",
    "info": "show pipelines, versions, devices and weights",
    "demo": "segment a real MRI among a small cohort, one patient of it broken",
}
EPILOG = (
    "exit codes: 0 ok, 1 some failed, 2 usage or recipe, 3 no valid input, 70 internal, 75 stopped (resumable), "
    "126 weights missing, 127 tool missing"
)


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; the arguments of `command` only (None: of none), since each command's module is imported for them."""
    parser = argparse.ArgumentParser(
        prog="chiasm", description="From patients' recordings to results, with controls.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"chiasm {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        if name == command:
            import_module(f"{__package__}.{name}").register(subparsers)
        else:
            subparsers.add_parser(name, help=text, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)
    parser = build_parser(command if command in COMMANDS else None)
    namespace = parser.parse_args(arguments)
    from ...data.errors import ChiasmError, SeveralErrors

    try:
        return int(namespace.handler(namespace))
    except SeveralErrors as errors:
        complain(str(errors))
        return errors.exit_code_of_first
    except ChiasmError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("Stopped. What is finished is kept; the same command goes on from here.")
        return 75
    except BrokenPipeError:  # the reader of a pipe (head, less) went away
        sys.stderr.close()
        return 0
    except OSError as error:
        from ..engine.lock import unwritable

        complain(str(unwritable(error)))
        return 1


if __name__ == "__main__":
    sys.exit(main())
