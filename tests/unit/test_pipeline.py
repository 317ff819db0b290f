"""Policies composed: order, colours, reuse, explanation."""

from __future__ import annotations

import asyncio
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from resilient import CircuitBreaker, ConfigError, Fallback, Pipeline, Policy, Timeout
from resilient.outcome import Classification
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.retry import Retry
from resilient.policy import Args, AsyncCall, Call, Fn, Kwargs
from tests.drive import Drive


class Recorder(Policy[Any]):
    """Notes when a call goes in and out."""

    kind = "recorder"

    def __init__(self, log: list[str], label: str) -> None:
        super().__init__()
        self._log, self._label = log, label

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        def noted(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            self._log.append(f"{self._label} in")
            try:
                return inner(fn, args, kwargs)
            finally:
                self._log.append(f"{self._label} out")

        return noted

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        async def noted(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
            self._log.append(f"{self._label} in")
            try:
                return await inner(fn, args, kwargs)
            finally:
                self._log.append(f"{self._label} out")

        return noted


def test_the_order_written_is_the_order_nested_outermost_first(drive: Drive) -> None:
    """Pipelines nest, and are laid open in order; users' own policies take part."""
    log: list[str] = []
    inner = Pipeline(Recorder(log, "b"), Recorder(log, "c"))
    drive(Pipeline(Recorder(log, "a"), inner), lambda: log.append("call"))
    assert log == ["a in", "b in", "c in", "call", "c out", "b out", "a out"]


def test_one_pipeline_serves_many_functions_in_both_colours() -> None:
    """It is built once and knows no function."""
    guard = Pipeline(Fallback(value="none"), CircuitBreaker("both"))

    @guard
    def double(number: int) -> int:
        return number * 2

    @guard
    async def triple(number: int) -> int:
        return number * 3

    assert double(2) == 4
    assert asyncio.run(triple(number=2)) == 6
    assert asyncio.iscoroutinefunction(triple)
    assert not asyncio.iscoroutinefunction(double)
    assert (double.__name__, double.__wrapped__.__name__) == ("double", "double")  # type: ignore[attr-defined]  # functools.wraps sets it


class Guarded:
    """Methods of every kind."""

    guard = Pipeline(Fallback(value=None), CircuitBreaker("methods"))

    @guard
    def method(self, number: int) -> int:
        return number

    @classmethod
    @guard
    def class_method(cls, number: int) -> int:
        return number + 1

    @guard
    @staticmethod
    def static_method(number: int) -> int:
        return number + 2


def test_methods_class_methods_and_static_methods_are_guarded() -> None:
    """Binding works as undecorated, whichever decorator comes first."""
    assert (Guarded().method(1), Guarded.class_method(1), Guarded.static_method(1)) == (1, 2, 3)


def test_partials_and_callable_objects_are_guarded() -> None:
    """Colour is seen through a partial and on `__call__`."""

    class Adder:
        async def __call__(self, left: int, right: int) -> int:
            return left + right

    guard = CircuitBreaker("callables")
    assert guard.call(functools.partial(max, 1), 2) == 2
    assert asyncio.run(guard.acall(functools.partial(Adder(), 1), 2)) == 3
    with pytest.raises(TypeError, match="acall"):
        _ = guard.call(functools.partial(Adder(), 1), 2)


def test_the_wrong_colour_is_a_sentence() -> None:
    """`call` of an async function and a function that returns a coroutine name `acall`."""

    async def afn() -> None: ...

    with pytest.raises(TypeError, match=r"afn is async: await Pipeline.acall"):
        _ = Pipeline(CircuitBreaker("colour")).call(afn)

    def returns_a_coroutine() -> Any:
        return afn()

    disguised: Callable[[], Any] = CircuitBreaker("returns")(returns_a_coroutine)

    with pytest.raises(TypeError, match="returned an awaitable"):
        disguised()


def test_generators_are_refused_and_told_of_calling() -> None:
    """Their work happens after the call: a block has to be guarded."""

    def numbers() -> Any:
        yield 1

    async def anumbers() -> Any:
        yield 1

    breaker = CircuitBreaker("generators")
    for generator in (numbers, anumbers):
        with pytest.raises(TypeError, match=r"calling\(\)"):
            breaker(generator)


def test_an_explanation_names_layers_costs_and_what_bites() -> None:
    """explain() is text and numbers."""
    guard = Pipeline(Fallback(value=None), Timeout(1.0), CircuitBreaker("explained"), Timeout(2.0))
    found = guard.explain()
    assert len(found.layers) == 4
    assert found.worst_case_wait == 1.0
    assert found.worst_case_calls == 1
    assert any("never fires" in warning for warning in found.warnings)
    assert any("worker thread" in warning for warning in found.warnings)
    assert "1. Fallback: value=None" in str(found)
    assert Pipeline(CircuitBreaker("alone")).explain().worst_case_wait == float("inf")


def test_worst_cases_add_up_from_the_inside() -> None:
    """Attempts multiply calls; a Timeout outside them bounds the wait, one inside does not."""
    retry = Retry(attempts=3, wait=1.0, max_retry_after=1.0)
    inside = Pipeline(retry, CircuitBreaker("inside"), Timeout(0.5)).explain()
    assert (inside.worst_case_wait, inside.worst_case_calls) == (3.5, 3)
    around = Pipeline(Timeout(2.0), retry, Timeout(0.5)).explain()
    assert (around.worst_case_wait, around.worst_case_calls) == (2.0, 3)


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        (lambda: Pipeline(Bulkhead(1), Retry()), "holds"),
        (lambda: Pipeline(CircuitBreaker("multiplied"), Retry()), "sees one call"),
        (lambda: Pipeline(Retry(), Timeout(1.0)), "goes on in its thread while it is repeated"),
        (lambda: Pipeline(Timeout(1.0), CircuitBreaker("hidden"), Timeout(2.0)), "never fires"),
        (lambda: Pipeline(Retry(), Pipeline(Retry())), "the inner one makes one attempt"),
    ],
    ids=["place held", "attempts hidden", "sync attempts overlap", "timeout hidden", "nested retries"],
)
def test_an_order_that_bites_is_told(guard: Callable[[], Pipeline[Any]], message: str) -> None:
    """Also through nested pipelines; the usual order of the same policies is not complained about."""
    assert any(message in warning for warning in guard().explain().warnings)
    usual = Pipeline(Timeout(5.0), Retry(), CircuitBreaker("usual"), Bulkhead(1)).explain()
    assert not any(message in warning for warning in usual.warnings)


