"""Rule 14 with a real Redis: there, hung, killed, empty; and with processes that are really others."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from resilient import CircuitBreaker, CircuitOpenError, Permit, State, listen, names
from resilient.policies.redis_state import RedisState
from resilient.shared_state import Known, Phase, Said, SharedStateLost, SharedStateRegained, Word
from tests.redis_server import RedisProcess
from tests.waiting import wait_until


@pytest.fixture
def server() -> Iterator[RedisProcess]:
    """A Redis of this test's own."""
    with RedisProcess() as running:
        yield running


@pytest.fixture(autouse=True)
def no_breakers_of_other_tests() -> Iterator[None]:
    """A breaker is part of a cycle: dropped, it is shared until it is collected, and its Redis is gone by then."""
    yield
    gc.collect()


@contextlib.contextmanager
def stopped(server: RedisProcess) -> Iterator[None]:
    """A Redis that takes connections and answers nothing."""
    process = server._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def breaker(name: str, server: RedisProcess, **settings: Any) -> CircuitBreaker:
    """The breaker `name` of one process more, as far as Redis can tell."""
    names.forget()
    shared = RedisState(server.url, poll=0.05, lease=1.0, timeout=0.5)
    given = dict[str, Any](open_duration=lambda _attempt: 30.0, half_open_successes=1) | settings
    return CircuitBreaker(name, shared=shared, **given)


def is_in(one: CircuitBreaker, state: State) -> bool:
    """Whether it is, now."""
    return one.state is state


def said(word: Word, *, name: str = "db", seconds: float = 0.0, holder: str = "me", epoch: str = "") -> Said:
    """A sentence."""
    return Said(name, word, holder, seconds, "because", epoch)


def ask(state: RedisState, *sentences: Said) -> Known:
    """Say them one after the other; the last answer."""
    return [state.exchange([one])[0] for one in sentences][-1]


def admitted(one: CircuitBreaker) -> Permit:
    """Call until it is admitted."""

    def attempt() -> Permit | None:
        with contextlib.suppress(CircuitOpenError):
            return one.acquire()
        return None

    permit = wait_until(attempt, what="a call admitted")
    assert permit is not None
    return permit


# --- the script -----------------------------------------------------------------------------------------------------


def test_the_later_end_wins_with_its_reason(server: RedisProcess) -> None:
    """By the server's clock; each opening is an epoch of its own."""
    state = RedisState(server.url)
    first = ask(state, said(Word.OPENED, seconds=30.0))
    second = ask(state, Said("db", Word.OPENED, "other", 10.0, "something else"))
    third = ask(state, Said("db", Word.OPENED, "other", 60.0, "worse"))
    assert 29.0 < second.seconds_left <= 30.0
    assert (second.reason, third.reason) == ("because", "worse")
    assert 59.0 < third.seconds_left <= 60.0
    assert len({first.epoch, second.epoch, third.epoch}) == 3
    assert ask(state, said(Word.READ, name="mail")).phase is Phase.UNKNOWN


def test_a_stale_close_changes_nothing(server: RedisProcess) -> None:
    """Only one that knows the last opening closes; also when the key was gone in between."""
    state = RedisState(server.url)
    old = ask(state, said(Word.OPENED, seconds=30.0)).epoch
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    new = ask(state, said(Word.OPENED, seconds=30.0)).epoch
    assert ask(state, said(Word.CLOSED, epoch=old)).phase is Phase.OPEN
    assert ask(state, said(Word.CLOSED, epoch=new)).phase is Phase.CLOSED
    assert ask(state, said(Word.READ)).phase is Phase.CLOSED
    assert ask(state, said(Word.OPENED, seconds=5.0)).phase is Phase.OPEN


