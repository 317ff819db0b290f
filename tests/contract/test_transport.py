"""The rules of the httpx transports, in both colours, against handlers in the place of instances."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import pickle
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, cast

import httpx
import pytest

from resilient import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    ConfigError,
    Deadline,
    DeadlineExceededError,
    Fallback,
    NoInstanceError,
    Pipeline,
    State,
)
from resilient.balancing import RoundRobin
from resilient.discovery import Instance
from resilient.errors import FailureInfo
from resilient.testing import VirtualClock
from resilient.transport import AsyncResilientTransport, ResilientTransport
from resilient.transport.httpx_errors import TransportCircuitOpenError, TransportTimeoutError
from tests.listed import Listed, instance, instances

Handler = Callable[[httpx.Request, "Instance | None"], httpx.Response]


class Wire(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """One pool: hands requests to a handler and reads their bodies, as a connection does."""

    def __init__(self, handler: Handler, instance: Instance | None) -> None:
        self._handler, self.instance = handler, instance
        self.closed = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._handler(request, self.instance)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self._handler(request, self.instance)

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1


class Colour:
    """One client of either colour, and the pools that it made."""

    def __init__(self, *, is_async: bool) -> None:
        self.is_async = is_async
        self.wires: list[Wire] = []
        self.transport: Any = None
        self._loop = asyncio.new_event_loop() if is_async else None
        self.client: Any = None

    def open(self, handler: Handler, discovery: object, *, client: dict[str, Any] | None = None, **options: Any) -> Any:
        """A client whose instances are `handler`."""

        def wire(instance: Instance | None) -> Wire:
            self.wires.append(Wire(handler, instance))
            return self.wires[-1]

        options = {"strategy": lambda: RoundRobin(rng=lambda: 0.0), "transport": wire, **options}
        made: Any = AsyncResilientTransport if self.is_async else ResilientTransport
        self.transport = made(discovery, **options)
        self.client = (httpx.AsyncClient if self.is_async else httpx.Client)(
            transport=self.transport,
            **(client or {}),
        )
        return self

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """One request, its answer read."""
        found: httpx.Response = self.run(self.client.request(method, url, **options))
        return found

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def stream(self, url: str) -> httpx.Response:
        """One request, its answer not read."""
        found: httpx.Response = self.run(self.client.send(self.client.build_request("GET", url), stream=True))
        return found

    def close_answer(self, answer: httpx.Response) -> None:
        self.run((answer.aclose if self.is_async else answer.close)())

    def read(self, answer: httpx.Response) -> bytes:
        found: bytes = self.run(answer.aread() if self.is_async else answer.read())
        return found

    def run(self, result: Any) -> Any:
        """The result of a call in this colour."""
        if self._loop is None:
            return result
        return self._loop.run_until_complete(result) if asyncio.iscoroutine(result) else result

    def close(self) -> None:
        """Close the client and its loop."""
        if self.client is not None:
            self.run(self.client.aclose() if self.is_async else self.client.close())
            self.client = None
        if self._loop is not None and not self._loop.is_closed():
            self._loop.close()

    def in_flight(self, service: str = "producer") -> int:
        return int(self.transport.balancer(service).snapshot().in_flight)

    def failures(self, service: str = "producer") -> dict[str, int]:
        return {entry.instance.id: entry.failures for entry in self.transport.balancer(service).snapshot().instances}

    def breaker(self, key: str = "producer") -> CircuitBreaker:
        found = self.transport.pipeline(key).policies[0]
        assert isinstance(found, CircuitBreaker)
        return found


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Iterator[Colour]:
    """A client in one colour; the test runs once per colour."""
    found = Colour(is_async=request.param)
    yield found
    found.close()


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in parts and may break; knows whether it was closed."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self._parts = parts
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def name(request: httpx.Request, instance: Instance | None) -> httpx.Response:
    """Answers with the id of the instance."""
    return httpx.Response(200, text=instance.id if instance else "nobody")


def status_of(**statuses: int) -> Handler:
    """Answers with a status per instance; -1: refuses the connection, -2: breaks it."""

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        status = statuses[instance.id if instance else "other"]
        if status == -1:
            raise httpx.ConnectError("refused")
        _read(request)
        if status == -2:
            raise httpx.RemoteProtocolError("reset")
        return httpx.Response(status, text=instance.id if instance else "other")

    return handler


def _read(request: httpx.Request) -> bytes:
    """The body as a connection reads it, in either colour."""
    if isinstance(request.stream, httpx.SyncByteStream):
        try:
            return b"".join(request.stream)
        except AssertionError:  # an async body
            pass

    async def aread() -> bytes:
        return b"".join([part async for part in request.stream])  # type: ignore[union-attr]

    coroutine = aread()
    try:
        coroutine.send(None)
    except StopIteration as done:
        return bytes(done.value)
    raise AssertionError("a test's body does not wait")


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
        colour.transport._core.targets.find("http", "producer", None).known = True
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
        got.append(_read(request))
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


# --- policies -------------------------------------------------------------------------------------------------------


def test_answers_of_5xx_open_the_circuit_and_reach_the_caller(colour: Colour) -> None:
    """Five 500s in a row open it; the sixth call is rejected with an error that httpx knows."""
    colour.open(status_of(a=500), Listed(*instances("a")))
    for _ in range(5):
        answer = colour.get("http://producer/")
        assert (answer.status_code, answer.text) == (500, "a")
    assert colour.breaker().state is State.OPEN
    with pytest.raises(httpx.HTTPError) as rejected:
        colour.get("http://producer/")
    assert isinstance(rejected.value, CircuitOpenError)
    assert rejected.value.policy == "producer"
    assert rejected.value.retry_after is not None
    assert rejected.value.last_failure is not None
    assert rejected.value.request.url.host == "producer"
    assert "500" in rejected.value.last_failure.message
    assert colour.failures() == {"a": 5}


@pytest.mark.parametrize(("status", "counted"), [(408, 1), (425, 1), (429, 1), (501, 0), (404, 0), (503, 1)])
def test_the_breaker_judges_the_status(colour: Colour, status: int, counted: int) -> None:
    """5xx other than 501 and 505, and 408, 425, 429, are failures of the call."""
    colour.open(status_of(a=status), Listed(*instances("a")))
    assert colour.get("http://producer/").status_code == status
    assert colour.breaker().snapshot().failures == counted


def test_the_breaker_judges_what_is_left_after_other_instances(colour: Colour) -> None:
    """Two of three instances answer 503: every call is good, and so is the circuit."""
    colour.open(status_of(a=503, b=503, c=200), Listed(*instances("abc")))
    assert {colour.get("http://producer/").status_code for _ in range(30)} == {200}
    assert colour.breaker().snapshot().failures == 0


def test_a_breaker_of_the_users_own_counts_answers_too(colour: Colour) -> None:
    """policies= is asked once per key; its breaker needs no on_result."""
    keys: list[str] = []

    def policies(key: str) -> Pipeline[httpx.Response]:
        keys.append(key)
        return Pipeline(CircuitBreaker(f"mine.{key}", consecutive_failures=2))

    colour.open(status_of(a=503, other=200), Listed(*instances("a")), policies=policies)
    for _ in range(2):
        assert colour.get("http://producer/").status_code == 503
    with pytest.raises(CircuitOpenError, match=r"mine\.producer"):
        colour.get("http://producer/")
    colour.get("http://example.org/")
    assert keys == ["producer", "http://example.org:80"]


def test_a_fallback_in_the_transport_sees_the_failure(colour: Colour) -> None:
    """It is called with the request, for an error, a failed answer and a rejection; what it replaces is closed."""
    failed = Chunks(b"sorry")
    seen: list[Exception] = []

    def empty(request: httpx.Request, *, error: Exception) -> httpx.Response:
        seen.append(error)
        return httpx.Response(200, text=f"instead of {request.url.path}")

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        return httpx.Response(500, stream=failed)

    colour.open(
        handler,
        Listed(*instances("a")),
        policies=lambda key: Pipeline(Fallback(empty), CircuitBreaker(key, consecutive_failures=1)),
    )
    for _ in range(2):
        assert colour.get("http://producer/x").text == "instead of /x"
    assert isinstance(seen[0], httpx.HTTPStatusError)
    assert seen[0].response.status_code == 500
    assert isinstance(seen[1], CircuitOpenError)
    assert failed.closed
    assert colour.in_flight() == 0


def test_a_fallback_that_gives_no_response_is_told(colour: Colour) -> None:
    """A transport answers with responses."""
    colour.open(status_of(a=500), Listed(*instances("a")), policies=lambda _key: Pipeline(Fallback(value="empty")))
    with pytest.raises(TypeError, match=r"gives an httpx\.Response"):
        colour.get("http://producer/")
    assert colour.in_flight() == 0


def test_a_full_pool_is_our_own_fault(colour: Colour) -> None:
    """PoolTimeout everywhere: BulkheadFullError, httpx's PoolTimeout too; no failure of instance or circuit."""

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        raise httpx.PoolTimeout("full")

    colour.open(handler, Listed(*instances("ab")))
    with pytest.raises(httpx.PoolTimeout) as full:
        colour.get("http://producer/")
    assert isinstance(full.value, BulkheadFullError)
    assert colour.failures() == {"a": 0, "b": 0}
    seen = colour.breaker().snapshot()
    assert (seen.calls, seen.failures, seen.ignored) == (0, 0, 0)


