"""The pytest plugin, in a pytest run of its own; and what the room loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

APPLICATION = """
import resilient

@resilient.command("app.price", breaker=resilient.CircuitBreaker(consecutive_failures=1))
def price():
    raise ConnectionError("down")

BREAKER = resilient.Command.of(price).breaker
"""

TESTS = """
import pytest, time
import resilient
from application import BREAKER, price

def trip():
    with pytest.raises(ConnectionError):
        price()

def test_a_trips_it():
    trip()
    assert BREAKER.state is resilient.State.OPEN

def test_b_what_it_left():
    assert BREAKER.state is resilient.State.LEFT

def test_c_clock(resilient_clock):
    trip()
    resilient_clock.sleep(BREAKER.snapshot().retry_after)
    trip()
    assert BREAKER.now() > 1004.0

def test_d_disabled(resilient_disabled):
    for _ in range(3):
        trip()

def test_e_reset(resilient_reset):
    trip()

def test_f_is_clean_after_them():
    assert BREAKER.state is resilient.State.CLOSED
    assert BREAKER.now is time.monotonic
"""


@pytest.mark.parametrize(("setting", "left"), [("", "OPEN"), ("resilient_reset = true", "CLOSED")])
def test_fixtures_and_the_setting(pytester: pytest.Pytester, setting: str, left: str) -> None:
    """Time, no policies, and everything as new: on request, or before each test."""
    pytester.makeini(f"[pytest]\naddopts = -p resilient.testing.plugin -p no:cacheprovider\n{setting}\n")
    pytester.makepyfile(application=APPLICATION, test_it=TESTS.replace("State.LEFT", f"State.{left}"))
    result = pytester.runpytest_inprocess("-p", "no:asyncio", "--import-mode=prepend")
    result.assert_outcomes(passed=6)


def test_the_room_loads_neither_pytest_nor_a_client_nor_an_event_loop() -> None:
    """Those who need one switch only pay for nothing else; names are there all the same."""
    code = (
        "import sys, resilient\n"
        "print('resilient.testing' in sys.modules)\n"
        "import resilient.testing as room\n"
        "print(*[m for m in ('asyncio', 'httpx', 'pytest', '_pytest') if m in sys.modules])\n"
        "print(room.FaultyTransport.__name__, room.AsyncFaultyTransport.__name__)\n"
        "print(hasattr(room, 'Faulty'))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == ["False", "", "FaultyTransport AsyncFaultyTransport", "False"]
