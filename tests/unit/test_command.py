"""One decorator on a function: what stands behind it, how it is named and found."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import resilient
from resilient import CircuitBreaker, CircuitOpenError, Command, ConfigError, Fallback, ResilienceWarning, StaleCache
from resilient.decorator import command
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.testing import VirtualClock, use_clock
from tests.waiting import wait_until


def last_known(zip_code: str, country: str = "us", *, error: Exception) -> str:
    return f"last known {zip_code} {country} after {type(error).__name__}"


@command
def bare(zip_code: str, country: str = "us") -> str:
    return f"{zip_code} {country}"


@command(fallback=last_known, timeout=5.0)
def failing(zip_code: str, country: str = "us") -> str:
    raise ConnectionError(zip_code)


def test_a_bare_command_gets_a_breaker_of_its_own() -> None:
    """Named after the function, closed, counting."""
    assert bare("94107") == "94107 us"
    found = Command.of(bare)
    assert found.name == f"{__name__}.bare"
    assert found.group == __name__
    assert found.breaker is not None
    assert found.breaker.name == found.name
    assert found.breaker.snapshot().calls >= 1
    assert resilient.commands()[found.name] is found


def test_the_layers_are_in_their_order() -> None:
    """Fallback, deadline of the timeout, breaker, attempt: outermost first."""

    @command("ordered", fallback=Fallback(value=None), timeout=2.0, attempt_timeout=1.0)
    def fn() -> None: ...

    kinds = [policy.kind for policy in Command.of(fn).pipeline.policies]
    assert kinds == ["fallback", "timeout", "circuit_breaker", "timeout"]


def test_the_fallback_gets_the_arguments_and_the_cause() -> None:
    """As a plain function, and for a hang within the timeout."""
    assert failing("94107", country="de") == "last known 94107 de after ConnectionError"

    @command("hanging", fallback=last_known, timeout=0.02)
    async def hanging(zip_code: str, country: str = "us") -> str:
        await asyncio.Event().wait()
        return "never"

    assert asyncio.run(hanging("94107")) == "last known 94107 us after CallTimeoutError"


def test_its_verdicts_reach_every_layer_that_has_none_of_its_own() -> None:
    """`on`, `ignore` and `on_result` of the command are the breaker's and the fallback's."""

    @command("verdicts", fallback=Fallback(value="other"), ignore=KeyError, on_result=lambda found: found == "bad")
    def fn(answer: Any) -> str:
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    breaker = Command.of(fn).breaker
    assert breaker is not None
    with pytest.raises(KeyError):
        fn(KeyError("mine"))
    assert breaker.snapshot().failures == 0
    assert fn("bad") == "other"
    assert fn(ValueError()) == "other"
    assert breaker.snapshot().failures == 2

    own = CircuitBreaker("own", on=OSError)

    @command("verdicts2", breaker=own, on=ValueError)
    def other() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        other()
    assert own.snapshot().failures == 0


def test_an_open_breaker_fails_fast_and_reset_closes_it() -> None:
    """Without a fallback the caller gets CircuitOpenError with the command's name."""

    @command("fast", breaker=CircuitBreaker(consecutive_failures=1))
    def fn() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fn()
    with pytest.raises(CircuitOpenError) as caught:
        fn()
    assert caught.value.policy == "fast"
    assert caught.value.last_failure is not None
    assert caught.value.last_failure.message == "gone"
    Command.of(fn).reset()
    with pytest.raises(OSError, match="gone"):
        fn()


def test_no_breaker_when_told_so() -> None:
    """`breaker=None` leaves the other layers; with no layer at all the call is bare."""

    @command("none", breaker=None)
    def fn() -> int:
        return 1

    @command("none of both", breaker=None)
    async def afn() -> int:
        return 1

    assert (fn(), asyncio.run(afn())) == (1, 1)
    assert Command.of(fn).breaker is None
    assert Command.of(fn).explain().worst_case_calls == 1
    assert repr(Command.of(fn)) == "<Command 'none': nothing>"
    assert Command.of(afn).snapshot().successes == 1


class Service:
    """Methods are commands too."""

    def _cached(self, number: int, *, error: Exception) -> str:
        return f"cached {number}"

    @command(fallback=_cached)
    def method(self, number: int) -> str:
        raise ConnectionError

    @command("an async method", timeout=1.0)
    async def amethod(self, number: int) -> str:
        return f"fresh {number}"

    @property
    @command(fallback=Fallback(value=None))
    def prop(self) -> str | None:
        raise ConnectionError

    @staticmethod
    @command
    def static(number: int) -> int:
        return number


def test_methods_properties_and_static_methods_are_commands() -> None:
    """They bind, fall back and are found."""
    service = Service()
    assert service.method(1) == "cached 1"
    assert asyncio.run(service.amethod(2)) == "fresh 2"
    assert service.prop is None
    assert Service.static(3) == 3
    assert Command.of(service.method).name == f"{__name__}.Service.method"
    assert Command.of(Service.__dict__["prop"]).breaker is not None