def test_policies_must_give_a_pipeline(colour: Colour) -> None:
    """A lone policy in its place is named with the key."""
    colour.open(name, Listed(*instances("a")), policies=CircuitBreaker)
    with pytest.raises(ConfigError, match="policies must return a Pipeline for the key 'producer'"):
        colour.get("http://producer/")


def test_a_page_can_show_a_circuit_that_was_not_called_yet(colour: Colour) -> None:
    """pipeline(key) gives the policies that a call will use."""
    colour.open(name, Listed(*instances("a")))
    breaker = colour.breaker("producer")
    assert breaker.state is State.CLOSED
    colour.get("http://producer/")
    assert breaker.snapshot().successes == 1
    for wrong in ("a.b", "", "http://nowhere"):
        with pytest.raises(ConfigError):
            colour.transport.pipeline(wrong)


# --- bodies ---------------------------------------------------------------------------------------------------------


def test_an_answer_holds_its_instance_until_its_end(colour: Colour) -> None:
    """The circuit has its verdict at the headers; the instance is in flight until the body ends."""
    colour.open(lambda r, i: httpx.Response(200, stream=Chunks(b"a", b"b")), Listed(*instances("a")))
    read, closed = colour.stream("http://producer/"), colour.stream("http://producer/")
    assert colour.in_flight() == 2
    assert colour.breaker().snapshot().successes == 2
    assert colour.read(read) == b"ab"
    assert colour.in_flight() == 1
    colour.close_answer(closed)
    assert colour.in_flight() == 0


