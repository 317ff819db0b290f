"""What the pools of a transport ask of the list of instances, and what a fork leaves of its lock."""

from __future__ import annotations

import os
import threading

import pytest

from resilient import CircuitBreaker
from resilient.balancing import Balancer
from resilient.discovery import Instance
from resilient.pipeline import Pipeline
from resilient.transport.connections import Connections
from resilient.transport.plans import Plan
from resilient.transport.routing import Route
from resilient.transport.targets import Target
from tests.listed import Listed, instances


class Counting(str):
    """A host that counts how often it is compared or looked at."""

    __slots__ = ()
    looks = 0

    def __eq__(self, other: object) -> bool:
        Counting.looks += 1
        return str.__eq__(self, str(other))

    def __hash__(self) -> int:
        return str.__hash__(self)


def test_a_sweep_looks_at_the_list_once() -> None:
    """A thousand idle pools of a thousand listed instances are not a million comparisons on the event loop."""
    known = [Instance("producer", f"h{number}", 80) for number in range(200)]
    discovery = Listed(*known)
    target = Target(
        Route("producer", "producer"),
        lambda: Plan(Pipeline(CircuitBreaker("producer")), "producer"),
        discovery,
        {False: Balancer("producer", discovery)},
    )
    Counting.looks = 0
    assert all(target.lists(Counting(one.host), 80) for one in known)
    assert Counting.looks <= 2 * len(known)


def test_what_is_listed_follows_the_list() -> None:
    """An instance that left is listed no more, one that came is."""
    discovery = Listed(*instances("ab"))
    target = Target(
        Route("producer", "producer"),
        lambda: Plan(Pipeline(CircuitBreaker("producer")), "producer"),
        discovery,
        {False: Balancer("producer", discovery)},
    )
    assert (target.lists("a.test", 80), target.lists("a.test", 81), target.lists("c.test", 80)) == (True, False, False)
    discovery.set(*instances("bc"))
    assert (target.lists("a.test", 80), target.lists("b.test", 80), target.lists("c.test", 80)) == (False, True, True)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # since 3.12: that is what is tested
def test_a_fork_while_a_context_is_made_does_not_hang_the_child() -> None:
    """The lock of the thread that makes it is the parent's; the child has one of its own."""
    connections = Connections()
    held, done = threading.Event(), threading.Event()

    def making() -> None:
        with connections._lock:
            held.set()
            done.wait(10.0)

    thread = threading.Thread(target=making, daemon=True)
    thread.start()
    assert held.wait(10.0)
    child = os.fork()
    if child == 0:
        os._exit(0 if connections._lock.acquire(blocking=False) else 1)
    done.set()
    thread.join(10.0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