def test_one_lease_at_a_time_and_only_when_the_open_time_is_over(server: RedisProcess) -> None:
    """Granted, refused with what is left, renewed, given back."""
    state = RedisState(server.url)
    early = ask(state, said(Word.OPENED, seconds=30.0), said(Word.PROBE, seconds=5.0))
    assert (early.mine, early.lease_left) == (False, 0.0)
    ask(state, said(Word.CLOSED, epoch=early.epoch), said(Word.OPENED, seconds=0.001))
    time.sleep(0.01)  # the server's own clock: the open time is over
    granted = ask(state, said(Word.PROBE, seconds=5.0))
    assert granted.mine
    assert 4.0 < granted.lease_left <= 5.0
    other = ask(state, said(Word.PROBE, seconds=50.0, holder="other"))
    assert not other.mine
    assert 0.0 < other.lease_left <= 5.0
    assert ask(state, said(Word.PROBING, seconds=20.0)).lease_left > 19.0
    assert ask(state, said(Word.RELEASE, holder="other")).lease_left > 0.0  # not its own to give back
    assert ask(state, said(Word.RELEASE)).lease_left == 0.0
    assert ask(state, said(Word.PROBE, seconds=5.0, holder="other")).mine
    reopened = ask(state, said(Word.OPENED, seconds=30.0, holder="other"))
    assert reopened.lease_left == 0.0


def test_an_opening_takes_the_lease_from_whom_it_overtakes(server: RedisProcess) -> None:
    """The prober hears that the circuit is open, and the lease is free for the next time."""
    state = RedisState(server.url)
    ask(state, said(Word.PROBE, seconds=50.0))
    ask(state, said(Word.OPENED, seconds=30.0, holder="other"))
    heard = ask(state, said(Word.PROBING, seconds=50.0))
    assert heard.phase is Phase.OPEN
    assert (heard.mine, heard.lease_left) == (False, 0.0)


def test_every_key_expires_and_carries_its_name(server: RedisProcess) -> None:
    """Names that nobody uses any more do not stay."""
    state = RedisState(server.url, namespace="shop")
    ask(state, said(Word.OPENED, seconds=30.0))
    ask(state, said(Word.PROBE, name="mail", seconds=5.0))
    ask(state, said(Word.CLOSED, name="done"), said(Word.READ, name="never"))
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert sorted(client.scan_iter()) == ["shop:db", "shop:done", "shop:mail:probe"]
        lives = {key: client.pttl(key) for key in client.scan_iter()}
    assert 89_000 < lives["shop:db"] <= 90_000
    assert 59_000 < lives["shop:done"] <= 60_000
    assert 4_000 < lives["shop:mail:probe"] <= 5_000


def test_any_number_of_circuits_in_one_script(server: RedisProcess) -> None:
    """One EVALSHA for all that fit; more are cut, in order."""
    state = RedisState(server.url)
    ask(state, said(Word.OPENED, name="c-7", seconds=30.0), said(Word.OPENED, name="c-600", seconds=30.0))
    with redis.Redis.from_url(server.url) as client:
        before: Any = client.info("commandstats")
        known = state.exchange([said(Word.READ, name=f"c-{number}") for number in range(700)])
        after: Any = client.info("commandstats")
    assert [number for number, one in enumerate(known) if one.phase is Phase.OPEN] == [7, 600]
    assert after["cmdstat_evalsha"]["calls"] - before["cmdstat_evalsha"]["calls"] == 3


def test_text_answers_do_as_well(server: RedisProcess) -> None:
    """A URL that asks redis-py for text; a reason that is long, and no ASCII."""
    state = RedisState(f"{server.url}?decode_responses=True")
    known = ask(state, Said("db", Word.OPENED, "me", 5.0, "überlastet " * 100))
    assert known.reason.startswith("überlastet")
    assert len(known.reason) == 200


# --- breakers -------------------------------------------------------------------------------------------------------


def test_breakers_open_probe_and_close_together(server: RedisProcess) -> None:
    """One trips, all are open; one probes, all are closed."""
    fleet = [breaker("db", server) for _ in range(3)]
    fleet[0].open(1.0)
    for one in fleet:
        wait_until(functools.partial(is_in, one, State.OPEN), what="open in all")
    probe = admitted(fleet[1])
    assert [one.state for one in fleet] == [State.OPEN, State.HALF_OPEN, State.OPEN]
    with pytest.raises(CircuitOpenError):
        fleet[0].acquire()
    probe.success()
    for one in fleet:
        wait_until(functools.partial(is_in, one, State.CLOSED), what="closed in all")