def test_a_reader_may_stop_early(colour: Colour) -> None:
    """Who closes an answer after its first part has had a good one; what lies below is closed."""
    body = Chunks(b"a", b"b", b"c")
    colour.open(lambda r, i: httpx.Response(200, stream=body), Listed(*instances("a")))
    answer = colour.stream("http://producer/")

    async def first() -> bytes:
        async with contextlib.aclosing(cast("AsyncGenerator[bytes, None]", answer.aiter_raw())) as parts:
            found = await anext(parts)
        del parts
        gc.collect()  # httpx nests generators; the event loop closes the inner ones when they are collected
        for _ in range(5):
            await asyncio.sleep(0)
        return found

    assert (colour.run(first()) if colour.is_async else next(answer.iter_raw())) == b"a"
    colour.close_answer(answer)
    assert body.closed
    assert colour.failures() == {"a": 0}
    assert colour.in_flight() == 0


def test_a_body_that_breaks_is_the_instances_failure(colour: Colour) -> None:
    """The reader gets httpx's error; the instance failed, the circuit had its verdict before."""
    broken = Chunks(b"a", httpx.ReadError("reset"))
    colour.open(lambda r, i: httpx.Response(200, stream=broken), Listed(*instances("ab")))
    with pytest.raises(httpx.ReadError, match="reset"):
        colour.get("http://producer/")
    assert colour.failures() == {"a": 1, "b": 0}
    assert colour.in_flight() == 0
    assert broken.closed
    assert colour.breaker().snapshot().failures == 0


def test_the_callers_deadline_holds_for_the_body(colour: Colour) -> None:
    """Checked at each part: a timeout that httpx knows, and no failure of the instance."""
    clock = VirtualClock()

    class Slow(Chunks):
        def __iter__(self) -> Iterator[bytes]:
            yield b"a"
            clock.advance(2.0)
            yield b"b"

    colour.open(lambda r, i: httpx.Response(200, stream=Slow()), Listed(*instances("a")))
    with Deadline(1.0, clock=clock), pytest.raises(httpx.ReadTimeout) as late:
        colour.get("http://producer/")
    assert isinstance(late.value, CallTimeoutError)
    assert colour.failures() == {"a": 0}
    assert colour.in_flight() == 0


