"""If not that, then this: what is answered instead, when, and what happens when that fails too."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from resilient import CallTimeoutError, CircuitBreaker, CircuitOpenError, ConfigError, Fallback, Pipeline, Timeout
from resilient.decorator import command
from resilient.policies.fallback import BadResult
from tests.drive import Drive


def broken(*_args: Any, **_kwargs: Any) -> Any:
    raise ConnectionError("down")


def test_a_good_answer_passes_untouched(drive: Drive) -> None:
    """A fallback does nothing to a call that went well."""
    assert drive(Fallback(value="other"), lambda: "answer") == "answer"


def test_a_value_a_factory_and_a_function_answer_instead(drive: Drive) -> None:
    """Each way of falling back gives its answer when the call fails."""
    assert drive(Fallback(value=None), broken) is None
    first, second = drive(Fallback(factory=list), broken), drive(Fallback(factory=list), broken)
    assert first == second == []
    assert first is not second
    assert drive(Fallback(lambda place, unit="c": f"{place} {unit}"), broken, "Rome", unit="f") == "Rome f"


def test_a_keyword_only_error_gets_the_cause(drive: Drive) -> None:
    """The function learns why it was asked."""

    def explained(place: str, *, error: Exception) -> str:
        return f"{place}: {type(error).__name__} {error}"

    assert drive(Fallback(explained), broken, "Rome") == "Rome: ConnectionError down"


def test_every_trigger_reaches_it_with_its_own_cause() -> None:
    """A failure, a timeout and an open circuit arrive as what they are."""
    seen: list[Exception] = []

    def note(*, error: Exception) -> str:
        seen.append(error)
        return "fallback"

    breaker = CircuitBreaker("triggers")
    guard = Pipeline(Fallback(note), breaker, Timeout(0.02))

    async def hang() -> str:
        await asyncio.Event().wait()
        return "never"

    async def run() -> None:
        assert await guard.acall(hang) == "fallback"

    asyncio.run(run())
    guard.call(broken)
    breaker.force_open()
    guard.call(lambda: "not called")
    assert [type(error) for error in seen] == [CallTimeoutError, ConnectionError, CircuitOpenError]


def test_a_chain_stops_at_the_first_that_answers(drive: Drive) -> None:
    """Ways are tried in turn."""
    asked: list[str] = []

    def first() -> str:
        asked.append("first")
        raise KeyError("first")

    def second() -> str:
        asked.append("second")
        return "second"

    def third() -> str:
        asked.append("third")
        return "third"

    assert drive(Fallback(first, second, third), broken) == "second"
    assert asked == ["first", "second"]


def test_both_errors_are_visible_when_the_fallback_fails(drive: Drive) -> None:
    """The last way's error leaves, the call's own error is its context."""

    def also_broken() -> str:
        raise KeyError("no list")

    with pytest.raises(KeyError) as caught:
        drive(Fallback(also_broken), broken)
    assert isinstance(caught.value.__context__, ConnectionError)
    assert any("also_broken" in note for note in caught.value.__notes__)


def test_the_callers_own_mistake_gets_no_fallback(drive: Drive) -> None:
    """An HTTP 404 leaves as it is; 429 and 503 fall back."""

    def answer(status: int) -> None:
        request = httpx.Request("GET", "http://x/")
        httpx.Response(status, request=request).raise_for_status()

    with pytest.raises(httpx.HTTPStatusError):
        drive(Fallback(value="other"), answer, 404)
    assert drive(Fallback(value="other"), answer, 429) == "other"
    assert drive(Fallback(value="other"), answer, 503) == "other"


def test_on_and_ignore_choose_the_errors_and_rejections_always_count(drive: Drive) -> None:
    """`on` names failures, `ignore` wins over it, an open circuit falls back even where `on` is narrow."""
    with pytest.raises(ConnectionError):
        drive(Fallback(value="other", on=KeyError), broken)
    with pytest.raises(ConnectionError):
        drive(Fallback(value="other", ignore=ConnectionError), broken)
    breaker = CircuitBreaker("narrow")
    breaker.force_open()
    assert drive(Pipeline(Fallback(value="other", on=KeyError), breaker), broken) == "other"
    with pytest.raises(CircuitOpenError):
        drive(Pipeline(Fallback(value="other", ignore=CircuitOpenError), breaker), broken)


def test_a_nested_fallback_keeps_its_own_errors(drive: Drive) -> None:
    """A Fallback in a chain answers only the errors it is for."""
    chain = Fallback(Fallback(lambda: "for keys", on=KeyError), lambda: "for the rest")

    def missing() -> str:
        raise KeyError("x")

    assert drive(chain, broken) == "for the rest"
    assert drive(chain, missing) == "for keys"


def test_cancellation_and_interrupts_never_get_a_fallback() -> None:
    """What is no Exception leaves as it is."""

    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Fallback(value="other").call(interrupted)

    async def cancelled() -> str:
        raise asyncio.CancelledError

    async def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            await Fallback(value="other").acall(cancelled)

    asyncio.run(run())


def test_a_result_that_counts_as_a_failure_is_replaced(drive: Drive) -> None:
    """`on_result` replaces a value; the function sees the value in its cause."""
    causes: list[Exception] = []

    def other(*, error: Exception) -> str:
        causes.append(error)
        return "other"

    assert drive(Fallback(other, on_result=lambda result: result == ""), lambda: "") == "other"
    assert isinstance(causes[0], BadResult)
    assert causes[0].args == ("",)


def test_the_failure_stays_counted_in_the_breaker(drive: Drive) -> None:
    """A good fallback does not make the dependency healthy."""
    breaker = CircuitBreaker("counted")
    drive(Pipeline(Fallback(value=None), breaker), broken)
    assert breaker.snapshot().failures == 1


def test_an_async_fallback_serves_async_functions_only() -> None:
    """Async around async is awaited; around a plain function it is refused at decoration."""

    async def fetched(place: str) -> str:
        await asyncio.sleep(0)
        return f"fetched {place}"

    async def failing(place: str) -> str:
        raise ConnectionError(place)

    assert asyncio.run(Fallback(fetched)(failing)("Rome")) == "fetched Rome"
    with pytest.raises(ConfigError, match=r"fetched is async but .*broken is not"):
        Fallback(fetched)(broken)
    with pytest.raises(ConfigError, match="async functions only"):
        Fallback(fetched).call(lambda: "x")


@pytest.mark.parametrize(
    "stand_in",
    [
        lambda: None,
        lambda place, unit, more: None,
        lambda place, *, unit="c", more: None,
        lambda town, unit="c": None,
        lambda place: None,
    ],
)
def test_another_signature_is_refused_at_decoration(stand_in: Any) -> None:
    """A fallback that could not take every call of the function is found before the night it is needed."""

    def weather(place: str, unit: str = "c") -> None: ...

    with pytest.raises(ConfigError, match="can not stand for .*weather"):
        Fallback(stand_in)(weather)


@pytest.mark.parametrize(
    "stand_in",
    [
        lambda place, unit="c": None,
        lambda place, unit=None, *, error: None,
        lambda *args, **kwargs: None,
        lambda place, unit="c", more=1: None,
        lambda place, **rest: None if rest else None,
    ],
)
def test_signatures_that_fit_are_taken(stand_in: Any) -> None:
    """The same arguments, a wider signature and a keyword-only error all stand in."""

    def weather(place: str, *, unit: str = "c") -> None:
        raise ConnectionError

    def positional(place: str, unit: str = "c") -> None:
        raise ConnectionError

    guarded = (
        weather
        if "**rest" in repr(stand_in.__code__.co_varnames) or "rest" in stand_in.__code__.co_varnames
        else positional
    )
    assert Fallback(stand_in)(guarded)("Rome") is None


@pytest.mark.parametrize("value", [[], {}, set(), bytearray()])
def test_a_value_that_callers_would_share_and_change_is_refused(value: Any) -> None:
    """One list for everybody is a bug waiting; the message names the factory."""
    with pytest.raises(ConfigError, match="factory="):
        Fallback(value=value)


def test_bad_arguments_are_refused_with_a_sentence() -> None:
    """Nothing, too much, and things that are no functions."""
    with pytest.raises(ConfigError, match="nothing to fall back on"):
        Fallback()  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(ConfigError, match="exclude each other"):
        Fallback(lambda: 1, value=2)  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(ConfigError, match="write value='x'"):
        Fallback("x")  # type: ignore[call-overload]  # the mistake under test


def test_the_first_fallback_of_each_kind_of_error_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One WARNING per kind, so that a fallback never hides for ever what went wrong."""
    caplog.set_level(logging.WARNING, "resilient")
    fallback = Fallback(value=None)
    for _ in range(3):
        fallback.call(broken)
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None


