"""Ctrl-C anywhere in a request: afterwards no lease, place, use of a pool or key that is being made is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest

from resilient import CircuitBreaker, Pipeline, Retry
from resilient.keyed import Keyed
from resilient.policies.bulkhead import Bulkhead
from resilient.testing import VirtualClock
from resilient.transport import ResilientTransport
from tests.sweeping import sweep

_URL = "http://shop/"

pytestmark = pytest.mark.filterwarnings("ignore:an answer of:ResourceWarning")  # one that is lost on its way says so


class Body(httpx.SyncByteStream):
    """What an instance answers; somebody has to close it."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"good"

    def close(self) -> None:
        self.closed = True


class Instance(httpx.BaseTransport):
    """Answers with one status after the other; the last one stays."""

    def __init__(self, statuses: list[int], bodies: list[Body]) -> None:
        self.statuses = statuses
        self.bodies = bodies

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The next status."""
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        self.bodies.append(Body())
        return httpx.Response(status, stream=self.bodies[-1])


class Requested:
    """A transport that was not used yet, in front of two instances."""

    def __init__(self, *statuses: int) -> None:
        self.bodies: list[Body] = []
        self.bulkhead = Bulkhead(2)
        clock, left = VirtualClock(), list(statuses)
        self.transport = ResilientTransport(
            "static://shop=127.0.0.1:1,shop=127.0.0.1:2",
            policies=lambda _key: Pipeline(
                CircuitBreaker(clock=clock), Retry(rng=lambda: 0.0, clock=clock), self.bulkhead
            ),
            transport=lambda _instance: Instance(left, self.bodies),
            clock=clock,
        )

    def run(self) -> None:
        """One request, read and closed."""
        answer = self.transport.handle_request(httpx.Request("GET", _URL))
        try:
            answer.read()
        finally:
            answer.close()

    def left(self) -> str:
        """What is still held, and whether the next request works."""
        pools = self.transport._pools._pools.values()
        held = {
            "leases": self.transport.balancer("shop").snapshot().in_flight,
            "places": self.bulkhead.snapshot().in_flight,
            "users of pools": sum(len(pool.users) for pool in pools),
            "pools that nobody can close": sum(hasattr(pool, "transport") and not pool._made for pool in pools),
            "waiting": sum(len(p.waiting) for p in self.transport.pipeline("shop").policies if isinstance(p, Retry)),
        }
        said = [f"{count} {what}" for what, count in held.items() if count]
        self.run()
        return ", ".join(said)


@pytest.mark.parametrize("statuses", [(200,), (503, 200)], ids=["good", "repeated"])
def test_an_interrupted_request_holds_nothing(statuses: tuple[int, ...]) -> None:
    """Neither while its key, pool and listeners are made, nor between the headers and the end of the body."""
    swept = sweep(lambda: Requested(*statuses), Requested.run, Requested.left)
    assert not swept.problems, "\n".join(swept.problems)
    assert swept.places > 300


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*gc_callback:pytest.PytestUnraisableExceptionWarning"
)  # hypothesis watches collections
def test_an_interrupt_between_the_headers_and_the_caller_closes_the_answer() -> None:
    """A stream that nobody closes would keep a connection; what httpx's own closing leaves is not ours."""

    def is_open(state: Requested) -> str:
        return "open" if not all(body.closed for body in state.bodies) else ""

    ours = [
        problem
        for problem in sweep(lambda: Requested(503, 200), Requested.run, is_open).problems
        if problem.startswith(("transport/", "balancing/", "policies/"))
        and not problem.split()[1].startswith(("run", "discard_all_but"))
    ]
    assert not ours, "\n".join(ours)


def test_a_key_whose_making_was_interrupted_is_made_again() -> None:
    """By the same thread and by others: none waits for one that will never be there."""

    def problem(keyed: Keyed[str, object]) -> str:
        asker = threading.Thread(target=lambda: keyed["a"], daemon=True)
        asker.start()
        asker.join(10)
        return "waits for ever" if asker.is_alive() or keyed["a"] is None else ""

    def made() -> Keyed[str, object]:
        return Keyed(lambda _key: object())

    swept = sweep(made, lambda keyed: keyed["a"], problem)
    assert not swept.problems, "\n".join(swept.problems)
    assert swept.places > 8
