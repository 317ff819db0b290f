"""From the words on the command line to what they ask for, and back to an exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from resilient.cli import doctor, registry, run, services, watch
from resilient.cli.output import FAILED, USAGE, complain, silence

_DESCRIPTION = "Resilience for services that call services: find them, be found, see who is there."
_EPILOG = """\
exit status: 0 done, 1 failed (a sentence on stderr says why), 2 not understood; `run` ends as its program does.
Without a URL, $RESILIENT_DISCOVERY is taken. Credentials belong into the URL: eureka://user:password@host:8761
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status.

    Args:
        argv: the arguments, default those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a registry lists may not fit the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    words, program = _split(sys.argv[1:] if argv is None else argv)
    try:
        args = parser.parse_args(words)
        args.program = program
        if "command" not in args:
            parser.print_help(sys.stderr)
            return USAGE
        status: int = args.command(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `resilient services | head`: nobody reads on
        silence(sys.stdout)
        return 128 + 13
    except KeyboardInterrupt:
        return 128 + 2
    except argparse.ArgumentError as error:
        complain(str(error))
        return FAILED


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first `--`, which are ours, and those behind it, which are a program's."""
    if "--" not in words:
        return list(words), []
    at = list(words).index("--")
    return list(words[:at]), list(words[at + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resilient",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"resilient {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for module in (registry, services, watch, run, doctor):
        module.add_to(commands)
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("resilient-patterns")
    except PackageNotFoundError:
        return "(not installed)"