def test_an_answer_that_is_forgotten_gives_its_place_back() -> None:
    """Neither read nor closed: a ResourceWarning, and nothing stays in flight."""
    sync = Colour(is_async=False).open(lambda r, i: httpx.Response(200, stream=Chunks(b"a")), Listed(*instances("a")))
    answer = sync.transport.handle_request(httpx.Request("GET", "http://producer/"))
    assert sync.in_flight() == 1
    answers = [answer]
    del answer
    with pytest.warns(ResourceWarning, match="neither read to its end nor closed"):
        answers.clear()
    gc.collect()
    assert sync.in_flight() == 0
    sync.close()


def test_redirects_and_cookies_stay_with_the_name(colour: Colour) -> None:
    """A redirect to the name is balanced again; a cookie set by one instance is sent to the next."""
    cookies: list[tuple[str, str | None]] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        assert instance is not None
        cookies.append((instance.id, request.headers.get("cookie")))
        if request.url.path == "/old":
            headers = {"location": "http://producer/new", "set-cookie": "s=1; Path=/"}
            return httpx.Response(302, headers=headers)
        return httpx.Response(200, text=instance.id)

    colour.open(handler, Listed(*instances("ab")), client={"follow_redirects": True})
    answer = colour.get("http://producer/old")
    assert (answer.text, str(answer.url)) == ("b", "http://producer/new")
    assert cookies == [("a", None), ("b", "s=1")]


# --- deadlines and TLS ----------------------------------------------------------------------------------------------


def test_a_deadline_shortens_the_timeouts_and_travels(colour: Colour) -> None:
    """Each timeout is at most what is left; a service hears it in a header, another host does not."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("a")), client={"timeout": httpx.Timeout(5.0, read=0.5)})
    with Deadline(2.0, clock=VirtualClock()):
        colour.get("http://producer/")
        colour.get("http://example.org/")
        colour.get("http://producer/", headers={"x-request-timeout-ms": "100"})
    colour.get("http://producer/")
    assert seen[0].extensions["timeout"] == {"connect": 2.0, "read": 0.5, "write": 2.0, "pool": 2.0}
    assert [r.headers.get("x-request-timeout-ms") for r in seen] == ["2000", None, "100", None]
    assert seen[3].extensions["timeout"]["connect"] == 5.0


@pytest.mark.parametrize(("wanted", "sent"), [(True, ["2000", "2000"]), (False, [None, None])])
def test_the_deadline_header_can_be_chosen(colour: Colour, wanted: object, sent: list[str | None]) -> None:
    """deadline_header= says who hears it."""
    heard: list[str | None] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        heard.append(request.headers.get("x-request-timeout-ms"))
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("a")), deadline_header=wanted)
    with Deadline(2.0, clock=VirtualClock()):
        colour.get("http://producer/")
        colour.get("http://example.org/")
    assert heard == sent


def test_a_deadline_that_has_passed_sends_nothing(colour: Colour) -> None:
    """DeadlineExceededError, httpx's TimeoutException too; nobody was asked, nothing is counted."""
    clock = VirtualClock()
    colour.open(name, Listed(*instances("a")))
    with Deadline(1.0, clock=clock):
        clock.advance(1.0)
        with pytest.raises(httpx.TimeoutException) as late:
            colour.get("http://producer/")
    assert isinstance(late.value, DeadlineExceededError)
    assert colour.wires == []
    assert colour.breaker().snapshot().calls == 0


@pytest.mark.parametrize(("given", "failures"), [(0.05, 0), (1.0, 1)])
def test_a_timeout_by_the_deadline_says_so(colour: Colour, given: float, failures: int) -> None:
    """CallTimeoutError, httpx's ReadTimeout too; evidence only when the call had 100 ms."""
    clock = VirtualClock()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        clock.advance(given)
        raise httpx.ReadTimeout("no bytes")

    colour.open(handler, Listed(*instances("ab")), clock=clock)
    with Deadline(given, clock=clock), pytest.raises(httpx.ReadTimeout) as late:
        colour.get("http://producer/")
    assert isinstance(late.value, CallTimeoutError)
    assert late.value.by_deadline
    assert late.value.elapsed == pytest.approx(given)
    assert colour.failures() == {"a": failures, "b": 0}
    assert colour.breaker().snapshot().failures == failures


