"""The rules of the httpx transports, in both colours: names, and other instances."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from resilient import (
    ConfigError,
    NoInstanceError,
)
from resilient.discovery import Instance
from tests.colours import Chunks, Colour, colours, name, opened, read_body, status_of
from tests.listed import Listed, instance, instances

colour = colours(opened)


# --- names ----------------------------------------------------------------------------------------------------------


def test_calls_of_a_logical_name_rotate_over_its_instances(colour: Colour) -> None:
    """Six calls of three instances: two each, in turn."""
    colour.open(name, Listed(*instances("abc")))
    assert "".join(colour.get("http://producer/").text for _ in range(6)) == "abcabc"


def test_the_request_keeps_its_name_and_the_answer_says_who_gave_it(colour: Colour) -> None:
    """Host, response.url and response.request are logical; the connection goes to the instance."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    a = instance("a", 8081)
    colour.open(handler, Listed(a))
    answer = colour.get("http://producer/weather?zip=94107", headers={"x-id": "7"})
    assert str(seen[0].url) == "http://a.test:8081/weather?zip=94107"
    assert seen[0].headers["host"] == "producer"
    assert seen[0].headers["x-id"] == "7"
    assert "resilient" not in seen[0].extensions
    assert str(answer.url) == "http://producer/weather?zip=94107"
    assert answer.request.headers["host"] == "producer"
    assert answer.extensions["resilient"] == {"instance": a, "attempts": 1}


def test_a_host_that_is_not_logical_is_guarded_and_not_resolved(colour: Colour) -> None:
    """It goes where its URL says, through the one pool of such hosts, with a breaker of its own."""
    colour.open(name, Listed(*instances("ab")))
    answer = colour.get("http://api.example.org/x")
    assert answer.text == "nobody"
    assert answer.extensions["resilient"] == {"instance": None, "attempts": 1}
    assert colour.get("https://other.example.org:8443/").text == "nobody"
    assert [wire.instance for wire in colour.wires] == [None]
    assert colour.breaker("http://api.example.org:80").snapshot().successes == 1
    assert colour.breaker("https://other.example.org:8443").snapshot().successes == 1
    assert colour.breaker("http://api.example.org:80").name == "http://api.example.org:80"


def test_without_discovery_every_name_is_a_host(colour: Colour) -> None:
    """Nothing is logical when nobody can say who is there."""
    colour.open(name, None)
    assert colour.get("http://producer/").text == "nobody"
    with pytest.raises(ConfigError, match="no logical name"):
        colour.transport.balancer("producer")


def test_an_unknown_name_is_no_dns_lookup(colour: Colour) -> None:
    """NoInstanceError, which is httpx's ConnectError too; the breaker counts nothing; no pool is made."""
    discovery = Listed(*instances("a"))
    colour.open(name, discovery)
    discovery.set()
    with pytest.raises(NoInstanceError) as none:
        colour.transport._core.targets.of_key("producer").known = True
        colour.get("http://producer/")
    assert isinstance(none.value, httpx.ConnectError)
    assert none.value.request.url.host == "producer"
    assert colour.wires == []
    assert colour.breaker().snapshot().calls == 0


