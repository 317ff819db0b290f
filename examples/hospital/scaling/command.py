"""The command line of the autoscaler."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from examples.hospital.scaling.app import make_app
from examples.hospital.scaling.autoscaler import Autoscaler, Replicas
from examples.hospital.scaling.docker import DockerReplicas
from examples.hospital.scaling.listing import EurekaListing
from examples.hospital.scaling.local import LocalReplicas, Version
from examples.hospital.scaling.target import Limits
from examples.support.serving import HOST, listen_or_exit, log_to_stderr, serve
from resilient import ConfigError

logger = logging.getLogger("hospital.scaling")

_TOKEN: Final = "AUTOSCALER_TOKEN"  # noqa: S105  # the variable's name; command lines are seen by everybody
_OK: Final = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run it until Ctrl-C (exit status 0) or SIGTERM, which ends it in peace and then as usual; 2: not understood."""
    words = list(sys.argv[1:] if argv is None else argv)
    ours, _, theirs = (
        (words[: words.index("--")], "--", words[words.index("--") + 1 :]) if "--" in words else (words, "", [])
    )
    parser = _parser()
    arguments = parser.parse_args(ours)
    log_to_stderr()
    try:
        limits = Limits(arguments.min, arguments.max, cooldown=arguments.cooldown, quiet=arguments.quiet)
        replicas = _replicas(arguments, theirs)
        autoscaler = Autoscaler(replicas, limits, alert=arguments.alert or None, stale=arguments.stale)
        app = make_app(autoscaler, replicas, token=os.environ.get(_TOKEN))
    except ConfigError as error:
        parser.error(str(error))
    serve(app, listen_or_exit(parser, arguments.port, host=arguments.host), name="autoscaler")
    return _OK


def _replicas(arguments: argparse.Namespace, command: Sequence[str]) -> Replicas:
    if arguments.docker_service:
        if command:
            raise ConfigError("give --docker-service, or a module after --, not both")
        return DockerReplicas(arguments.docker_service, host=arguments.docker_host)
    if not command:
        raise ConfigError("what is to be scaled? Give a module after --, or --docker-service")
    if not arguments.registry:
        raise ConfigError("--registry is missing: replicas are watched and drained there", path="registry")
    listing = EurekaListing(arguments.registry, arguments.service)
    return LocalReplicas(
        Version(command[0], tuple(command[1:])),
        listing,
        logs=_folder(arguments.logs),
        name=f"{arguments.service}-scaled",
        health=arguments.health,
        linger=arguments.linger,
    )


def _folder(wanted: Path | None) -> Path:
    """For the logs; it stays, so that somebody can look what a replica has died of."""
    try:
        if wanted is not None:
            wanted.mkdir(parents=True, exist_ok=True)
            return wanted
        folder = Path(tempfile.mkdtemp(prefix="autoscaler-"))
    except OSError as error:
        raise ConfigError(f"the logs cannot be written: {error}", path="logs") from error
    logger.info("the logs of the replicas are in %s", folder)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autoscaler",
        usage="python -m examples.hospital.scaling [options] [-- MODULE ARGUMENT ...]",
        description="Adds replicas while an alert fires, and takes them away after quiet.",
        epilog=f"A bearer token that senders must show is read from ${_TOKEN}.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--min", type=int, default=2, help="replicas there are always")
    parser.add_argument("--max", type=int, default=5, help="replicas there are at most")
    parser.add_argument("--cooldown", type=float, default=15.0, metavar="SECONDS", help="between two steps")
    parser.add_argument("--quiet", type=float, default=60.0, metavar="SECONDS", help="without an alert, before fewer")
    parser.add_argument("--alert", default="PatientBusy", help="the alert that asks for more; '' any")
    parser.add_argument("--stale", type=float, default=300.0, metavar="SECONDS", help="an alert not told again is over")
    parser.add_argument("--service", default="patient", help="the name in the registry")
    parser.add_argument("--registry", metavar="URL", help="such as eureka://localhost:8761")
    parser.add_argument("--health", default="/actuator/health", metavar="PATH", help="of a replica")
    parser.add_argument("--linger", type=float, default=1.0, metavar="SECONDS", help="for open requests, when drained")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="for the replicas' logs (default: a new one)")
    parser.add_argument("--docker-service", metavar="NAME", help="scale this service of a swarm")
    parser.add_argument("--docker-host", default="unix:///var/run/docker.sock", metavar="URL", help="a manager")
    parser.add_argument("--host", default=HOST, help="where to listen")
    parser.add_argument("--port", type=int, default=0, help="where to listen; 0: any free port")
    return parser