def test_https_is_verified_for_the_name(colour: Colour) -> None:
    """SNI and certificate are those of the name, or of tls_name; only instances that speak TLS are called."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    known = (instance("a"), instance("s", 443, secure=True))
    colour.open(handler, Listed(*known))
    colour.get("https://producer/")
    colour.get("http://producer/")
    colour.get("https://example.org/")
    assert str(seen[0].url) == "https://s.test/"
    assert seen[0].extensions["sni_hostname"] == "producer"
    assert str(seen[1].url) == "http://a.test/"
    assert "sni_hostname" not in seen[1].extensions
    assert "sni_hostname" not in seen[2].extensions
    shop = instance("t", 443, service="shop", secure=True)
    other = Colour(is_async=colour.is_async).open(handler, Listed(shop), tls_name="shop.internal")
    other.get("https://shop/")
    other.close()
    assert seen[3].extensions["sni_hostname"] == "shop.internal"


def test_https_is_never_sent_in_plain_text(colour: Colour) -> None:
    """No instance speaks TLS: NoInstanceError that says so."""
    colour.open(name, Listed(*instances("ab")))
    with pytest.raises(NoInstanceError, match="2 are known, none of them speaks TLS"):
        colour.get("https://producer/")


# --- pools ----------------------------------------------------------------------------------------------------------


def test_every_instance_has_a_pool_of_its_own_closed_with_the_client(colour: Colour) -> None:
    """One pool per instance and TLS name, made at the first call, closed at close."""
    colour.open(name, Listed(*instances("ab"), instance("s", secure=True)))
    assert colour.wires == []
    for _ in range(3):
        colour.get("http://producer/")
        colour.get("https://producer/")
    colour.get("https://producer/", extensions={"sni_hostname": "other"})
    assert [wire.instance.id for wire in colour.wires if wire.instance] == ["a", "s", "b", "s"]
    colour.close()
    assert [wire.closed for wire in colour.wires] == [1, 1, 1, 1]


def test_a_pool_of_an_instance_that_left_is_closed_when_idle(colour: Colour) -> None:
    """Not while a body is read, not before 60 s without use, not while the instance is listed."""
    clock = VirtualClock()
    discovery = Listed(*instances("abc"))
    colour.open(lambda r, i: httpx.Response(200, stream=Chunks(b"x")), discovery, clock=clock)
    open_answer = colour.stream("http://producer/")
    for _ in range(2):
        colour.get("http://producer/")
    discovery.set(*instances("c"))
    clock.advance(59.0)
    colour.get("http://producer/")
    assert [wire.closed for wire in colour.wires] == [0, 0, 0]
    clock.advance(10.0)
    colour.get("http://producer/")
    assert [wire.closed for wire in colour.wires] == [0, 1, 0]
    colour.read(open_answer)
    clock.advance(60.0)
    colour.get("http://producer/")
    assert [wire.closed for wire in colour.wires] == [1, 1, 0]


def test_a_factory_that_raises_gives_the_lease_back(colour: Colour) -> None:
    """An error of transport= reaches the caller; nothing stays in flight."""

    def broken(instance: Instance | None) -> Wire:
        raise RuntimeError("no such pool")

    colour.open(name, Listed(*instances("a")), transport=broken)
    with pytest.raises(RuntimeError, match="no such pool"):
        colour.get("http://producer/")
    assert colour.in_flight() == 0


def test_a_factory_must_make_transports(colour: Colour) -> None:
    """Something else is named."""
    colour.open(name, Listed(*instances("a")), transport=lambda _instance: "pool")
    with pytest.raises(ConfigError, match="must make a"):
        colour.get("http://producer/")


# --- arguments and errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"discovery": 7}, "discovery"),
        ({"discovery": "eurika://localhost"}, "url"),
        ({"policies": "breaker"}, "policies"),
        ({"strategy": "round robin"}, "strategy"),
        ({"is_logical": "producer"}, "is_logical"),
        ({"verify": "/etc/ca.pem"}, "verify"),
        ({"tls_name": ""}, "tls_name"),
        ({"deadline_header": "X-Deadline"}, "deadline_header"),
        ({"transport": "pool"}, "transport"),
        ({"transport": lambda _i: None, "proxy": "http://proxy:3128"}, "proxy"),
        ({"transport": lambda _i: None, "verify": False}, "verify"),
        ({"transport": lambda _i: None, "http2": True}, "http2"),
    ],
)
@pytest.mark.parametrize("kind", [ResilientTransport, AsyncResilientTransport])
def test_a_wrong_argument_is_refused_at_construction(kind: Any, options: dict[str, Any], path: str) -> None:
    """The error names the argument."""
    given = {"discovery": None, **options}
    with pytest.raises(ConfigError) as refused:
        kind(given.pop("discovery"), **given)
    assert refused.value.path == path


def test_https_to_a_name_does_not_go_through_an_http_proxy() -> None:
    """The certificate could not be verified for the name, so it is refused."""
    discovery = Listed(instance("s", secure=True))
    transport = ResilientTransport(discovery, proxy="http://127.0.0.1:9")
    with httpx.Client(transport=transport) as client, pytest.raises(ConfigError, match="could not be verified"):
        client.get("https://producer/")


def test_the_proxies_of_the_environment_apply_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is used for what NO_PROXY does not name; trust_env=False ignores both."""
    monkeypatch.setenv("http_proxy", "127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "producer")
    transport = ResilientTransport(Listed())
    found = transport._core.connections
    assert found.proxy_for("http", "consumer") == "http://127.0.0.1:9"
    assert found.proxy_for("http", "producer") is None
    assert found.proxy_for("https", "consumer") is None
    assert ResilientTransport(trust_env=False)._core.connections.proxy_for("http", "consumer") is None


def test_the_errors_of_a_transport_pickle() -> None:
    """They cross process borders with their data, and are what both sides know."""
    info = FailureInfo("ConnectError", "refused", 1.0)
    error = TransportCircuitOpenError("open", policy="producer", retry_after=2.5, last_failure=info)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is TransportCircuitOpenError
    assert (str(again), again.policy, again.retry_after, again.last_failure) == ("open", "producer", 2.5, info)
    late = TransportTimeoutError("late", policy="p", limit=1.0, elapsed=1.5, by_deadline=True)
    again = pickle.loads(pickle.dumps(late))
    assert type(again) is TransportTimeoutError
    assert issubclass(TransportTimeoutError, TimeoutError)
    assert issubclass(TransportTimeoutError, httpx.TimeoutException)
    assert (again.limit, again.elapsed, again.by_deadline) == (1.0, 1.5, True)
    with pytest.raises(RuntimeError, match="request"):
        _ = again.request


def test_a_discovery_handed_in_is_the_callers(colour: Colour) -> None:
    """Only what the transport made from a URL is closed with it."""
    closed: list[str] = []

    class Mine(Listed):
        def close(self) -> None:
            closed.append("close")

        async def aclose(self) -> None:
            closed.append("aclose")

    colour.open(name, Mine(*instances("a")))
    colour.get("http://producer/")
    colour.close()
    assert closed == []


def test_a_url_makes_a_discovery_of_its_own(colour: Colour) -> None:
    """static:// in the place of a Discovery."""
    colour.open(name, "static://producer=10.0.0.1:80")
    assert colour.get("http://producer/").text == "10.0.0.1:producer:80"
    assert "static" in repr(colour.transport)


# --- what a second reader found -------------------------------------------------------------------------------------


def test_a_body_is_not_sent_twice_when_a_transport_calls_a_broken_connection_a_failed_one(colour: Colour) -> None:
    """Some transports raise ConnectError in the middle of a request; what was read was sent."""
    sent: list[str] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        sent.append(_read(request).decode())
        raise httpx.ConnectError("reset while sending")

    colour.open(handler, Listed(*instances("ab")))
    with pytest.raises(httpx.ConnectError, match="reset while sending"):
        colour.request("POST", "http://producer/", content=b"order")
    assert sent == ["order"]


def test_an_answer_before_a_full_pool_is_not_forgotten(colour: Colour) -> None:
    """503, then no connection free: the call was made, so the breaker counts it."""

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if instance and instance.id == "a":
            return httpx.Response(503)
        raise httpx.PoolTimeout("full")

    colour.open(handler, Listed(*instances("ab")))
    with pytest.raises(httpx.PoolTimeout) as caught:
        colour.request("PUT", "http://producer/", content=b"x")
    assert not isinstance(caught.value, BulkheadFullError)
    assert colour.breaker().snapshot().failures == 1


@pytest.mark.parametrize("host", ["h:99", "10.0.0.1\r\nX: y", "xn--\u20ac"])
def test_an_address_that_is_no_host_is_an_instance_that_can_not_be_connected_to(colour: Colour, host: str) -> None:
    """What one entry of a registry says does not break a share of all calls."""
    bad = Instance("producer", host, 80, id="bad")
    colour.open(name, Listed(bad, *instances("b")))
    assert [colour.get("http://producer/").text for _ in range(6)] == ["b"] * 6


def test_a_limit_that_ends_at_the_headers_does_not_cut_the_body(colour: Colour) -> None:
    """Once the headers are here the client's own timeouts hold, and the caller's deadline."""
    phases: list[dict[str, float | None]] = []
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        phases.append(dict(request.extensions["timeout"]))
        sent.append(request)
        return httpx.Response(200, stream=Chunks(b"a"))

    colour.open(handler, Listed(*instances("a")), client={"timeout": httpx.Timeout(60.0)})
    colour.get("http://producer/", extensions={"resilient": {"timeout": 0.5}, "timeout": {"read": 60.0}})
    assert phases[0]["read"] is not None
    assert phases[0]["read"] <= 0.5
    assert sent[0].extensions["timeout"]["read"] == 60.0


def test_an_instance_that_answers_is_no_longer_aside_while_its_stream_goes_on(colour: Colour) -> None:
    """The verdict falls at the headers: hours of a stream do not keep the others preferred."""
    clock, well = VirtualClock(), [False]

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if instance and instance.id == "a" and not well[0]:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, stream=Chunks(b"a"))

    colour.open(handler, Listed(*instances("ab")), clock=clock)

    answers = [colour.stream("http://producer/")]
    clock.advance(1.0)
    well[0] = True
    answers += [colour.stream("http://producer/") for _ in range(8)]
    aside = {entry.instance.id: entry.aside for entry in colour.transport.balancer("producer").snapshot().instances}
    for answer in answers:
        colour.close_answer(answer)
    assert aside["a"] == 0.0


