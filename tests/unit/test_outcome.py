"""How a call ended, and who decides."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest

from resilient import CallTimeoutError, Outcome, is_transient
from resilient.outcome import Classification, classifier


def http_error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://x/")
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(status, request=request))


class AiohttpLike(Exception):
    """aiohttp's ClientResponseError carries its status itself."""

    __module__ = "aiohttp.client_exceptions"

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError(), Outcome.FAILURE),
        (http_error(404), Outcome.SUCCESS),
        (http_error(408), Outcome.FAILURE),
        (http_error(425), Outcome.FAILURE),
        (http_error(429), Outcome.FAILURE),
        (http_error(500), Outcome.FAILURE),
        (AiohttpLike(403), Outcome.SUCCESS),
        (AiohttpLike(503), Outcome.FAILURE),
        (ExceptionGroup("g", [http_error(404), ValueError()]), Outcome.FAILURE),
        (ExceptionGroup("g", [http_error(404)]), Outcome.SUCCESS),
    ],
)
def test_the_default_counts_failures_of_the_dependency(error: Exception, outcome: Outcome) -> None:
    """Rule 1: every Exception fails, but a 4xx of the caller's own making shows that the dependency answered."""
    assert classifier(Classification())(error) is outcome


def test_ignore_wins_over_on_and_groups_ask_their_leaves() -> None:
    """Rule 1: what `ignore` matches says nothing; a group is a failure if a leaf is, else ignored if a leaf is."""
    classify = classifier(Classification(on=(OSError, KeyError), ignore=ConnectionError))
    assert classify(ConnectionError()) is Outcome.IGNORED
    assert classify(KeyError()) is Outcome.FAILURE
    assert classify(ValueError()) is Outcome.SUCCESS
    assert classify(ExceptionGroup("g", [ConnectionError(), ValueError()])) is Outcome.IGNORED
    assert classify(ExceptionGroup("g", [ExceptionGroup("h", [KeyError()]), ValueError()])) is Outcome.FAILURE


def test_a_predicate_that_raises_decides_nothing() -> None:
    """The outcome is ignored; the predicate's error reaches nobody."""

    def unsure(_error: Exception) -> bool:
        raise RuntimeError

    assert classifier(Classification(on=unsure))(ValueError()) is Outcome.IGNORED


@pytest.mark.parametrize(
    ("limit", "elapsed", "outcome"),
    [(1.0, 0.05, Outcome.IGNORED), (1.0, 0.1, Outcome.FAILURE), (float("inf"), 0.05, Outcome.IGNORED)],
)
def test_impatience_is_no_evidence(limit: float, elapsed: float, outcome: Outcome) -> None:
    """Rule 3: a caller's deadline counts against the dependency only when it had a tenth of its own limit."""
    error = CallTimeoutError("x", policy="p", limit=limit, elapsed=elapsed, by_deadline=True)
    assert classifier(Classification(), evidence=True)(error) is outcome


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionError(), True),
        (TimeoutError(), True),
        (httpx.ConnectError("x"), True),
        (httpx.ReadTimeout("x"), True),
        (http_error(503), True),
        (http_error(501), False),
        (http_error(404), False),
        (ValueError(), False),
        (type("ClientConnectionError", (Exception,), {"__module__": "aiohttp.client_exceptions"})(), True),
    ],
)
def test_is_transient_knows_what_may_pass(error: Exception, transient: bool) -> None:
    """Network errors and the statuses that mean "later"; a programming error is none."""
    assert is_transient(error) is transient


def test_a_status_of_somebody_elses_error_is_no_http_status() -> None:
    """Only aiohttp's own errors carry it themselves."""
    error = ValueError()
    error.status = 403  # type: ignore[attr-defined]  # an attribute of the user's own
    assert classifier(Classification())(error) is Outcome.FAILURE


def test_a_response_without_a_whole_status_is_no_verdict() -> None:
    """Duck typing asks for an int; anything else is an ordinary failure."""
    error = ValueError()
    error.response = SimpleNamespace(status_code="404")  # type: ignore[attr-defined]  # as a foreign library might
    assert classifier(Classification())(error) is Outcome.FAILURE
