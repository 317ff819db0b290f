"""`resilient doctor`: what is wrong with this installation, this machine or that registry."""

from __future__ import annotations

import argparse
from typing import Any

from resilient.cli import arguments
from resilient.cli.examinations import examine
from resilient.cli.findings import Finding, Verdict
from resilient.cli.output import DONE, FAILED, as_json, plain, say


def add_to(commands: Any) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "doctor",
        help="examine this installation, this machine and, with a URL, a registry",
        description="Examine the installation (another distribution under the same import name, versions, extras), the "
        "machine (event loop, clock, open files) and, with a URL, whether that registry answers.",
        epilog="examples:\n"
        "  resilient doctor\n"
        "  resilient doctor eureka://localhost:8761\n"
        "exit status: 0 nothing is wrong (notes and warnings may be there), 1 something is, 2 an option is wrong",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", nargs="?", help=f"{arguments.URL_HELP.partition('; default')[0]}")
    parser.add_argument(
        "--timeout",
        type=arguments.seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long the registry may take to answer; default 5",
    )
    arguments.add_json(parser, "one JSON document")
    parser.set_defaults(command=_run)


_MARKS = {Verdict.GOOD: "ok     ", Verdict.NOTE: "note   ", Verdict.WARNING: "warning", Verdict.WRONG: "WRONG  "}


def _run(args: argparse.Namespace) -> int:
    findings = examine(args.url, args.timeout)
    wrong = [finding for finding in findings if finding.verdict is Verdict.WRONG]
    if args.json:
        say(as_json({"healthy": not wrong, "findings": [_document(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            say(f"{_MARKS[finding.verdict]}  {finding.about}: {plain(finding.sentence)}")
            if finding.remedy:
                say(f"         -> {plain(finding.remedy)}")
    return FAILED if wrong else DONE


def _document(finding: Finding) -> dict[str, str]:
    return {
        "about": finding.about,
        "verdict": finding.verdict.value,
        "sentence": finding.sentence,
        "remedy": finding.remedy,
    }
