"""`resilient run -- COMMAND`: be found, for a program that knows nothing of registries."""

from __future__ import annotations

import argparse
import os
from typing import Any

from resilient.cli import arguments
from resilient.cli.output import USAGE, complain
from resilient.cli.running import Running
from resilient.discovery import Registry
from resilient.errors import ConfigError

DEFAULT_REGISTRY = "eureka://localhost:8761"


def add_to(commands: Any) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "run",
        help="run a program and keep it registered while it serves",
        usage="resilient run --service NAME --port PORT [options] -- COMMAND [ARGUMENT ...]",
        description="Run a program that knows nothing of registries. It is registered once its port accepts "
        "connections, once for all of its workers, and taken out before it is asked to end.",
        epilog="examples:\n"
        "  resilient run --service shop --port 8000 -- gunicorn --workers 4 --bind :8000 shop.wsgi\n"
        "  resilient run --service shop --port 8080 --health /health -- java -jar shop.jar\n"
        "signals: SIGTERM takes it out of the registry, waits --drain seconds and is then passed on; a second one is\n"
        "passed on at once. Ctrl-C takes it out and is passed on without waiting. All others are passed on at once.\n"
        "exit status: the program's own, 128 + N when signal N ended it; 125 when its port never opened or somebody\n"
        "else has it, 126 when it can not be executed, 127 when it is not there, 2 when an option is wrong.\n"
        "A registry that does not answer is asked again and again; the program runs meanwhile.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--service", metavar="NAME", required=True, help="the logical name that others call")
    add("--port", type=arguments.service_port, required=True, help="the port that the program opens")
    add(
        "--registry",
        metavar="URL",
        default=os.environ.get("RESILIENT_DISCOVERY") or DEFAULT_REGISTRY,
        help=f"where to register; default $RESILIENT_DISCOVERY, else {DEFAULT_REGISTRY}",
    )
    add("--host", help="the address that others call; default: our own one on the connection to the registry")
    add("--id", help="the instance's name; default HOST:NAME:PORT. It must be another one for each instance")
    add("--secure", action="store_true", help="the port speaks TLS")
    add("--zone", help="where it runs")
    add(
        "--metadata",
        metavar="KEY=VALUE",
        type=arguments.pair,
        action="append",
        default=[],
        help="what others may look up; may be repeated",
    )
    add(
        "--health", metavar="PATH", type=arguments.path, help="asked before each renewal; it is DOWN without 2xx or 3xx"
    )
    add(
        "--wait",
        metavar="SECONDS",
        type=arguments.seconds,
        default=60.0,
        help="how long the port may take to open; then the program is ended; default 60",
    )
    add(
        "--drain",
        metavar="SECONDS",
        type=arguments.seconds_or_none,
        default=2.0,
        help="time between leaving the registry and SIGTERM for the program, in which callers notice; default 2",
    )
    arguments.add_json(parser, "tell what happens as lines of JSON, on stderr")
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    if not args.program:
        complain("run what? Write the program behind two dashes: resilient run --service shop --port 8000 -- COMMAND")
        return USAGE
    try:
        registry = Registry.from_url(args.registry)
        running = Running(args, registry)
    except (ConfigError, ImportError) as error:
        complain(str(error))
        return USAGE
    return running.run()