def test_a_frozen_exception_does_not_stop_the_chain(drive: Drive) -> None:
    """A note that can not be added is not worth an answer; a shared exception gains one note, not one per call."""

    @dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    shared = KeyError("the same one each time")

    def frozen() -> str:
        raise FrozenError(1)

    def again() -> str:
        raise shared

    assert drive(Fallback(frozen, lambda: "next"), broken) == "next"
    fallback = Fallback(again, lambda: "next")
    for _ in range(3):
        drive(fallback, broken)
    assert len(shared.__notes__) == 1


def test_a_fallback_shared_by_two_commands_keeps_no_verdicts_of_the_first() -> None:
    """What one command ignores the other still replaces."""
    shared = Fallback(value="other")

    @command("first", fallback=shared, ignore=KeyError)
    def first() -> str:
        raise KeyError

    @command("second", fallback=shared)
    def second() -> str:
        raise KeyError

    with pytest.raises(KeyError):
        first()
    assert second() == "other"


def test_a_lambda_that_calls_an_async_function_is_awaited() -> None:
    """The caller never gets a coroutine that nobody awaits."""

    async def cached(place: str) -> str:
        return f"cached {place}"

    async def failing(place: str) -> str:
        raise ConnectionError

    assert asyncio.run(Fallback(lambda place: cached(place))(failing)("Rome")) == "cached Rome"


def test_a_failed_fallback_keeps_nothing_alive(caplog: pytest.LogCaptureFixture) -> None:
    """The error's traceback does not hold the frame that holds the error: no garbage collection is needed."""

    class Argument:
        pass

    def also_broken(argument: Argument) -> str:
        raise KeyError

    argument = Argument()
    alive = weakref.ref(argument)
    caplog.set_level(logging.CRITICAL, "resilient")  # a captured record would hold the traceback
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(KeyError):
            Fallback(also_broken).call(broken, argument)
        del argument
        assert alive() is None
    finally:
        gc.enable()
