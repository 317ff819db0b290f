"""A prefork server, small: one parent that loads the application, and workers that it forks, each on a port of its own.

    PROMETHEUS_MULTIPROC_DIR=… python -m tests.telemetry.prefork 3

Prints `pid port` for each worker. Each line on standard input forks one more; the end of the input ends all.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from resilient import CircuitBreaker
from resilient.telemetry import Actuator, HttpRequestMetrics

registry = CollectorRegistry()
breaker = CircuitBreaker("db")


async def call(request: Request) -> Response:
    """So many calls through the breaker."""
    for _ in range(int(request.query_params["times"])):
        breaker.call(len, "")
    return PlainTextResponse("done")


app = Starlette(routes=[Route("/call", call), Mount("/actuator", Actuator(registry=registry))])
app.add_middleware(HttpRequestMetrics, registry=registry)


def fork(workers: list[int]) -> None:
    """One more worker."""
    listener = socket.create_server(("127.0.0.1", 0))
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal again when it is done
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])
        sys.exit(0)
    workers.append(pid)
    print(pid, listener.getsockname()[1], flush=True)
    listener.close()


def main() -> None:
    """Run it."""
    breaker.call(len, "")  # what was loaded before the fork is counted once, not once per worker
    breaker.call(len, "")
    workers: list[int] = []
    for _ in range(int(sys.argv[1])):
        fork(workers)
    for _ in sys.stdin:
        fork(workers)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
