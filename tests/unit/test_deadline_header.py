"""The header that tells how long an answer is still of use: written, and read."""

from __future__ import annotations

import pytest

from resilient.transport.deadline_header import header_ms, limited, lower_names, seconds_left, whole_ms


@pytest.mark.parametrize(
    ("left", "present", "sent"),
    [
        (1500, None, "1500"),
        (1500, "200", "200"),
        (1500, "9000", "1500"),
        (1500, "soon", "1500"),
        (1500, "0", "1500"),
        (1500, "9" * 5000, "1500"),
        (1500, "\u0661\u0662", "1500"),
    ],
)
def test_the_smaller_deadline_travels(left: int, present: str | None, sent: str) -> None:
    """A deadline header already on the request wins when it is smaller; what is no number is replaced."""
    assert header_ms(left, present) == sent


@pytest.mark.parametrize(
    ("seconds", "ms"), [(0.0019, 1), (0.0009, 0), (1.9999, 1999), (-1.0, 0), (3600.0, 3_600_000), (1e9, 3_600_000)]
)
def test_milliseconds_are_rounded_down_and_an_hour_at_most(seconds: float, ms: int) -> None:
    """Less than one is not sent: 0 here."""
    assert whole_ms(seconds) == ms


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-request-timeout-ms": "1500"}, 1.5),
        ({"x-request-timeout-ms": " 1500 "}, 1.5),
        ({"x-request-timeout-ms": "1.5"}, None),
        ({"x-request-timeout-ms": "-1"}, None),
        ({"x-request-timeout-ms": "0"}, None),
        ({"x-request-timeout-ms": ""}, None),
        ({"x-request-timeout-ms": "1e3"}, None),
        ({"x-request-timeout-ms": "\u00b2"}, None),
        ({"x-request-timeout-ms": "9" * 400}, None),
        ({"x-envoy-expected-rq-timeout-ms": "250"}, 0.25),
        ({"grpc-timeout": "2H"}, 7200.0),
        ({"grpc-timeout": "3M"}, 180.0),
        ({"grpc-timeout": "4S"}, 4.0),
        ({"grpc-timeout": "500m"}, 0.5),
        ({"grpc-timeout": "2000u"}, 0.002),
        ({"grpc-timeout": "99999999n"}, 0.099999999),
        ({"grpc-timeout": "999999999n"}, None),
        ({"grpc-timeout": "S"}, None),
        ({"grpc-timeout": "5X"}, None),
        ({"x-request-timeout-ms": "soon", "grpc-timeout": "1S"}, 1.0),
        ({"x-request-timeout-ms": "300", "grpc-timeout": "1S", "x-envoy-expected-rq-timeout-ms": "200"}, 0.2),
    ],
)
def test_what_a_request_says_about_its_time(headers: dict[str, str], seconds: float | None) -> None:
    """Digits only, else it is ignored; of several headers the smallest holds."""
    assert seconds_left(headers) == (None if seconds is None else pytest.approx(seconds))


def test_a_deadline_is_an_hour_at_most_or_what_the_server_says() -> None:
    """It can only be shortened."""
    assert (limited(7200.0, None), limited(7200.0, 5.0), limited(2.0, 5.0)) == (3600.0, 5.0, 2.0)


def test_only_the_headers_that_are_read_are_decoded() -> None:
    """Names in lower case, as ASGI gives them."""
    given = [(b"cookie", b"\xff"), (b"grpc-timeout", b"1S"), (b"x-request-timeout-ms", b"7")]
    assert lower_names(given) == {"grpc-timeout": "1S", "x-request-timeout-ms": "7"}