def test_a_deadline_header_that_cannot_be_a_number_of_milliseconds_is_replaced(colour: Colour) -> None:
    """Whatever a caller's caller wrote."""
    seen: list[str] = []

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        seen.append(request.headers["X-Request-Timeout-Ms"])
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("a")))
    with Deadline(5.0):
        colour.get("http://producer/", headers={"X-Request-Timeout-Ms": "9" * 5000})
    assert 0 < int(seen[0]) <= 5000


def test_an_error_of_the_socket_itself_is_the_instances(colour: Colour) -> None:
    """A transport that lets an OSError through: another instance is tried."""

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if instance and instance.id == "a":
            raise ConnectionResetError("reset")
        return httpx.Response(200, text="b")

    colour.open(handler, Listed(*instances("ab")))
    assert colour.get("http://producer/").text == "b"
    assert colour.failures()["a"] == 1


def test_a_black_hole_is_put_aside_by_callers_in_a_hurry_too(colour: Colour) -> None:
    """A connection that was not made in 50 ms says something, although the deadline left no more time."""
    clock = VirtualClock()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if instance and instance.id == "a":
            clock.advance(0.05)
            raise httpx.ConnectTimeout("no answer")
        return httpx.Response(200, text="b")

    colour.open(handler, Listed(*instances("ab")), clock=clock)
    ends: list[str] = []
    for _ in range(10):
        with Deadline(0.05, clock=clock):
            try:
                ends.append(colour.get("http://producer/").text)
            except httpx.TimeoutException:
                ends.append("late")
    assert ends.count("late") == 1