def test_the_first_call_of_a_service_waits_once(colour: Colour) -> None:
    """Discovery's first answer is waited for, by the first call only, no longer than the request's own limit."""
    waits: list[float] = []

    class Slow(Listed):
        def wait(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:
            waits.append(timeout)
            raise NoInstanceError("nobody within the time", policy=service)

        async def wait_async(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:  # noqa: ASYNC109
            return self.wait(service, timeout=timeout)

    colour.open(name, Slow())
    with pytest.raises(NoInstanceError, match="nobody within the time"):
        colour.get("http://producer/", extensions={"resilient": {"timeout": 1.0}})
    with pytest.raises(NoInstanceError, match="nobody within the time"):
        colour.get("http://producer/")  # the first was in a hurry: that used up nobody's wait
    with pytest.raises(NoInstanceError, match="can be called"):
        colour.get("http://producer/")
    with pytest.raises(NoInstanceError):
        colour.get("http://other/")
    assert waits == [pytest.approx(1.0, abs=0.1), 5.0, 5.0]


def test_a_name_that_an_answering_registry_does_not_know_is_waited_for_once_and_briefly(colour: Colour) -> None:
    """Names come from users: each must not hold a worker for 5 s."""
    waits: list[float] = []

    class Answering(Listed):
        def wait(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:
            waits.append(timeout)
            raise NoInstanceError("nobody of that name", policy=service)

        async def wait_async(self, service: str, /, *, timeout: float = 5.0) -> tuple[Instance, ...]:  # noqa: ASYNC109
            return self.wait(service, timeout=timeout)

    colour.open(name, Answering(*instances("a")))
    for _ in range(2):
        with pytest.raises(NoInstanceError):
            colour.get("http://typo/")
    assert waits == [1.0]


# --- other instances ------------------------------------------------------------------------------------------------


def test_an_instance_that_refuses_is_no_users_error(colour: Colour) -> None:
    """Any request goes on to another instance; the refusing one is not asked first for a while."""
    discovery = Listed(*instances("abc"))
    colour.open(status_of(a=200, b=-1, c=200), discovery)
    answers = [colour.request("POST", "http://producer/", content=b"x") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert Counter(answer.extensions["resilient"]["attempts"] for answer in answers) == {1: 19, 2: 1}
    assert colour.failures() == {"a": 0, "b": 1, "c": 0}
    assert discovery.refreshes == 1
    assert colour.breaker().snapshot().failures == 0


def test_three_instances_are_tried_at_most_each_once(colour: Colour) -> None:
    """Then the last error leaves, as httpx raised it, with a note of who was tried; one failure of the call."""
    colour.open(status_of(a=-1, b=-1, c=-1, d=-1), Listed(*instances("abcd")))
    with pytest.raises(httpx.ConnectError, match="refused") as refused:
        colour.get("http://producer/")
    assert type(refused.value) is httpx.ConnectError
    assert sum(colour.failures().values()) == 3
    assert max(colour.failures().values()) == 1
    assert "attempt 3 of at most 3" in refused.value.__notes__[0]
    assert colour.breaker().snapshot().failures == 1


@pytest.mark.parametrize(
    ("method", "options", "attempts"),
    [
        ("GET", {}, 2),
        ("PUT", {"content": b"x"}, 2),
        ("POST", {"content": b"x"}, 1),
        ("POST", {"content": b"x", "headers": {"Idempotency-Key": "7"}}, 2),
        ("POST", {"json": {"a": 1}, "extensions": {"resilient": {"idempotent": True}}}, 2),
        ("POST", {"files": {"f": b"x"}, "extensions": {"resilient": {"idempotent": True}}}, 2),
        ("GET", {"extensions": {"resilient": {"attempts": 1}}}, 1),
    ],
)
@pytest.mark.parametrize("trouble", [-2, 502, 503, 504])
def test_what_is_safe_to_repeat_is_repeated_elsewhere(
    colour: Colour, method: str, options: dict[str, Any], attempts: int, trouble: int
) -> None:
    """A broken connection and 502, 503, 504 go on to another instance, once it is safe to send the request twice."""
    colour.open(status_of(a=trouble, b=200), Listed(*instances("ab")))
    try:
        answer: httpx.Response | None = colour.request(method, "http://producer/", **options)
    except httpx.RemoteProtocolError:
        answer = None
    if attempts == 2:
        assert answer is not None
        assert (answer.status_code, answer.extensions["resilient"]["attempts"]) == (200, 2)
    else:
        assert (answer.status_code if answer else -2) == trouble
    assert colour.failures() == {"a": 1, "b": 0}
    assert colour.in_flight() == 0


def test_an_answer_of_500_is_not_asked_for_again(colour: Colour) -> None:
    """It was carried out, and failed: the same request fails elsewhere, too."""
    colour.open(status_of(a=500, b=200), Listed(*instances("ab")))
    assert colour.get("http://producer/").status_code == 500


def _body(colour: Colour) -> tuple[Any, list[int]]:
    """A generator as a body, and how many parts of it were read."""
    read: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(3):
            read.append(number)
            yield b"%d" % number

    async def aparts() -> AsyncIterator[bytes]:
        for part in parts():
            yield part

    return (aparts() if colour.is_async else parts()), read


def test_a_generator_that_was_read_is_not_sent_again(colour: Colour) -> None:
    """The first error leaves, neither StreamConsumed nor an empty body; even for what is idempotent."""
    colour.open(status_of(a=-2, b=200), Listed(*instances("ab")))
    body, read = _body(colour)
    with pytest.raises(httpx.RemoteProtocolError, match="reset"):
        colour.request("PUT", "http://producer/", content=body)
    assert read == [0, 1, 2]


def test_a_generator_that_was_not_read_goes_elsewhere(colour: Colour) -> None:
    """Nothing was sent, so a POST with a generator reaches the other instance, whole."""
    got: list[bytes] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        assert instance is not None
        if instance.id == "a":
            raise httpx.ConnectTimeout("too long")
        got.append(read_body(request))
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("ab")))
    body, _ = _body(colour)
    assert colour.request("POST", "http://producer/", content=body).status_code == 200
    assert got == [b"012"]


@pytest.mark.parametrize("how", ["content", "files"])
def test_a_file_is_not_sent_again(how: str) -> None:
    """A file read to its end would send 0 bytes: the answer of the first instance leaves, alone and in multipart."""
    file = io.BytesIO(b"x")
    sync = Colour(is_async=False).open(status_of(a=503, b=200), Listed(*instances("ab")))
    options: dict[str, Any] = {"content": file} if how == "content" else {"files": {"f": file}}
    assert sync.request("PUT", "http://producer/", **options).status_code == 503
    sync.close()


def test_a_broken_request_is_not_the_instances_failure(colour: Colour) -> None:
    """A body that raises reaches its caller; nobody counts it."""

    def parts() -> Iterator[bytes]:
        raise ValueError("no more")
        yield b""

    async def aparts() -> AsyncIterator[bytes]:
        for part in parts():
            yield part

    colour.open(status_of(a=200, b=200), Listed(*instances("ab")))
    with pytest.raises(ValueError, match="no more"):
        colour.request("PUT", "http://producer/", content=aparts() if colour.is_async else parts())
    assert colour.failures() == {"a": 0, "b": 0}
    assert colour.in_flight() == 0
    assert (colour.breaker().snapshot().failures, colour.breaker().snapshot().ignored) == (0, 1)


def test_an_answer_thrown_away_is_closed(colour: Colour) -> None:
    """Before another instance is asked, the failed answer is closed and its place given back."""
    thrown = Chunks(b"sorry")

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        assert instance is not None
        return httpx.Response(503, stream=thrown) if instance.id == "a" else httpx.Response(200)

    colour.open(handler, Listed(*instances("ab")))
    assert colour.get("http://producer/").status_code == 200
    assert thrown.closed
