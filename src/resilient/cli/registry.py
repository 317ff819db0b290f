"""`resilient registry`: run the registry server until it is told to end."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from resilient.cli import arguments
from resilient.cli.output import DONE, as_json, complain, fail, say
from resilient.errors import ConfigError

if TYPE_CHECKING:
    from resilient.registry_server import RegistryServer

PASSWORD = "RESILIENT_REGISTRY_PASSWORD"  # noqa: S105  # the variable's name
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def add_to(commands: Any) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "registry",
        help="run a small Eureka-compatible service registry",
        description="Run a small Eureka-compatible service registry: in memory, one node, a status page at /. "
        "For development, tests and small fleets.",
        epilog="examples:\n"
        "  resilient registry\n"
        f"  {PASSWORD}=… resilient registry --bind 0.0.0.0 --user ops\n"
        "exit status: 0 after Ctrl-C or SIGTERM, 1 when it can not listen, 2 when an option is wrong",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--bind", metavar="HOST", default="127.0.0.1", help="address to listen on; default 127.0.0.1, this machine only"
    )
    add("--port", type=arguments.port, default=8761, help="port to listen on, 0 for a free one; default 8761")
    add("--user", metavar="NAME", help="ask everybody for this user, and the password of the next option")
    add(
        "--password-file",
        metavar="PATH",
        help=f"file whose first line is the password; default: the environment's ${PASSWORD}",
    )
    add(
        "--self-preservation",
        action="store_true",
        help="keep everybody while more than 15 %% have fallen silent at once: then it is likelier the network",
    )
    add(
        "--eviction-interval",
        type=arguments.seconds,
        default=2.0,
        metavar="SECONDS",
        help="time between two looks for instances that no longer renew; default 2",
    )
    add("--max-instances", type=arguments.count, metavar="N", help="registrations beyond are refused; default 20,000")
    add("--max-bytes", type=arguments.count, metavar="N", help="of the list of everything; default 32 MiB")
    arguments.add_json(parser, "say where it listens as one line of JSON")
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    asked = threading.Event()
    server: RegistryServer | None = None

    def stop(_number: int, _frame: FrameType | None) -> None:  # never raises: an import in progress may swallow that
        asked.set()
        if server is not None:
            server.ask_to_stop()

    signal.signal(signal.SIGINT, stop)  # before the imports that take time: Ctrl-C is quiet from the first moment
    signal.signal(signal.SIGTERM, stop)
    from resilient.registry_server import RegistryServer

    _allow_connections()
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # not a line for each port scanner
    try:
        auth = _auth(args)
        server = RegistryServer(args.bind, args.port, auth=auth, **_options(args))
        server.start()
    except (ImportError, ConfigError, RuntimeError) as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"cannot listen on {args.bind} port {args.port}: {error.strerror or error}")
    if asked.is_set():
        server.ask_to_stop()  # the signal came before there was a server to tell
    else:
        _announce(server, args, guarded=auth is not None)
    server.join()
    return DONE if asked.is_set() else fail("the registry ended unexpectedly")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    given = {"max_instances": args.max_instances, "max_bytes": args.max_bytes}
    return {
        "eviction_interval": args.eviction_interval,
        "self_preservation": args.self_preservation,
        **{name: value for name, value in given.items() if value is not None},
    }


def _auth(args: argparse.Namespace) -> tuple[str, str] | None:
    """User and password. A password is never an option: everybody on the machine can read the list of processes."""
    if args.user is None:
        if args.password_file is not None:
            raise ConfigError("--password-file needs --user")
        return None
    if args.password_file is None:
        password = os.environ.get(PASSWORD, "")
        if not password:
            raise ConfigError(f"--user needs a password: set ${PASSWORD}, or give --password-file")
        return args.user, password
    try:
        lines = Path(args.password_file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ConfigError(f"cannot read the password in {args.password_file}: {why}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"the first line of {args.password_file} is empty: it should be the password")
    return args.user, lines[0]


def _announce(server: RegistryServer, args: argparse.Namespace, *, guarded: bool) -> None:
    if args.json:
        where = {"url": server.url, "eureka": f"{server.http}/eureka", "page": f"{server.http}/"}
        say(as_json({"event": "listening", **where}))
    else:
        say(f"registry listening on {server.http}/eureka (status page: {server.http}/)")
    if args.bind not in _LOOPBACK and not guarded:
        complain(f"whoever reaches port {server.port} may read and register; --user asks for a password")


def _allow_connections() -> None:
    """Each connection is an open file: take as many as the system lets us have."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        _quietly(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard)))


def _quietly(change: Callable[[], object]) -> None:
    try:
        change()
    except (OSError, ValueError):  # then the server takes fewer connections
        logging.getLogger("resilient").debug("the limit of open files stays", exc_info=True)