def test_a_pipeline_reads_like_the_code() -> None:
    """Its repr has the policies in their order, and its name when it has one."""
    guard = Pipeline(Fallback(value=None), Retry(attempts=2), Timeout(1.0), name="guard")
    assert repr(guard) == "Pipeline(Fallback(value=None), Retry(attempts=2), Timeout(1), name='guard')"
    assert repr(Pipeline(Timeout(1.0), Pipeline(Timeout(2.0)))) == "Pipeline(Timeout(1), Pipeline(Timeout(2)))"


def test_a_pipeline_is_reentrant() -> None:
    """A guarded function that calls through the same pipeline again, in a thread and on a loop at once."""
    breaker = CircuitBreaker("reentrant")
    guard = Pipeline(Fallback(value=-1), breaker)

    @guard
    def down_to(number: int) -> int:
        return number if number == 0 else down_to(number - 1)

    @guard
    async def both(number: int) -> int:
        return await asyncio.to_thread(down_to, number)

    async def run() -> list[int]:
        return await asyncio.gather(*(both(number) for number in range(5)))

    assert asyncio.run(run()) == [0] * 5
    assert breaker.snapshot().successes == 20


def test_what_is_no_policy_is_refused() -> None:
    """A function, a class that was not called, nothing at all."""
    with pytest.raises(ConfigError, match="argument 1 must be a policy"):
        Pipeline(lambda: None)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ConfigError, match=r"make one, `Kind\(\.\.\.\)`"):
        Pipeline(CircuitBreaker)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ConfigError, match="at least one"):
        Pipeline()


@CircuitBreaker("pickled")
def at_module_level() -> str:
    return "found"


def test_a_decorated_function_pickles_by_its_name() -> None:
    """As an undecorated one does."""
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level


def test_acall_of_a_plain_function_is_not_hidden_by_a_fallback() -> None:
    """A programmer's mistake is no failure of the dependency."""
    breaker = CircuitBreaker("masked")
    guard = Pipeline(Fallback(value="masked"), breaker)
    with pytest.raises(TypeError, match=r"is not async: use call"):
        asyncio.run(guard.acall(lambda: "real"))  # type: ignore[arg-type, return-value]  # the mistake under test
    assert breaker.snapshot().failures == 0


def test_a_coroutine_is_refused_each_time_not_only_the_first() -> None:
    """Also after a fallback answered first."""
    answers: list[Any] = [ConnectionError()]

    async def afn() -> None: ...

    def sometimes() -> Any:
        if answers:
            raise answers.pop()
        return afn()

    guarded: Callable[[], Any] = Fallback(value="fallback")(sometimes)
    assert guarded() == "fallback"
    for _ in range(2):
        with pytest.raises(TypeError, match="returned an awaitable"):
            guarded()


def test_many_unnamed_policies_are_numbered_without_a_search() -> None:
    """Ten thousand of a kind: each costs the same."""
    made = [Timeout(1.0) for _ in range(10_000)]
    assert len({timeout.name for timeout in made}) == 10_000
