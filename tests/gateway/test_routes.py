"""Which requests go where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import ConfigError
from resilient.gateway.headers import Heading
from resilient.gateway.paths import segments_of
from resilient.gateway.problems import RefusedError
from resilient.gateway.routes import Route, Table


def route(path: str, **more: Any) -> Route:
    """A route to anywhere."""
    return Route(path=path, service="any", **more)


def find(table: Table, path: bytes, method: str = "GET", *headers: tuple[bytes, bytes], host: bytes = b"a") -> Any:
    """What a request leads to; the status of its refusal."""
    scope = {"headers": list(headers)}
    try:
        return table.find(method, segments_of(path), scope, Heading(host=host))
    except RefusedError as refused:
        return refused.status


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/patient", "patient"),
        (b"/patient/", "patient"),
        (b"/patient/1/x", "patient"),
        (b"/%70atient/1", "patient"),
        (b"/patients", "all"),
        (b"/patient%2F1", "all"),
        (b"/Patient", "all"),
        (b"/patient/history/2", "history"),
        (b"/", "all"),
        (b"//patient", "all"),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(path: bytes, found: str) -> None:
    """In whatever order the routes stand, and however the path is encoded."""
    entries = [(route("/"), "all"), (route("/patient"), "patient"), (route("/patient/history/"), "history")]
    assert find(Table(entries), path) == found
    assert find(Table(entries[::-1]), path) == found


def test_of_the_same_prefix_the_first_whose_conditions_hold_is_taken() -> None:
    """Method, host and header are conditions; a route that has none takes the rest."""
    table = Table(
        [
            (route("/a", methods=["POST"]), "post"),
            (route("/a", host="*.example.org"), "host"),
            (route("/a", headers={"X-Version": "2"}), "two"),
            (route("/a", headers={"X-Beta": True}), "beta"),
            (route("/a"), "rest"),
        ]
    )
    assert find(table, b"/a", "POST") == "post"
    assert find(table, b"/a", host=b"api.Example.org:8080") == "host"
    assert find(table, b"/a", host=b"example.org") == "rest"
    assert find(table, b"/a", "GET", (b"x-version", b"2")) == "two"
    assert find(table, b"/a", "GET", (b"x-version", b"3")) == "rest"
    assert find(table, b"/a", "GET", (b"x-beta", b"")) == "beta"


def test_a_route_whose_conditions_do_not_hold_leaves_the_request_to_a_shorter_prefix() -> None:
    """It is as if it were not there."""
    table = Table([(route("/a/b", host="x"), "x"), (route("/a"), "a")])
    assert find(table, b"/a/b/c") == "a"


def test_what_no_route_takes_is_404_and_a_wrong_method_is_405() -> None:
    """405 says which methods there are; a GET is also a HEAD."""
    table = Table([(route("/a", methods=["GET", "PUT"]), "a")])
    assert find(table, b"/b") == 404
    assert find(table, b"/a", "DELETE") == 405
    assert find(table, b"/a", "HEAD") == "a"
    with pytest.raises(RefusedError) as refused:
        table.find("DELETE", (b"a",), {"headers": []}, Heading())
    assert refused.value.headers == ((b"allow", b"GET, PUT"),)


def test_a_host_may_be_an_address_in_brackets() -> None:
    """Its colons are no port."""
    table = Table([(route("/", host=["[::1]", "localhost"]), "local")])
    assert find(table, b"/", host=b"[::1]:80") == "local"
    assert find(table, b"/", host=b"localhost") == "local"
    assert find(table, b"/", host=b"[::2]") == 404


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=3), min_size=1), st.lists(st.sampled_from("abc"), max_size=5))
def test_the_table_finds_what_a_search_through_all_routes_finds(prefixes: list[list[str]], path: list[str]) -> None:
    """A model: of the prefixes that fit the longest, of those the first."""
    table = Table((route("/" + "/".join(one)), number) for number, one in enumerate(prefixes))
    fitting = [(-len(one), number) for number, one in enumerate(prefixes) if path[: len(one)] == one]
    expected = min(fitting)[1] if fitting else 404
    assert find(table, b"/" + "/".join(path).encode()) == expected


def test_a_route_strips_its_prefix_or_a_part_of_it() -> None:
    """True is all of it."""
    assert route("/a/b", strip_prefix=True).stripped == 2
    assert route("/a/b", strip_prefix=1).stripped == 1
    assert route("/a/b").stripped == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("path", "patient"),
        ("path", "/a/**"),
        ("path", "/a/../b"),
        ("path", "/a%20b"),
        ("path", 3),
        ("service", "a.b"),
        ("service", "localhost"),
        ("service", ""),
        ("methods", "get"),
        ("methods", ["GET", 1]),
        ("host", "http://a"),
        ("host", "A.example.org"),
        ("headers", ["a"]),
        ("headers", {"a": 1}),
        ("headers", {"a b": "c"}),
        ("strip_prefix", 2),
        ("strip_prefix", "yes"),
        ("preserve_host", 1),
        ("rewrite_location", "no"),
        ("fallback", "/x"),
        ("fallback", "forward:x"),
        ("fallback_on", 500),
        ("fallback_on", [200]),
        ("fallback_status", 99),
        ("max_body", -1),
        ("connect_timeout", 0),
        ("idle_timeout", -1),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(setting: str, value: object) -> None:
    """When the route is made, not when a request comes."""
    given: dict[str, Any] = {"path": "/a", "service": "any", setting: value}
    with pytest.raises(ConfigError) as refused:
        Route(**given)
    assert refused.value.path == setting


@pytest.mark.parametrize(
    "url", ["ftp://a", "a", "http://", "http://a?b", "http://a#b", "http://u:p@a", 5, "http://a:b"]
)
def test_a_url_that_is_none_is_refused(url: Any) -> None:
    """It must be one to which a path can be added."""
    with pytest.raises(ConfigError) as refused:
        Route(path="/", url=url)
    assert refused.value.path == "url"


def test_an_upstream_is_a_service_or_a_url() -> None:
    """One of both."""
    assert Route(path="/", url="http://10.0.0.1:8080/base/").base == "http://10.0.0.1:8080/base"
    assert route("/").base == "http://any"
    for more in ({}, {"service": "a", "url": "http://a"}):
        with pytest.raises(ConfigError, match="one of both"):
            Route(path="/", **more)  # type: ignore[arg-type]  # what a file says
