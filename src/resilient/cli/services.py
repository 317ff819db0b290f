"""`resilient services URL`: who can be called now."""

from __future__ import annotations

import argparse
from typing import Any

from resilient.cli import arguments, looking
from resilient.cli.output import DONE, FAILED, USAGE, as_json, complain, fail, pairs, say, table
from resilient.discovery import Discovery, Instance
from resilient.errors import ConfigError


def add_to(commands: Any) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "services",
        help="list who can be called now",
        description="List the usable instances of every service: those that a client of the library would call.",
        epilog="examples:\n"
        "  resilient services eureka://localhost:8761\n"
        "  resilient services eureka://localhost:8761 --service producer --json\n"
        "exit status: 0 listed, also when nobody is there; 1 when the registry does not answer, or nobody offers a "
        "service that was named; 2 when the URL is wrong",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_url(parser)
    arguments.add_services(parser)
    parser.add_argument(
        "--timeout",
        type=arguments.seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long the registry may take to answer; default 5",
    )
    arguments.add_json(parser, "one JSON document instead of a table")
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        discovery = Discovery.from_url(arguments.url_of(args))
    except (ConfigError, ImportError) as error:
        complain(str(error))
        return USAGE
    with discovery:
        if not looking.wait_for_answer(discovery, args.service, args.timeout):
            return fail(looking.why_not(discovery, args.service, args.timeout))
        found = looking.known(discovery, args.service)
        name = discovery._name
    if args.json:
        listed = {service: [looking.described(one) for one in instances] for service, instances in found.items()}
        say(as_json({"registry": name, "services": listed}, indent=2))
    else:
        _show(found)
    missing = [service for service, instances in found.items() if not instances]
    for service in missing:
        complain(f"no instance of {service!r} is known at {name}")
    return FAILED if missing else DONE


def _show(found: dict[str, tuple[Instance, ...]]) -> None:
    rows = [
        (
            instance.service,
            looking.address(instance),
            instance.zone or "-",
            f"{instance.weight:g}",
            instance.id or "-",
            pairs(instance.metadata),
        )
        for instances in found.values()
        for instance in sorted(instances, key=lambda one: (one.host, one.port, one.id))
    ]
    if rows:
        for line in table(("SERVICE", "ADDRESS", "ZONE", "WEIGHT", "ID", "METADATA"), rows):
            say(line)
    elif not found:
        complain("nobody is registered")
