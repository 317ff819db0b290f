"""Rule 14 across a fork, with a real Redis: a child hears of what its parent tells, and tells what itself finds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.redis_server import RedisProcess


@pytest.fixture
def server() -> Iterator[RedisProcess]:
    """A Redis of this test's own."""
    with RedisProcess() as running:
        yield running


BEGIN = """
import faulthandler, os, sys, time, warnings

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12+ warns of what is tried: a fork beside threads
faulthandler.dump_traceback_later(25.0, exit=True)
from resilient import CircuitBreaker, CircuitOpenError, RedisState, State
from resilient.shared_state import Phase, Said, Word

asking = RedisState(sys.argv[1])
shared = RedisState(sys.argv[1], poll=0.05, lease=1.0)
breaker = CircuitBreaker("db", shared=shared, open_duration=lambda _attempt: 30.0, half_open_successes=1)
guarded = breaker(lambda: "fine")

def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True

def refused():
    try:
        guarded()
    except CircuitOpenError:
        return True
    return False

def trip():
    for _ in range(5):
        breaker.acquire().failure(ConnectionError("down"))

def told():
    return asking.exchange([Said("db", Word.READ, "test", 0.0, "", "")])[0].phase is Phase.OPEN

def ended(*children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

guarded()
assert until(lambda: breaker._sharing.link.due > 0.0)  # the thread runs, and has spoken with Redis
"""

A_PARENT_TELLS = """
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    guarded()
    os.write(writer, b"!")  # it lives, and its calls succeed
    heard = until(refused)
    seen = breaker.snapshot()
    here = seen.failed == 0 and seen.successes > 0 and (seen.retry_after or 0.0) > 15.0
    os._exit(0 if heard and here else 1)
os.read(reader, 1)
trip()
print(ended(child), breaker.state.value)
"""

A_CHILD_TELLS = """
child = os.fork()
if child == 0:
    trip()
    os._exit(0 if until(told) else 1)
print(until(refused), ended(child), breaker.snapshot().failed)
"""

CHILDREN_CLOSE = """
trip()
assert until(told)
reader, writer = os.pipe()
children = []
for number in range(2):
    child = os.fork()
    if child == 0:
        open_at_first = refused()
        os.write(writer, b"!")
        closed = until(lambda: not refused())
        os._exit(0 if open_at_first and closed and breaker.state is State.CLOSED else 1)
    children.append(child)
    os.read(reader, 1)
breaker.close()
print(ended(*children), breaker.state.value)
"""

OPEN_AT_THE_FORK = """
breaker.open(1.0)
assert until(told)
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.read(reader, 1)  # the parent has probed, and closed it
    os._exit(0 if until(lambda: not refused()) and breaker.state is State.CLOSED else 1)
probed = until(lambda: not refused())
os.write(writer, b"!")
print(probed, ended(child), breaker.state.value)
"""


def run_script(script: str, server: RedisProcess) -> str:
    """Run it in an interpreter of its own, so that it is not this one that is forked."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script, server.url],
        capture_output=True,
        text=True,
        timeout=30.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_forked_child_that_only_succeeds_hears_that_its_parent_has_tripped(server: RedisProcess) -> None:
    """Its breaker was made before the fork; no call of its own fails, and yet it refuses, until the shared end."""
    assert run_script(A_PARENT_TELLS, server) == "[0] open"


def test_a_parent_hears_that_its_child_has_tripped(server: RedisProcess) -> None:
    """The child's first call starts the thread that it does not have; nothing of it is counted in the parent."""
    assert run_script(A_CHILD_TELLS, server) == "True [0] 0"


def test_children_forked_from_an_open_circuit_hear_that_it_is_closed(server: RedisProcess) -> None:
    """They refuse at first, as their parent did, and go on when somebody closes it for all."""
    assert run_script(CHILDREN_CLOSE, server) == "[0, 0] closed"


def test_a_child_forked_while_open_goes_on_when_its_parent_has_probed(server: RedisProcess) -> None:
    """The end of the open time is the same for both, and so is what the probe finds."""
    assert run_script(OPEN_AT_THE_FORK, server) == "True [0] closed"