def test_when_the_others_are_gone_the_answer_is_handed_over(colour: Colour) -> None:
    """A 503 is thrown away only for an instance that is chosen already."""

    class Gone(RoundRobin):
        def pick(self, known: Any, key: str | None, /) -> Instance:
            chosen = super().pick(known, key)
            if chosen.id == "b":
                raise NoInstanceError("nobody is left", policy="producer")
            return chosen

    colour.open(status_of(a=503, b=200), Listed(*instances("ab")), strategy=lambda: Gone(rng=lambda: 0.0))
    answer = colour.get("http://producer/")
    assert (answer.status_code, answer.text, answer.extensions["resilient"]["attempts"]) == (503, "a", 1)
    assert colour.breaker().snapshot().failures == 1
    assert colour.in_flight() == 0


@pytest.mark.parametrize("first", [503, None])
def test_time_that_runs_out_between_two_attempts_is_no_rejection(colour: Colour, first: int | None) -> None:
    """Something was sent: CallTimeoutError, a failure of the call, and no lease stays behind."""
    clock = VirtualClock()

    class Slow(Chunks):
        def close(self) -> None:
            clock.advance(1.0)

        async def aclose(self) -> None:
            clock.advance(1.0)

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        if first is None:
            raise httpx.RemoteProtocolError("reset")
        return httpx.Response(first, stream=Slow())

    class Last(RoundRobin):
        def pick(self, known: Any, key: str | None, /) -> Instance:
            chosen = super().pick(known, key)
            if first is None and chosen.id == "b":
                clock.advance(1.0)
            return chosen

    colour.open(handler, Listed(*instances("ab")), clock=clock, strategy=lambda: Last(rng=lambda: 0.0))
    with Deadline(1.0, clock=clock), pytest.raises(CallTimeoutError) as late:
        colour.get("http://producer/")
    assert late.value.by_deadline
    assert isinstance(late.value, httpx.ReadTimeout)
    assert colour.breaker().snapshot().failures == 1
    assert colour.failures() == {"a": 1, "b": 0}
    assert colour.in_flight() == 0


