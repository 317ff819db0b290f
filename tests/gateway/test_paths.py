"""Targets of requests: what a server further in might read in another way is refused."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.gateway.paths import decoded, segments_of, target_of
from resilient.gateway.problems import RefusedError


def target(raw: bytes, query: bytes = b"", **more: object) -> tuple[bytes, bytes]:
    """The target of a request with this path."""
    return target_of({"raw_path": raw, "query_string": query, **more}, 200)


@pytest.mark.parametrize(
    "raw",
    [
        b"/",
        b"/patient",
        b"/patient/",
        b"/patient/1;v=2/x@y",
        b"/.well-known/thing",
        b"/a/...",
        b"/a..b/.c",
        b"/a%2Fb",
        b"/caf%C3%A9",
        b"/a//b",
        b"/100%25",
        b"/{a}|^~",
    ],
)
def test_a_plain_path_goes_on_as_it_was_sent(raw: bytes) -> None:
    """Nothing is decoded, encoded or made simpler on the way."""
    assert target(raw, b"q=%2e%2e/&r=../..") == (raw, b"q=%2e%2e/&r=../..")


@pytest.mark.parametrize(
    "raw",
    [
        b"/a/../b",
        b"/..",
        b"/a/.",
        b"/./a",
        b"/a/%2e%2e/b",
        b"/a/%2E./b",
        b"/a/..%2fb",
        b"/a%2f..%2fb",
        b"/a/%252e%252e/b",
        b"/a/%25252e%25252e/b",
        b"/a/..;x=1/b",
        b"/a/%2e%2e%3bx/b",
        b"/a\\..\\b",
        b"/a%5cb",
        b"/a%255cb",
        b"/a%00b",
        b"/a%0d%0ab",
        b"/a%7fb",
        b"/a b",
        b"/a\x80",
        b"/a#b",
        b"/a%zz",
        b"/a%4",
        b"/%c0%ae%c0%ae/b",
        b"//evil.example/a",
        b"http://evil.example/a",
        b"evil.example:443",
        b"*",
        b"",
    ],
)
def test_what_could_lead_elsewhere_is_refused(raw: bytes) -> None:
    """`..` in any encoding, backslashes, control characters, and what is no path."""
    with pytest.raises(RefusedError) as refused:
        target(raw)
    assert refused.value.status == 400


@pytest.mark.parametrize("query", [b"a b", b"a\r\nb", b"a#b", b"\x80"])
def test_a_query_with_raw_characters_is_refused(query: bytes) -> None:
    """They would end the request line, or be no part of it."""
    with pytest.raises(RefusedError) as refused:
        target(b"/", query)
    assert refused.value.status == 400


def test_a_target_that_is_too_long_is_refused_with_414() -> None:
    """Path and query count together."""
    assert target(b"/" + b"a" * 99, b"b" * 100)
    with pytest.raises(RefusedError) as refused:
        target(b"/" + b"a" * 100, b"b" * 100)
    assert refused.value.status == 414


def test_where_the_gateway_is_mounted_is_no_part_of_the_path() -> None:
    """ASGI's root_path is taken away."""
    assert target(b"/api/patient", root_path="/api")[0] == b"/patient"
    assert target(b"/api", root_path="/api")[0] == b"/"


def test_a_server_that_tells_no_raw_path_is_understood() -> None:
    """It is optional in ASGI."""
    assert target_of({"path": "/a b/é", "query_string": b""}, 200)[0] == b"/a%20b/%C3%A9"


def test_a_slash_that_was_encoded_is_a_part_of_its_segment() -> None:
    """`/patient%2F1` is not below `/patient`."""
    assert [decoded(one) for one in segments_of(b"/patient%2F1/x")] == [b"patient/1", b"x"]
    assert segments_of(b"/") == ()
    assert segments_of(b"/a/") == (b"a", b"")


@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\\/"), min_size=1)))
def test_whatever_text_is_encoded_once_passes_or_is_a_dot_segment(names: list[str]) -> None:
    """No name of anything is refused by chance, unless it reads as another path after more decoding."""
    raw = "/" + "/".join(quote(name, safe="") for name in names)
    odd = any("%" in name or name.partition(";")[0] in {".", ".."} for name in names)
    if odd:
        return
    assert target_of({"raw_path": raw.encode(), "query_string": b""}, 10**9)[0] == raw.encode()
    assert [decoded(one).decode() for one in segments_of(raw.encode())] == names


@given(
    st.lists(st.sampled_from(["a", "b.", ".c"]), min_size=0, max_size=3),
    st.sampled_from([".", ".."]),
    st.integers(0, 3),
    st.sampled_from(["/", "%2f", "%2F", "\\", "%5c"]),
    st.booleans(),
)
def test_no_way_to_write_a_dot_segment_passes(front: list[str], dots: str, times: int, slash: str, end: bool) -> None:
    """However often it is encoded, whatever stands around it."""
    for _ in range(times):
        dots = dots.replace("%", "%25").replace(".", "%2e")
    raw = "/" + slash.join([*front, dots, *(["z"] if end else [])])
    with pytest.raises(RefusedError):
        target(raw.encode())
