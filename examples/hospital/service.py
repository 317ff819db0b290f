"""What the four services share: who a replica is, how it answers, how it is found, and how it goes.

A service is a module with tables, routes and a `Service`; `Service.main()` makes a process of it:

    python -m examples.hospital.patient --registry eureka://localhost:8761 --database sqlite:///patient.db

It listens on a free port, is registered by the library once it can answer, and on SIGTERM is taken off the list first,
answers what still comes for a second, and then ends.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import MetaData
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from examples.hospital.actuator import watch
from examples.hospital.answers import ServedBy, handlers
from examples.hospital.chaos import Breakable
from examples.hospital.database import Database, DatabaseError, Fill
from examples.hospital.messages import Broker, Work, broker_of_url
from examples.hospital.post import Post, PostRoom
from examples.support.serving import HOST, listen_or_exit, log_to_stderr, serve
from resilient import ConfigError
from resilient.discovery import Registration, Registry
from resilient.telemetry import Health
from resilient.transport.asgi import ResilientMiddleware

T = TypeVar("T", bound=AbstractAsyncContextManager[Any])

_ANYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  # there others find it at the address that reaches the registry
DRAIN = 1.0  # seconds between "do not send me any more" and the end: callers ask the registry twice as often


class Replica:
    """One running copy of a service.

    Args:
        service: the logical name.
        id: how this copy calls itself, in every answer; default the name and something unique.
        registry: where it is listed, and where it finds the others.
        database: of the service.
        broker: of the hospital's messages; None: they wait in the database until there is one.
        chaos: whether it may be told to misbehave.
    """

    def __init__(
        self,
        service: str,
        *,
        id: str | None,  # noqa: A002  # the registry's word
        registry: Registry,
        database: Database,
        broker: Broker | None = None,
        chaos: bool = False,
    ) -> None:
        self.service = service
        self.id = id or f"{service}-{secrets.token_hex(3)}"
        self.registry = registry
        self.database = database
        self.broker = broker
        self.health = Health({"database": database.ping})
        self.chaos = chaos
        self.draining = False
        self.held: list[AbstractAsyncContextManager[Any]] = []

    def hold(self, thing: T) -> T:
        """Have `thing` entered before this copy is listed, and left after it has answered the last request."""
        self.held.append(thing)
        return thing

    def post(self, room: PostRoom, takes: Mapping[str, Work]) -> Post:
        """The messages of this copy: by topic, what is done with them."""
        return self.hold(room.open(self.service, self.database, self.broker, takes))

    def counts_of(self, post: Post) -> Route:
        """Where this copy says what it has sent and taken; the gateway has no route that leads there."""

        async def counts(_: Request) -> Response:
            return self.answer({"connected": post.connected, **asdict(post.counts)})

        return Route("/messages", counts, methods=["GET"])

    def answer(self, document: Mapping[str, Any], status: int = 200) -> JSONResponse:
        """`document` as JSON, and who says so."""
        return JSONResponse({**document, "served_by": self.id}, status)


class Service:
    """A service, as its module describes it.

    Args:
        name: the logical name, by which others find it.
        doc: what it is, for `--help`.
        metadata: its tables.
        routes: makes its routes.
        fill: writes the first rows.
    """

    def __init__(
        self,
        name: str,
        doc: str | None,
        metadata: MetaData,
        routes: Callable[[Replica], Sequence[BaseRoute]],
        *,
        fill: Fill | None = None,
    ) -> None:
        self.name = name
        self._doc = doc or name
        self.metadata = metadata
        self._routes = routes
        self.fill = fill

    def app(self, replica: Replica, registration: Registration | None = None) -> Starlette:
        """The service as a web application.

        Args:
            replica: this copy of it.
            registration: is entered when the service can answer, and left before it can not.
        """

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(replica.database.close)
                for thing in replica.held:
                    await stack.enter_async_context(thing)
                if registration is not None:
                    await stack.enter_async_context(registration)
                yield

        app = Starlette(
            routes=self._routes(replica),
            middleware=[
                Middleware(ServedBy, replica=replica),
                Middleware(ResilientMiddleware),
                *([Middleware(Breakable, replica=replica)] if replica.chaos else []),
            ],
            exception_handlers=handlers(replica),
            lifespan=lifespan,
        )
        return watch(app, replica.health)

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Run it as a process."""
        parser = argparse.ArgumentParser(prog=self.name, description=self._doc.partition("\n")[0])
        parser.add_argument("--registry", help="such as eureka://localhost:8761 (default: $RESILIENT_DISCOVERY)")
        default = f"sqlite:///{self.name}.db"
        parser.add_argument(
            "--database",
            metavar="URL",
            type=_or_file,
            default=default,
            help=f"or @FILE with the URL in it, such as a secret (default: {default})",
        )
        parser.add_argument("--broker", metavar="URL", help="such as nats://localhost:4222 or kafka://localhost:9092")
        parser.add_argument("--id", help="how this replica calls itself (default: the name and six hex digits)")
        parser.add_argument("--host", default=HOST, help="where to listen, and where others find it (%(default)s)")
        parser.add_argument("--port", type=int, default=0, help="where to listen (default: any free port)")
        parser.add_argument("--chaos", action="store_true", help="may be told to misbehave at /chaos, for rehearsals")
        arguments = parser.parse_args(argv)
        log_to_stderr()
        try:
            registry = Registry.from_url(arguments.registry)
            broker = broker_of_url(arguments.broker) if arguments.broker else None
            database = Database(arguments.database, self.metadata)
            asyncio.run(database.set_up(self.fill))
        except (ConfigError, DatabaseError) as error:
            parser.error(str(error))
        replica = Replica(
            self.name,
            id=arguments.id,
            registry=registry,
            database=database,
            broker=broker,
            chaos=arguments.chaos,
        )
        listener = listen_or_exit(parser, arguments.port, host=arguments.host)
        own = None if arguments.host in _ANYWHERE else arguments.host
        registration = registry.register(
            self.name, host=own, port=listener.getsockname()[1], metadata={"replica": replica.id}
        )

        def drain() -> None:
            replica.draining = True
            replica.health.refuse_traffic()
            registration.set_status("OUT_OF_SERVICE")

        serve(self.app(replica, registration), listener, name=replica.id, on_stop=drain, drain=DRAIN)


def _or_file(given: str) -> str:
    """What was given, or after `@` what the file says: a password on a command line is one that everybody reads."""
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{given[1:]} cannot be read: {error}") from error
