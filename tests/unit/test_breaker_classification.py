"""What an error says: also by what it was raised from, and of Python's own errors without looking at them."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import CircuitBreaker, CircuitOpenError, Outcome, Pipeline
from resilient.outcome import Classification, Match, classifier, verdicts
from resilient.testing import VirtualClock
from tests.drive import Drive

SUCCESS, FAILURE, IGNORED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED

PYTHONS_OWN = sorted(
    {
        kind
        for kind in vars(builtins).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, ExceptionGroup)
    },
    key=lambda kind: kind.__name__,
)


class OurError(Exception):
    """What an application raises instead of what its client raised."""


class AiohttpLike(Exception):
    """aiohttp's ClientResponseError carries its status itself."""

    __module__ = "aiohttp.client_exceptions"

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def http_error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://svc/")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def chain(*errors: BaseException) -> Exception:
    """The first, raised from the second, raised from the third …"""
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    first = errors[0]
    assert isinstance(first, Exception)
    return first


def cycle(*errors: Exception) -> Exception:
    """A chain whose last was raised from its first."""
    errors[-1].__cause__ = errors[0]
    return chain(*errors)


# --- causes=True --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "settings", "without", "with_causes"),
    [
        (lambda: OurError(), {}, FAILURE, FAILURE),
        (lambda: chain(OurError(), ConnectionError()), {"on": OSError}, SUCCESS, FAILURE),
        (lambda: chain(OurError(), KeyError()), {"on": OSError}, SUCCESS, SUCCESS),
        (lambda: chain(OurError(), KeyError(), ConnectionError()), {"on": OSError}, SUCCESS, FAILURE),
        (lambda: chain(ConnectionError(), OurError()), {"on": OSError}, FAILURE, FAILURE),
        (lambda: chain(OurError(), ConnectionError()), {"ignore": OSError}, FAILURE, IGNORED),
        (lambda: chain(OurError(), KeyError(), ConnectionError()), {"ignore": OSError}, FAILURE, IGNORED),
        (lambda: chain(OSError(), KeyError()), {"on": OSError, "ignore": KeyError}, FAILURE, IGNORED),
        (lambda: chain(OurError(), http_error(404)), {}, FAILURE, SUCCESS),
        (lambda: chain(OurError(), KeyError(), AiohttpLike(403)), {}, FAILURE, SUCCESS),
        (lambda: chain(OurError(), http_error(429)), {}, FAILURE, FAILURE),
        (lambda: chain(OurError(), http_error(503)), {}, FAILURE, FAILURE),
        (lambda: chain(OurError(), http_error(404)), {"ignore": httpx.HTTPError}, FAILURE, IGNORED),
        (lambda: chain(OurError(), http_error(404), ConnectionError()), {"on": OSError}, SUCCESS, SUCCESS),
        (lambda: chain(OurError(), KeyboardInterrupt()), {}, FAILURE, FAILURE),
        (lambda: cycle(OurError(), KeyError()), {}, FAILURE, FAILURE),
        (lambda: cycle(OurError(), KeyError()), {"on": OSError}, SUCCESS, SUCCESS),
        (lambda: cycle(OurError(), KeyError(), OSError()), {"on": OSError}, SUCCESS, FAILURE),
        (lambda: cycle(OurError()), {"ignore": OSError}, FAILURE, FAILURE),
        (lambda: chain(OurError(), OSError()), {"on": lambda error: isinstance(error, OSError)}, SUCCESS, FAILURE),
        (lambda: chain(OurError(), OSError()), {"ignore": lambda error: isinstance(error, OSError)}, FAILURE, IGNORED),
    ],
)
def test_an_error_is_also_what_it_was_raised_from(
    error: Callable[[], Exception], settings: dict[str, Any], without: Outcome, with_causes: Outcome
) -> None:
    """With `causes`: ignored if one of the chain is to be; else a 4xx in it is an answer; else a failure fails."""
    assert classifier(Classification(**settings))(error()) is without
    assert classifier(Classification(**settings, causes=True))(error()) is with_causes


def test_what_was_being_handled_is_no_cause() -> None:
    """Only `raise X from Y` says that Y is the reason; a context may be anything."""
    error = OurError()
    error.__context__ = ConnectionError()
    assert classifier(Classification(on=OSError, causes=True))(error) is SUCCESS


def test_a_chain_of_thousands_is_walked_once() -> None:
    """Neither recursion nor time: each error is asked once."""
    asked: list[Exception] = []

    def on(error: Exception) -> bool:
        asked.append(error)
        return False

    errors = [OurError(number) for number in range(5000)]
    assert classifier(Classification(on=on, causes=True))(cycle(*errors)) is SUCCESS
    assert asked == errors


