"""Rule 14: the thread that speaks with the stores of shared circuits, and stores that do not answer."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient import CircuitBreaker, ConfigError, State, listen
from resilient.policies.circuit_rounds import Ring
from resilient.policies.redis_state import RedisState
from resilient.shared_state import SharedStateLost, SharedStateRegained, Word
from resilient.testing import VirtualClock
from tests.shared_states import MemoryState, admitted, advance, process, refused, rounds, told
from tests.waiting import wait_until


@pytest.fixture
def store(clock: VirtualClock) -> MemoryState:
    """A store of this test's own."""
    return MemoryState(clock)


@pytest.fixture(autouse=True)
def no_breakers_of_other_tests() -> Iterator[None]:
    """A breaker is part of a cycle: dropped, it is shared until it is collected."""
    yield
    gc.collect()


# --- a store that does not answer -----------------------------------------------------------------------------------


def test_a_silent_store_leaves_local_rules_one_warning_one_event(
    clock: VirtualClock, store: MemoryState, caplog: pytest.LogCaptureFixture
) -> None:
    """After three seconds; and back again with the store, which hears what happened meanwhile."""
    caplog.set_level(logging.INFO, "resilient")
    heard: list[Any] = []
    stops = [listen(heard.append, SharedStateLost), listen(heard.append, SharedStateRegained)]
    one = process("db", store, clock)
    rounds(clock, store)
    store.broken = ConnectionError("no route")
    one.open(2.0)
    advance(clock, 2.0)
    assert refused(one) <= 1.0  # it may come back
    for _ in range(8):
        advance(clock, 1.0)
    wait_until(lambda: heard, what="the event")
    assert [type(event) for event in heard] == [SharedStateLost]
    assert heard[0].name == "MemoryState"
    assert "no route" in heard[0].reason
    one.acquire().failure()  # the probe, by local rules
    assert one.state is State.OPEN
    store.broken = None
    advance(clock, 1.0)
    wait_until(lambda: len(heard) == 2, what="the store back")
    assert isinstance(heard[1], SharedStateRegained)
    assert heard[1].silent_for >= 3.0
    told(store, Word.OPENED)
    levels = [record.levelname for record in caplog.records if "shared state" in record.message]
    assert levels == ["WARNING", "INFO"]
    for stop in stops:
        stop()


def test_a_store_that_hangs_keeps_nobody(clock: VirtualClock, store: MemoryState) -> None:
    """The thread waits for it; calls are judged, opened, and after three seconds probed without it."""
    go, inside = threading.Event(), threading.Event()

    class Hanging(MemoryState):
        def exchange(self, said: Any, /) -> Any:
            inside.set()
            go.wait(30.0)
            return super().exchange(said)

    one = process("db", Hanging(clock), clock)
    assert inside.wait(10.0)
    for _ in range(5):
        one.acquire().failure()
    refused(one)
    clock.advance(10.0)
    one.acquire().success()
    assert one.state is State.CLOSED
    go.set()


def test_an_answer_of_the_wrong_length_is_no_answer(clock: VirtualClock) -> None:
    """A store with a bug is a silent store."""

    class Wrong(MemoryState):
        def exchange(self, said: Any, /) -> Any:
            return []

    heard: list[Any] = []
    stop = listen(heard.append, SharedStateLost)
    one = process("db", Wrong(clock), clock)
    for _ in range(5):
        advance(clock, 1.0)
    wait_until(lambda: heard, what="the event")
    assert one.state is State.CLOSED
    stop()


# --- the thread -----------------------------------------------------------------------------------------------------


def sharing_threads() -> list[threading.Thread]:
    """The threads that speak with stores."""
    return [thread for thread in threading.enumerate() if thread.name == "resilient-shared"]


def test_one_exchange_for_any_number_of_breakers_and_none_for_dropped_ones(
    clock: VirtualClock, store: MemoryState
) -> None:
    """All in one; a breaker that is dropped is not kept, and with the last one the thread ends."""
    gc.collect()
    wait_until(lambda: not sharing_threads(), what="the threads of other tests gone")
    fleet = [process(f"db-{number}", store, clock) for number in range(50)]
    rounds(clock, store)
    before = store.exchanges
    rounds(clock, store, 3)
    assert store.exchanges == before + 3
    assert len(sharing_threads()) == 1
    del fleet
    gc.collect()
    wait_until(lambda: not sharing_threads(), what="the thread ended")
    again = process("db", store, clock)  # and it starts anew
    again.open(5.0)
    told(store, Word.OPENED)


