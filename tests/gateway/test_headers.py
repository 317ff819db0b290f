"""Headers: those of one connection end here, those about the caller are written, two readings are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.gateway.forwarded import TrustedProxies, forwarding_headers
from resilient.gateway.headers import HOP_BY_HOP, Heading, answered, id_of
from resilient.gateway.problems import RefusedError

Pairs = list[tuple[bytes, bytes]]
HOST = (b"host", b"api.example.org")


def heading(*headers: tuple[bytes, bytes], version: str = "1.1", most: int = 50, size: int = 10_000) -> Heading:
    """What the headers of a request say."""
    return Heading.of({"headers": [HOST, *headers], "http_version": version}, most=most, most_bytes=size)


def refusal(*headers: tuple[bytes, bytes], **more: Any) -> int:
    """The status with which they are refused."""
    with pytest.raises(RefusedError) as refused:
        heading(*headers, **more)
    return refused.value.status


def test_headers_of_one_connection_end_here() -> None:
    """The well-known ones, and those that Connection names."""
    given = [(name, b"x") for name in HOP_BY_HOP - {b"transfer-encoding", b"connection"}]
    found = heading(
        *given, (b"connection", b"close, X-Secret ,cookie"), (b"x-secret", b"1"), (b"cookie", b"a"), (b"a", b"b")
    )
    assert found.passed == [(b"a", b"b")]


def test_connection_can_not_take_away_what_the_gateway_says() -> None:
    """Naming Host or X-Request-Id hides nothing from the upstream."""
    found = heading(
        (b"connection", b"host, x-request-id, content-length"), (b"x-request-id", b"7"), (b"content-length", b"3")
    )
    assert (found.host, found.request_id, found.length) == (b"api.example.org", b"7", 3)


def test_repeated_headers_stay_repeated_and_in_order() -> None:
    """Two cookies are two headers."""
    assert heading((b"cookie", b"a"), (b"b", b"1"), (b"cookie", b"c")).passed == [
        (b"cookie", b"a"),
        (b"b", b"1"),
        (b"cookie", b"c"),
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"content-length", b"5"), (b"content-length", b"6")],
        [(b"content-length", b"5, 5")],
        [(b"content-length", b"+5")],
        [(b"content-length", b"0x5")],
        [(b"content-length", b"")],
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"xchunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [(b"host", b"other")],
        [(b"a", b"b\r\nx: y")],
        [(b"a", b"b\nc")],
        [(b"a", b"b\x00c")],
        [(b"a b", b"c")],
        [(b"a:", b"c")],
        [(b"", b"c")],
        [(b"content-length ", b"5")],
    ],
)
def test_what_two_readers_could_understand_in_two_ways_is_refused(pairs: Pairs) -> None:
    """Lengths, encodings, hosts, line ends."""
    assert refusal(*pairs) == 400


def test_chunks_in_http_1_0_are_refused() -> None:
    """That version has none."""
    assert refusal((b"transfer-encoding", b"chunked"), version="1.0") == 400


@pytest.mark.parametrize("host", [b"", b"a/b", b"a@b", b"a b", b"[::1", b"a:b", b"a:123456"])
def test_a_host_that_is_none_is_refused(host: bytes) -> None:
    """It ends up in links and in X-Forwarded-Host."""
    with pytest.raises(RefusedError):
        Heading.of({"headers": [(b"host", host)], "http_version": "1.1"}, most=9, most_bytes=99)


@pytest.mark.parametrize(
    "name", [b"x_forwarded_for", b"content_length", b"x_request_id", b"transfer_encoding", b"_host"]
)
def test_an_underscore_does_not_bring_back_what_is_written_here(name: bytes) -> None:
    """A WSGI server takes `X_Forwarded_For` for `X-Forwarded-For`."""
    assert [one for one, _ in heading((name, b"1")).passed if one != b"_host"] == []


def test_headers_that_are_too_many_or_too_long_are_refused_with_431() -> None:
    """Both limits hold for all of them together."""
    assert refusal(*[(b"a", b"b")] * 50) == 431
    assert refusal((b"a", b"b" * 100), size=100) == 431


def test_only_the_expectation_to_continue_is_understood() -> None:
    """RFC 9110, section 10.1.1."""
    assert heading((b"expect", b"100-Continue"), (b"content-length", b"5")).expects
    assert refusal((b"expect", b"tea")) == 417


@pytest.mark.parametrize(("given_id", "kept"), [(b"a-1.B_2", True), (b"a" * 129, False), (b"a b", False), (b"", False)])
def test_a_request_id_is_kept_if_it_is_a_sane_one(given_id: bytes, kept: bool) -> None:
    """Others could hide in a log, or fill it."""
    found = heading((b"x-request-id", given_id)).request_id
    assert (found == given_id) is kept
    assert len(found) in {len(given_id), 32}
    assert (id_of([(b"X-Request-Id", given_id)]) == given_id) is kept


def test_two_requests_have_two_ids() -> None:
    """They are made by chance."""
    assert heading().request_id != heading().request_id


def forwarded(told: Pairs, *, trusted: bool = False, peer: str = "9.9.9.9", prefix: bytes = b"") -> dict[bytes, bytes]:
    """What an upstream is told about the caller."""
    scope = {"client": (peer, 1), "scheme": "https"}
    return dict(forwarding_headers(scope, told, trusted=trusted, host=b"api.example.org", prefix=prefix))


def test_what_a_caller_says_of_itself_is_replaced() -> None:
    """Nobody is who they say they are."""
    told = [(b"x-forwarded-for", b"1.1.1.1"), (b"forwarded", b"for=1.1.1.1"), (b"x-forwarded-prefix", b"/evil")]
    assert forwarded([*told, (b"x-forwarded-proto", b"ftp"), (b"x-real-ip", b"1.1.1.1")], prefix=b"/patient") == {
        b"x-forwarded-for": b"9.9.9.9",
        b"x-forwarded-proto": b"https",
        b"x-forwarded-host": b"api.example.org",
        b"x-forwarded-prefix": b"/patient",
        b"forwarded": b'for=9.9.9.9;host="api.example.org";proto=https',
    }


def test_what_a_trusted_proxy_says_is_continued() -> None:
    """The chain grows by the proxy itself; the rest stays as the proxy said it."""
    told = [
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"x-forwarded-for", b"2.2.2.2"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"www.example.org"),
        (b"x-forwarded-prefix", b"/all/"),
        (b"x-real-ip", b"1.1.1.1"),
        (b"forwarded", b"for=1.1.1.1"),
    ]
    assert forwarded(told, trusted=True, prefix=b"/patient") == {
        b"x-forwarded-for": b"1.1.1.1, 2.2.2.2, 9.9.9.9",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"www.example.org",
        b"x-forwarded-prefix": b"/all/patient",
        b"x-real-ip": b"1.1.1.1",
        b"forwarded": b'for=1.1.1.1, for=9.9.9.9;host="api.example.org";proto=https',
    }


def test_an_ipv6_caller_stands_in_brackets() -> None:
    """As RFC 7239 writes it; X-Forwarded-For has none."""
    found = forwarded([], peer="2001:db8::1")
    assert found[b"forwarded"].startswith(b'for="[2001:db8::1]"')
    assert found[b"x-forwarded-for"] == b"2001:db8::1"


def test_a_caller_without_an_address_is_unknown() -> None:
    """Over a Unix socket there is none."""
    found = dict(forwarding_headers({"client": None}, [], trusted=False, host=b"", prefix=b""))
    assert found == {
        b"x-forwarded-for": b"unknown",
        b"x-forwarded-proto": b"http",
        b"forwarded": b"for=unknown;proto=http",
    }


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("fe80::1%eth0", False),
        ("/run/socket", False),
    ],
)
def test_a_proxy_is_trusted_by_its_address(peer: str, trusted: bool) -> None:
    """An IPv4 address may come written as an IPv6 one."""
    proxies = TrustedProxies(["10.0.0.0/8", "fd00::/8"])
    assert [proxies.trusts(peer), proxies.trusts(peer)] == [trusted, trusted]


def test_an_answer_loses_what_belongs_to_its_connection() -> None:
    """Its cookies stay two headers; the request id is the gateway's."""
    given: Pairs = [
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"Connection", b"keep-alive, X-Internal, Content-Length"),
        (b"Keep-Alive", b"timeout=5"),
        (b"X-Internal", b"1"),
        (b"Content-Length", b"5"),
        (b"X-Request-Id", b"theirs"),
        (b"Upgrade", b"h2c"),
    ]
    assert answered(given, b"ours") == [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"content-length", b"5"),
        (b"x-request-id", b"ours"),
    ]


def test_a_length_beside_chunks_is_not_passed_on() -> None:
    """The chunks said where the body ends."""
    assert answered([(b"content-length", b"9"), (b"transfer-encoding", b"chunked")], b"1") == [(b"x-request-id", b"1")]


_NAMES = st.sampled_from([*HOP_BY_HOP, b"x-forwarded-for", b"forwarded", b"x-a", b"cookie", b"x_forwarded_for", b"via"])
_VALUES = st.text("abc0123456789,;= ", max_size=8).map(str.encode)


@given(st.lists(st.tuples(_NAMES, _VALUES), max_size=8))
def test_nothing_of_a_connection_ever_goes_on(pairs: Pairs) -> None:
    """Whatever stands beside it; or the request is refused."""
    try:
        found = heading(*pairs)
    except RefusedError:
        return
    names = {name for name, _ in found.passed}
    named = {word.strip() for name, value in pairs if name == b"connection" for word in value.split(b",")}
    assert names <= {b"x-a", b"cookie"} - named
