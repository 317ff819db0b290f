"""Events: who hears what, in which order, and what a bad listener can not do."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from resilient import CircuitBreaker, CircuitStateChanged, Event, State, listen
from resilient.events import Outbox, publish


@dataclass(frozen=True, slots=True)
class Broken(Event):
    """Something broke."""


@dataclass(frozen=True, slots=True)
class Mended(Event):
    """Something works again."""


def test_a_listener_hears_its_kind_until_it_stops() -> None:
    """Subclasses too; stopping twice is fine."""
    broken: list[Event] = []
    everything: list[Event] = []
    stop, stop_all = listen(broken.append, Broken), listen(everything.append, Event)
    publish(Broken("a", 1.0))
    publish(Mended("a", 2.0))
    stop()
    stop()
    publish(Broken("b", 3.0))
    stop_all()
    publish(Broken("c", 4.0))
    assert [event.name for event in broken] == ["a"]
    assert [event.name for event in everything] == ["a", "a", "b"]


def test_a_listener_that_raises_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The others hear the event, the breaker does its work."""
    caplog.set_level(logging.ERROR, "resilient")
    heard: list[Event] = []

    def bad(_event: Event) -> None:
        raise RuntimeError("a bug in the listener")

    breaker = CircuitBreaker("listened", listeners=[bad, heard.append])
    breaker.force_open()
    assert breaker.state is State.FORCED_OPEN
    assert len(heard) == 1
    assert "a listener raised" in caplog.text


def test_what_can_not_be_a_listener_is_refused_at_once() -> None:
    """An async function would never be awaited; swapped arguments are a mistake."""

    async def alistener(_event: Event) -> None: ...

    with pytest.raises(TypeError, match="nobody would await it"):
        listen(alistener, Event)
    with pytest.raises(TypeError, match="must be callable"):
        listen("print", Event)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(TypeError, match="a kind of Event"):
        listen(CircuitStateChanged, print)  # type: ignore[arg-type, misc]  # the mistake under test
    with pytest.raises(TypeError, match="nobody would await it"):
        CircuitBreaker(listeners=[alistener])


def test_an_outbox_delivers_in_order_and_once_even_when_a_delivery_puts_more() -> None:
    """A listener that causes an event hears it after the one it is at."""
    delivered: list[int] = []

    def deliver(item: int) -> None:
        delivered.append(item)
        if item < 3:
            box.queue.append(item + 1)
            box.drain()

    box = Outbox(deliver)
    box.queue.append(1)
    box.drain()
    assert delivered == [1, 2, 3]