def test_calls_never_speak_with_the_store(clock: VirtualClock) -> None:
    """Whatever they do: only the one thread does."""
    by: set[str] = set()

    class Watched(MemoryState):
        def exchange(self, said: Any, /) -> Any:
            by.add(threading.current_thread().name)
            return super().exchange(said)

    store = Watched(clock)
    one = process("db", store, clock)
    for _ in range(3):
        one.open(10.0)
        told(store, Word.OPENED)
        rounds(clock, store, 10)
        admitted(one).success()
        one.reset()
    assert by == {"resilient-shared"}


def test_a_breaker_without_a_name_shares_nothing(
    clock: VirtualClock, store: MemoryState, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them would be one circuit; it says so once. One that gets its command's name shares."""
    one = CircuitBreaker(shared=store, clock=clock)
    for _ in range(3):
        advance(clock, 1.0)
    wait_until(lambda: "without a name shares nothing" in caplog.text, what="the warning")
    one.open(5.0)
    advance(clock, 5.0)
    one.acquire().ignored()
    assert not store.said
    one.adopt_name("orders")
    advance(clock, 1.0)
    wait_until(lambda: [said for said in store.said if said.name == "orders"], what="its name")
    assert caplog.text.count("without a name") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_speaks_for_itself(clock: VirtualClock, store: MemoryState) -> None:
    """Its own thread, started when it has something to say, and another holder of leases than its parent."""
    one = process("db", store, clock)
    one.open(10.0)
    told(store, Word.OPENED)
    rounds(clock, store, 10)
    refused(one)
    (parent,) = {said.holder for said in told(store, Word.PROBE)}
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: the threads of other tests
        child = os.fork()
    if child == 0:  # pragma: no cover  # in another process
        answer = b"nothing"
        try:
            store.leases.clear()
            store.said.clear()
            assert not sharing_threads()
            refused(one)
            found = told(store, Word.PROBE)
            answer = b"itself" if found[0].holder != parent and sharing_threads() else b"its parent"
        finally:
            os.write(writer, answer)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"itself"
    os.waitpid(child, 0)


def test_a_ring_is_heard_once() -> None:
    """Set, it wakes one waiting; set twice, no more than that."""
    ring = Ring()
    assert not ring.wait(0.0)
    ring.set()
    ring.set()
    assert ring.is_set()
    assert ring.wait(0.0)
    assert not ring.is_set()


def test_where_no_thread_is_to_be_had_the_breaker_is_on_its_own(
    clock: VirtualClock, store: MemoryState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a store that does not answer; the first who asks later starts it."""

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        one = process("db", store, clock)
        one.open(1.0)
        clock.advance(1.0)
        refused(one)
        clock.advance(2.0)
        one.acquire().failure()
    one.reset()
    told(store, Word.CLOSED)


def test_a_bug_in_a_store_does_not_keep_a_processor_busy(
    clock: VirtualClock, store: MemoryState, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, once a second, and the other stores go on."""

    class Buggy(MemoryState):
        poll = 1.0

    buggy = Buggy(clock)
    one, other = process("db", buggy, clock), process("db", store, clock)
    rounds(clock, store)
    buggy.poll = None  # type: ignore[assignment]  # the bug
    rounds(clock, store, 3)
    assert 1 <= caplog.text.count("a bug in the sharing") <= 3
    assert one.state is other.state is State.CLOSED


# --- what may be shared -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shared", [object(), "redis://localhost", 1, MemoryState, {}], ids=["object", "text", "number", "class", "dict"]
)
def test_what_is_no_store_is_refused_at_construction(shared: object) -> None:
    """A sentence that says what is allowed."""
    with pytest.raises(ConfigError, match="shared must be a SharedState such as RedisState"):
        CircuitBreaker("db", shared=shared)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: RedisState("http://localhost"), "url"),
        (lambda: RedisState(6379), "url"),  # type: ignore[arg-type]  # the mistake
        (lambda: RedisState("redis://h", namespace=""), "namespace"),
        (lambda: RedisState("redis://h", timeout=0), "timeout"),
        (lambda: RedisState("redis://h", poll=-1), "poll"),
        (lambda: RedisState("redis://h", poll=2.0), "lease"),
    ],
)
def test_a_redis_state_says_what_is_wrong(make: Callable[[], object], path: str) -> None:
    """Found at construction, with the argument's name."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.path == path


def test_a_password_is_never_shown() -> None:
    """Not in the repr, not in the error."""
    assert repr(RedisState("redis://user:secret@host:6379/1")) == "RedisState('redis://host:6379/1')"
    with pytest.raises(ConfigError) as caught:
        RedisState("http://user:secret@host")
    assert "secret" not in str(caught.value)


def test_without_the_redis_package_it_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra, as everything that not everybody needs."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"pip install 'resilient-patterns\[redis\]'"):
        RedisState("redis://localhost")