def test_two_commands_of_one_name_are_told_apart_with_a_warning() -> None:
    """They share nothing; the second is labelled #2."""

    @command("twice", breaker=None)
    def one() -> None: ...

    with pytest.warns(ResilienceWarning, match=r"labelled 'twice#2'"):

        @command("twice", breaker=None)
        def two() -> None: ...

    assert Command.of(two).name == "twice#2"
    assert Command.of(one).name == "twice"


def test_commands_of_functions_that_are_gone_are_not_listed() -> None:
    """The list holds nothing alive."""

    def make() -> None:
        @command("short-lived")
        def fn() -> None: ...

    make()
    wait_until(lambda: gc.collect() is not None and "short-lived" not in resilient.commands(), what="collection")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeot": 1.0}, r"no setting 'timeot'; did you mean 'timeout'\?"),
        ({"timeout": 0}, "more than 0 seconds"),
        ({"timeout": "1s"}, "must be a number"),
        ({"attempt_timeout": -1}, "more than 0"),
        ({"breaker": "db"}, "must be a CircuitBreaker or None"),
        ({"fallback": 3}, "a function is needed"),
        ({"retry": 3}, r"must be a Retry or None, not 3: write Retry\(attempts=3\)"),
        ({"bulkhead": 10}, r"write Bulkhead\(10\)"),
        ({"rate_limiter": Bulkhead(1)}, "must be a RateLimiter or None"),
        ({"cache": Cache}, r"must be a Cache or None, .* make one, `Cache\(\.\.\.\)`"),
        ({"group": " "}, "group must be text"),
        ({"on": "ValueError"}, "on must be an exception type"),
        ({"ignore": KeyboardInterrupt}, "ignore must hold exception types"),
        ({"on_result": 1}, "on_result must be a function"),
    ],
)
def test_bad_settings_are_refused_at_decoration(settings: dict[str, Any], message: str) -> None:
    """Each names itself; a misspelt one is answered with the word that was meant."""
    with pytest.raises(ConfigError, match=message):

        @command("bad", **settings)  # type: ignore[untyped-decorator]  # the mistakes under test are untyped
        def fn() -> None: ...


def test_a_function_made_inside_another_has_to_be_named() -> None:
    """Its qualified name would name a different function each time."""
    with pytest.raises(ConfigError, match=r"name it: @command\('name'\)"):

        @command
        def local() -> None: ...

    with pytest.raises(ConfigError, match="not decorated with @command"):
        Command.of(len)


def test_a_name_that_is_no_text_is_refused() -> None:
    """What is neither a name nor a function."""
    with pytest.raises(ConfigError, match="the name must be text, not 3"):
        command(3)  # type: ignore[call-overload]  # the mistake under test


def test_a_function_that_turns_out_to_be_async_is_a_type_error_each_time() -> None:
    """No layer judges it, and nobody gets a coroutine that is never awaited."""

    async def afn() -> None: ...

    def disguised() -> Any:
        return afn()

    guarded: Any = command("disguised", fallback=Fallback(value="instead"))(disguised)
    for _ in range(2):
        with pytest.raises(TypeError, match="returned an awaitable"):
            guarded()
    breaker = Command.of(guarded).breaker
    assert breaker is not None
    assert breaker.snapshot().failures == 0


def test_a_command_follows_the_clock_of_its_tests() -> None:
    """`use_clock`: breaker, timeouts and counts begin anew on it, and again afterwards."""

    @command("on virtual time", timeout=60.0)
    def fn() -> None: ...

    fn()
    with use_clock(VirtualClock()) as clock:
        assert Command.of(fn).snapshot().calls == 0
        fn()
        assert Command.of(fn).snapshot().recent["calls"] == 1
        clock.advance(11.0)
        assert Command.of(fn).snapshot().recent["calls"] == 0
        assert Command.of(fn).snapshot().calls == 1
    assert Command.of(fn).snapshot().calls == 0


def test_a_stale_cache_is_a_fallback_like_any_other() -> None:
    """The decorator takes it as it is."""
    down: list[bool] = []

    @command("stale", fallback=StaleCache(mark=lambda answer, age: answer + " (old)"))
    def fn(place: str) -> str:
        if down:
            raise ConnectionError
        return place

    assert fn("Rome") == "Rome"
    down.append(True)
    assert fn("Rome") == "Rome (old)"


def test_it_is_found_behind_what_wraps_it() -> None:
    """Behind a class method as it stands in the class, and whatever tells what it wraps, such as a Celery task."""

    class Remote:
        @command("remote.price")
        @classmethod
        def price(cls) -> int:
            return 3

    assert Command.of(vars(Remote)["price"]).name == "remote.price"


def test_without_parentheses_around_a_class_method() -> None:
    """In either order."""
    assert Plain.first() == Plain.second() == "Plain"


class Plain:
    @command
    @classmethod
    def first(cls) -> str:
        return cls.__name__

    @classmethod
    @command
    def second(cls) -> str:
        return cls.__name__


def test_what_bites_sync_calls_is_not_told_of_async_ones() -> None:
    """An async call moves to no thread."""

    @command("in a thread", timeout=1.0)
    def in_a_thread() -> None: ...

    @command("in a task", timeout=1.0)
    async def in_a_task() -> None: ...

    assert len(Command.of(in_a_thread).explain().warnings) == 1
    assert Command.of(in_a_task).explain().warnings == ()
