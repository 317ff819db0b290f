"""`resilient watch URL`: who comes and goes, one line each, as it is noticed."""

from __future__ import annotations

import argparse
import queue
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from resilient.cli import arguments, looking
from resilient.cli.output import DONE, USAGE, as_json, complain, fail, plain, say
from resilient.discovery import Discovery, Instance, InstancesChanged, RegistryBack, RegistryDown
from resilient.errors import ConfigError
from resilient.events import Event, listen

_NAMELESS = 5.0  # seconds after which a registry that lists nothing by itself should have said something


def add_to(commands: Any) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "watch",
        help="tell who comes and goes",
        description="Tell who comes (+), goes (-) and changes (~), and when the registry itself does not answer (!), "
        "until Ctrl-C. Begins with who is there.",
        epilog="examples:\n"
        "  resilient watch eureka://localhost:8761\n"
        "  resilient watch eureka://localhost:8761 --json | jq -r 'select(.event==\"removed\").id'\n"
        "exit status: 0 after Ctrl-C or SIGTERM, 2 when the URL is wrong. A registry that is down is waited for.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_url(parser)
    arguments.add_services(parser)
    parser.add_argument(
        "--interval",
        type=arguments.seconds,
        default=2.0,
        metavar="SECONDS",
        help="time between two looks, at least 1 s; default 2. A registry that tells by itself is heard at once",
    )
    arguments.add_json(parser, "one JSON document a line")
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    heard: queue.SimpleQueue[Event | None] = queue.SimpleQueue()  # its put() may be called by a signal handler

    def stop(_number: int, _frame: Any) -> None:
        heard.put(None)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    for kind in (InstancesChanged, RegistryDown, RegistryBack):
        listen(heard.put, kind)
    try:
        discovery = Discovery.from_url(arguments.url_of(args))
    except (ConfigError, ImportError) as error:
        complain(str(error))
        return USAGE
    with discovery:
        for service in args.service:
            discovery.instances(service)
        return _tell(discovery, heard, args)


def _tell(discovery: Discovery, heard: queue.SimpleQueue[Event | None], args: argparse.Namespace) -> int:
    nameless_at = time.monotonic() + _NAMELESS
    while True:
        try:
            event = heard.get(timeout=args.interval)
        except queue.Empty:
            silent = not looking.answered(discovery, args.service) and not discovery._trouble()
            if silent and not args.service and time.monotonic() > nameless_at:
                return fail(looking.why_not(discovery, (), _NAMELESS))
            discovery.refresh_soon()
            continue
        if event is None:
            return DONE
        for line in _lines(event, args.service, as_documents=args.json):
            say(line)


def _lines(event: Event, services: list[str], *, as_documents: bool) -> Iterator[str]:
    now = datetime.now().astimezone()
    if isinstance(event, InstancesChanged):
        if services and event.name not in services:
            return
        for mark, word, instance in _differences(event):
            if as_documents:
                yield as_json({"time": now.isoformat(), "event": word, **looking.described(instance)})
            else:
                zone = f"  zone {plain(instance.zone)}" if instance.zone else ""
                where = f"{plain(event.name)}  {plain(looking.address(instance))}{zone}  {plain(instance.id)}"
                yield f"{now:%H:%M:%S} {mark} {where}".rstrip()
    elif isinstance(event, RegistryDown | RegistryBack):
        down = isinstance(event, RegistryDown)
        reason = event.reason if isinstance(event, RegistryDown) else ""
        if as_documents:
            word = "registry_down" if down else "registry_back"
            yield as_json({"time": now.isoformat(), "event": word, "registry": event.name, "reason": reason})
        else:
            words = f"does not answer: {plain(reason)}" if down else "answers again"
            yield f"{now:%H:%M:%S} ! {event.name} {words}"


def _differences(event: InstancesChanged) -> list[tuple[str, str, Instance]]:
    return [
        *(("-", "removed", one) for one in event.removed),
        *(("~", "changed", now) for _, now in event.changed),
        *(("+", "added", one) for one in event.added),
    ]
