"""Answers that say when to come back: what a Retry-After means, in any way that a client hands it on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from types import SimpleNamespace

import httpx
import pytest

from resilient import (
    retry_after,
)

NOON, LATER = "Sun, 06 Nov 1994 12:00:00 GMT", "Sun, 06 Nov 1994 12:02:00 GMT"


class Unhashable:
    """A status that is no number, as the objects of some clients have."""

    __hash__ = None  # type: ignore[assignment]  # that it has none is the point

    def __eq__(self, other: object) -> bool:
        return False


class RequestsLike:
    """requests' Response is false when its status is an error's."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.headers = httpx.Headers(headers)

    def __bool__(self) -> bool:
        return self.status_code < 400


class RequestsErrorLike(Exception):
    """requests' HTTPError carries its response."""

    def __init__(self, response: RequestsLike) -> None:
        super().__init__("no")
        self.response = response


class AiohttpLike(Exception):
    """aiohttp's ClientResponseError carries status and headers itself."""

    __module__ = "aiohttp.client_exceptions"

    def __init__(self, status: int, headers: dict[str, str] | None) -> None:
        super().__init__(status)
        self.status = status
        self.headers = None if headers is None else httpx.Headers(headers)


def answer(wanted: str | None = "30", status: int = 503, date: str | None = None) -> httpx.Response:
    """A response of httpx."""
    headers = {"Retry-After": wanted, "Date": date}
    return httpx.Response(status, headers={name: value for name, value in headers.items() if value is not None})


def http_error(response: httpx.Response) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("no", request=httpx.Request("GET", "http://svc/"), response=response)


# --- retry_after() ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [
        ("30", 30.0),
        (" 7 ", 7.0),
        ("86400", 86400.0),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("²", None),
        ("9" * 400, None),
        ("Sun, 99 Nov 2094 12:00:00 GMT", None),
        (None, None),
    ],
)
def test_seconds_are_taken_as_they_are(wanted: str | None, seconds: float | None) -> None:
    """Whole seconds more than 0; what nobody understands says nothing."""
    answered = SimpleNamespace(status_code=503, headers={"Retry-After": wanted})
    assert retry_after(answered) == seconds


@pytest.mark.parametrize(
    ("wanted", "date", "seconds"),
    [
        (LATER, NOON, 120.0),
        (NOON, NOON, None),
        (NOON, LATER, None),
        ("Sunday, 06-Nov-94 12:02:00 GMT", NOON, 120.0),
        ("Sun Nov  6 12:02:00 1994", NOON, 120.0),
        ("Sun, 06 Nov 1994 12:02:00 -0000", NOON, 120.0),
        (LATER, "Sun Nov  6 12:00:00 1994", 120.0),
    ],
)
@pytest.mark.usefixtures("far_from_greenwich")
def test_a_date_is_compared_with_the_answers_own(wanted: str, date: str, seconds: float | None) -> None:
    """In the three ways that HTTP writes dates, all of them GMT: neither clock nor zone of this machine matter."""
    assert retry_after(answer(wanted, date=date)) == seconds


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local time is five hours behind GMT."""
    monkeypatch.setenv("TZ", "XXX+5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("date", [None, "yesterday", ""])
def test_a_date_without_one_to_compare_with_is_this_machines(date: str | None) -> None:
    """Roughly: HTTP dates have no fractions."""
    seconds = retry_after(answer(formatdate(time.time() + 100, usegmt=True), date=date))
    assert seconds is not None
    assert 90 < seconds <= 101
    assert retry_after(answer(formatdate(time.time() - 100, usegmt=True), date=date)) is None


@pytest.mark.parametrize(
    ("status", "seconds"),
    [(429, 30.0), (503, 30.0), (200, None), (202, None), (301, None), (404, None), (500, None), (502, None)],
)
def test_only_429_and_503_ask_to_come_back(status: int, seconds: float | None) -> None:
    """With another status the header means something else: when a redirect or a job is ready."""
    assert retry_after(answer(status=status)) == seconds


@pytest.mark.parametrize(
    "told",
    [
        answer(),
        http_error(answer()),
        RequestsLike(503, {"retry-after": "30"}),
        RequestsErrorLike(RequestsLike(429, {"Retry-After": "30"})),
        AiohttpLike(503, {"Retry-After": "30"}),
        SimpleNamespace(status=429, headers={"Retry-After": "30"}),
    ],
    ids=["httpx", "httpx error", "requests", "requests error", "aiohttp error", "aiohttp"],
)
def test_responses_and_errors_of_each_client_are_read(told: object) -> None:
    """By their shape; none of them is imported."""
    assert retry_after(told) == 30.0


@pytest.mark.parametrize(
    "told",
    [
        None,
        "503",
        503,
        ValueError("503"),
        {"status": 503},
        SimpleNamespace(status_code=503),
        SimpleNamespace(status_code=503, headers=None),
        SimpleNamespace(status_code=503, headers=[("Retry-After", "30")]),
        SimpleNamespace(status_code=503, headers={"Retry-After": b"30"}),
        SimpleNamespace(status_code="503", headers={"Retry-After": "30"}),
        SimpleNamespace(response=SimpleNamespace(), headers={}),
        SimpleNamespace(status=[503], headers={}),
        SimpleNamespace(status={}, headers=None),
        SimpleNamespace(status=Unhashable(), headers={}),
        AiohttpLike(503, None),
        RequestsErrorLike(RequestsLike(503, {})),
    ],
)
def test_what_is_no_http_answer_says_nothing(told: object) -> None:
    """It never raises: results of any kind pass through `open_for`."""
    assert retry_after(told) is None