def test_the_callers_deadline_goes_on_into_the_body(colour: Colour) -> None:
    """Its timeouts are what is left when the headers come, not what was left before."""
    clock, seen = VirtualClock(), list[dict[str, Any]]()

    def handler(request: httpx.Request, instance: Instance | None) -> httpx.Response:
        clock.advance(0.75)
        seen.append(request.extensions)
        return httpx.Response(200)

    colour.open(handler, Listed(*instances("a")), client={"timeout": None}, clock=clock)
    with Deadline(1.0, clock=clock):
        colour.get("http://producer/")
    assert seen[0]["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), 0.25)


@pytest.mark.parametrize(("passed", "failures"), [(1.0, 0), (0.5, 1)])
def test_a_body_cut_by_the_callers_deadline_is_nobodys_failure(colour: Colour, passed: float, failures: int) -> None:
    """httpx's ReadTimeout in the body counts against the instance only while the caller had time."""
    clock = VirtualClock()

    class Cut(Chunks):
        def __iter__(self) -> Iterator[bytes]:
            yield b"a"
            clock.advance(passed)
            raise httpx.ReadTimeout("no bytes")

    colour.open(lambda r, i: httpx.Response(200, stream=Cut()), Listed(*instances("a")))
    with Deadline(1.0, clock=clock), pytest.raises(httpx.ReadTimeout):
        colour.get("http://producer/")
    assert colour.failures() == {"a": failures}


@pytest.mark.parametrize("trouble", [-1, -2, 200])
def test_an_error_that_leaves_makes_no_cycle(colour: Colour, trouble: int) -> None:
    """With the collector off, no frame of the transport is kept by the error it raised."""
    colour.open(status_of(a=trouble, b=500 if trouble == -2 else trouble), Listed(*instances("ab")))
    if trouble == 200:
        colour.breaker().force_open()

    async def call() -> None:  # caught in the loop: a future and its error are a cycle of asyncio's own
        with contextlib.suppress(httpx.HTTPError):
            await colour.client.get("http://producer/")

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(httpx.HTTPError):
            colour.run(call()) if colour.is_async else colour.get("http://producer/")
        kept = [one for one in gc.get_objects() if type(one).__name__ == "Call"]
    finally:
        gc.enable()
    assert kept == []


def test_pools_of_the_gone_are_closed_one_per_request(colour: Colour) -> None:
    """A request that closes them pays for one, and one that is cancelled meanwhile loses no other."""
    clock, discovery = VirtualClock(), Listed(*instances("abc"))
    colour.open(name, discovery, clock=clock)
    for _ in range(3):
        colour.get("http://producer/")
    discovery.set(*instances("d"))
    clock.advance(70.0)
    closed = []
    for _ in range(2):
        colour.get("http://producer/")
        closed.append(sum(wire.closed for wire in colour.wires))
    assert closed == [1, 2]
    colour.close()
    assert [wire.closed for wire in colour.wires] == [1, 1, 1, 1]