@pytest.mark.parametrize(
    ("leaves", "outcome"),
    [
        ([chain(OurError(), ConnectionError()), KeyError()], FAILURE),
        ([KeyError(), chain(OurError(), KeyError())], SUCCESS),
        ([chain(OurError(), ValueError()), KeyError()], IGNORED),
        ([chain(OurError(), ValueError()), ConnectionError()], FAILURE),
        ([ExceptionGroup("inner", [chain(OurError(), ConnectionError())])], FAILURE),
    ],
)
def test_the_leaves_of_a_group_are_asked_with_their_causes(leaves: list[Exception], outcome: Outcome) -> None:
    """A task group's errors are often raised from others; a failure among them counts."""
    classify = classifier(Classification(on=OSError, ignore=ValueError, causes=True))
    assert classify(ExceptionGroup("several", leaves)) is outcome


def test_a_breaker_opens_by_causes(drive: Drive, clock: VirtualClock) -> None:
    """As a layer of its own and in a pipeline, also for Python's own errors, whose kind alone says nothing then."""

    def fetch() -> None:
        try:
            raise ConnectionError("down")
        except ConnectionError as error:
            raise LookupError("no price") from error

    for wrap in (lambda breaker: breaker, Pipeline):
        breaker = CircuitBreaker(on=OSError, causes=True, clock=clock)
        for _ in range(5):
            with pytest.raises(LookupError):
                drive(wrap(breaker), fetch)
        with pytest.raises(CircuitOpenError) as caught:
            drive(wrap(breaker), fetch)
        assert caught.value.last_failure is not None
        assert caught.value.last_failure.kind == "LookupError"


def test_without_causes_the_error_that_leaves_is_the_one_that_counts(drive: Drive, clock: VirtualClock) -> None:
    """The default: what a function raises on purpose is its answer."""

    def fetch() -> None:
        raise LookupError("no price") from ConnectionError("down")

    breaker = CircuitBreaker(on=OSError, clock=clock)
    for _ in range(10):
        with pytest.raises(LookupError):
            drive(breaker, fetch)
    assert (breaker.snapshot().successes, breaker.snapshot().failed) == (10, 0)


# --- Python's own errors ------------------------------------------------------------------------------------------

KINDS: st.SearchStrategy[type[Exception]] = st.sampled_from([*PYTHONS_OWN, ExceptionGroup, OurError, httpx.HTTPError])
MATCHES: st.SearchStrategy[Match] = st.one_of(KINDS, st.lists(KINDS, max_size=4).map(tuple))


@given(on=st.one_of(st.just(Exception), MATCHES), ignore=st.one_of(st.just(()), MATCHES))
def test_what_is_known_of_a_kind_is_what_the_classifier_says(on: Match, ignore: Match) -> None:
    """For every error of Python's own, under every pair of types: the table is a short cut, not an opinion."""
    classification = Classification(on, ignore)
    classify, known, _ = verdicts(classification)
    plain = classifier(classification, evidence=True)
    assert set(known) == set(PYTHONS_OWN)
    for kind in PYTHONS_OWN:
        error = kind.__new__(kind)
        assert known[kind] is classify(error) is plain(error), kind


@pytest.mark.parametrize(
    "settings",
    [{"causes": True}, {"on": lambda error: True}, {"ignore": lambda error: False}],
    ids=lambda settings: next(iter(settings)),
)
def test_nothing_is_known_ahead_where_an_error_must_be_looked_at(settings: dict[str, Any]) -> None:
    """Predicates may ask anything of it, and its causes are its own."""
    assert verdicts(Classification(**settings)).known == {}


def test_breakers_of_the_same_types_judge_by_the_same_object() -> None:
    """Ten thousand breakers keep one; where a predicate is part of it, nothing keeps that alive."""
    one, other = (Classification(OSError, (KeyError, ValueError)) for _ in range(2))
    assert verdicts(one) is verdicts(other)
    predicate = lambda error: True
    assert verdicts(Classification(predicate)) is not verdicts(Classification(predicate))
    checked = Classification(on_result=lambda result: result is None)
    assert verdicts(checked) is not verdicts(checked)


@pytest.mark.parametrize("kind", PYTHONS_OWN, ids=lambda kind: kind.__name__)
def test_every_error_of_pythons_own_is_counted_alike_alone_and_in_a_pipeline(
    kind: type[Exception], clock: VirtualClock
) -> None:
    """Raised for real, through both short cuts and the chain."""
    counted = []
    for wrap in (lambda breaker: breaker, Pipeline):
        breaker = CircuitBreaker(on=(OSError, LookupError), ignore=(KeyError, ConnectionError), clock=clock)

        def fail() -> None:
            raise kind.__new__(kind)

        guarded: Any = wrap(breaker)(fail)
        with pytest.raises(kind):
            guarded()
        snapshot = breaker.snapshot()
        counted.append((snapshot.successes, snapshot.failed, snapshot.ignored))
    expected = (
        (0, 0, 1)
        if issubclass(kind, (KeyError, ConnectionError))
        else (0, 1, 0)
        if issubclass(kind, (OSError, LookupError))
        else (1, 0, 0)
    )
    assert counted == [expected, expected]