def test_calls_go_on_while_redis_hangs(server: RedisProcess) -> None:
    """SIGSTOP: thousands of calls are answered, opened on and refused by what this process sees."""
    heard: list[Any] = []
    stops = [listen(heard.append, SharedStateLost), listen(heard.append, SharedStateRegained)]
    one = breaker("db", server)
    with stopped(server):
        for number in range(5_000):
            assert one.call(int, number) == number
        for _ in range(20):
            one.acquire().failure()
        with pytest.raises(CircuitOpenError):
            one.acquire()
        one.close()
        one.open(0.05)
        wait_until(lambda: heard, what="the loss told")
        admitted(one).success()
        assert one.state is State.CLOSED
        assert [type(event) for event in heard] == [SharedStateLost]  # all of this happened while it hung
    wait_until(lambda: len(heard) == 2, what="Redis regained")
    assert isinstance(heard[1], SharedStateRegained)
    for stop in stops:
        stop()


def test_a_redis_that_is_killed_and_starts_empty(server: RedisProcess, caplog: pytest.LogCaptureFixture) -> None:
    """What is open stays open, one warning, and the new Redis hears of it."""
    caplog.set_level(logging.INFO, "resilient")
    one = breaker("db", server)
    one.open(60.0)
    wait_until(lambda: RedisState(server.url).exchange([said(Word.READ)])[0].phase is Phase.OPEN, what="told")
    server.kill()
    wait_until(lambda: "does not answer" in caplog.text, what="the warning")
    assert one.state is State.OPEN
    server.start()
    wait_until(lambda: "answers again" in caplog.text, what="Redis regained")
    fresh = breaker("db", server)
    wait_until(lambda: fresh.state is State.OPEN, what="open in a process that has just started")
    assert (one.snapshot().retry_after or 0.0) > 30.0
    assert caplog.text.count("does not answer") == 1


# --- processes ------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from resilient import CircuitBreaker, CircuitOpenError
from resilient.policies.redis_state import RedisState

shared = RedisState(sys.argv[1], poll=0.05, lease=1.0)
one = CircuitBreaker("db", shared=shared, open_duration=lambda _attempt: 60.0, half_open_successes=1)
probe = None
for line in sys.stdin:
    match line.split():
        case ["fail"]:
            for _ in range(5):
                one.acquire().failure(ConnectionError("gone"))
        case ["open", seconds]:
            one.open(float(seconds))
        case ["ask"]:
            try:
                probe = one.acquire()
            except CircuitOpenError:
                pass
        case ["success"]:
            probe.success()
    print(one.state.value, flush=True)
"""


class Child:
    """A process with the breaker `db`; each word is answered with its state."""

    def __init__(self, server: RedisProcess) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, word: str) -> State:
        """Its state after `word`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return State(self.process.stdout.readline().strip())

    def becomes(self, state: State, word: str = "state") -> None:
        """Wait for it, saying `word` meanwhile."""
        wait_until(lambda: self.say(word) is state, what=f"the child {state.value}")

    def end(self) -> None:
        """Without a word to anybody."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def children(server: RedisProcess) -> Iterator[list[Child]]:
    """Two processes."""
    both = [Child(server), Child(server)]
    yield both
    for one in both:
        one.end()


def test_two_processes_are_one_circuit(children: list[Child]) -> None:
    """One fails, the other refuses; one probes and closes it for both."""
    one, other = children
    assert one.say("fail") is State.OPEN
    other.becomes(State.OPEN)
    assert other.say("state") is State.OPEN


def test_a_prober_that_is_killed_leaves_the_probing_to_the_other(children: list[Child], server: RedisProcess) -> None:
    """kill -9 in half-open: the lease ends, the other one probes and closes."""
    one, other = children
    one.say("open 1.0")
    other.becomes(State.OPEN)
    one.becomes(State.HALF_OPEN, "ask")
    assert other.say("ask") is State.OPEN
    one.end()
    other.becomes(State.HALF_OPEN, "ask")
    assert other.say("success") is State.CLOSED
    wait_until(lambda: RedisState(server.url).exchange([said(Word.READ)])[0].phase is Phase.CLOSED, what="told")
