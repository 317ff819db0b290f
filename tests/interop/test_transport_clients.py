"""The transports of other clients against real servers: httpx2, requests, aiohttp, and a library built on httpx."""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import httpx
import pytest

from resilient import CircuitBreaker, CircuitOpenError, ConfigError, Deadline, NoInstanceError, Pipeline, State
from resilient.discovery import Instance
from resilient.policies.retry import Retry
from resilient.transport import ResilientTransport
from tests.listed import Listed
from tests.peers import require
from tests.waiting import wait_until


class Server:
    """One real instance: Python's own HTTP server in a thread, on a free port of the loopback interface."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.headers: dict[str, str] = {}
        self.seen: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.connections: list[socket.socket] = []
        self.hang = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                owner.bodies.append(self.rfile.read(length))
                owner.seen.append({key.lower(): value for key, value in self.headers.items()} | {"path": self.path})
                if self.path == "/hang":
                    owner.hang.wait(10.0)
                answer = owner.answer(self.path)
                self.send_response(owner.status)
                for key, value in owner.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_POST(self) -> None:
                self.do_GET()

            def setup(self) -> None:
                super().setup()
                owner.connections.append(self.connection)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answer(self, path: str) -> bytes:
        """The body."""
        if path.startswith("/v1/chat"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": self.name}}
            return json.dumps(
                {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            ).encode()
        return self.name.encode()

    def instance(self) -> Instance:
        return Instance("producer", "127.0.0.1", self._http.server_port, id=self.name)

    def stop(self) -> None:
        """Nobody listens any more, and connections that are kept alive are cut."""
        self.hang.set()
        self._http.shutdown()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._thread.join(10.0)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Three instances."""
    running = [Server(name) for name in "abc"]
    yield running
    for server in running:
        server.stop()


def listed(servers: list[Server]) -> Listed:
    return Listed(*(server.instance() for server in servers))


def client_module(name: str) -> ModuleType:
    """A client library, or the test skips."""
    try:
        return importlib.import_module(name)
    except ImportError:
        require(None, f"{name} is not installed")
        raise


# --- one scenario, all clients --------------------------------------------------------------------------------------


class Client:
    """One client library over the library's transport: GET and POST in its own words."""

    def __init__(self, kind: str, discovery: Listed) -> None:
        library = client_module(kind.removesuffix(" async"))
        self.kind = kind
        self.errors: Any = {"requests": "RequestException", "aiohttp": "ClientError"}.get(kind, "HTTPError")
        self.errors = getattr(library, self.errors)
        self.timeouts: Any = getattr(
            library, {"requests": "Timeout", "aiohttp": "ServerTimeoutError"}.get(kind, "TimeoutException")
        )
        self.is_async = kind == "aiohttp" or kind.endswith("async")
        self._loop = asyncio.new_event_loop() if self.is_async else None
        module = importlib.import_module(f"resilient.transport.{kind.removesuffix(' async')}")
        options: dict[str, Any] = {"policies": self._policies}
        if kind == "requests":
            self.balanced: Any = module.ResilientAdapter(discovery, **options)
            self._session: Any = library.Session()
            self._session.mount("http://", self.balanced)
        elif kind == "aiohttp":
            self.balanced = module.ResilientClientMiddleware(discovery, **options)

            async def session() -> Any:
                return library.ClientSession(middlewares=[self.balanced])

            self._session = self._run(session())
        else:
            maker = module.AsyncResilientTransport if self.is_async else module.ResilientTransport
            self.balanced = maker(discovery, **options)
            self._session = (library.AsyncClient if self.is_async else library.Client)(transport=self.balanced)

    @staticmethod
    def _policies(key: str) -> Pipeline[Any]:
        return Pipeline(CircuitBreaker(f"clients.{key}"), Retry(f"clients.{key}", wait=0.0))

    def send(self, method: str, url: str, **options: Any) -> tuple[int, str, Any]:
        """(status, body, what the transport tells)."""
        if self.kind.startswith("httpx") and "data" in options:
            options["content"] = options.pop("data")
        if self.kind == "requests":
            answer = self._session.request(method, url, **options)
            return answer.status_code, answer.text, answer.resilient
        if self.kind == "aiohttp":
            return self._run(self._aiohttp(method, url, options))  # type: ignore[no-any-return]  # a tuple
        answer = self._run(self._session.request(method, url, **options))
        return answer.status_code, answer.text, answer.extensions["resilient"]

    async def _aiohttp(self, method: str, url: str, options: dict[str, Any]) -> tuple[int, str, Any]:
        async with self._session.request(method, url, **options) as answer:
            return answer.status, await answer.text(), answer.resilient

    def _run(self, result: Any) -> Any:
        if self._loop is None:
            return result
        return self._loop.run_until_complete(result)

    def close(self) -> None:
        close = self._session.close if self.kind in {"requests", "aiohttp"} else None
        if close is None:
            close = self._session.aclose if self.is_async else self._session.close
        self._run(close())
        if self._loop is not None:
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def in_flight(self) -> int:
        return int(self.balanced.balancer("producer").snapshot().in_flight)

    def breaker(self) -> CircuitBreaker:
        found: CircuitBreaker = self.balanced.pipeline("producer").policies[0]
        return found


@pytest.fixture(params=["httpx", "httpx async", "httpx2", "httpx2 async", "requests", "aiohttp"])
def client(request: pytest.FixtureRequest, servers: list[Server]) -> Iterator[Client]:
    """Every client over the three servers."""
    found = Client(request.param, listed(servers))
    yield found
    found.close()


def test_calls_are_shared_and_the_name_stays(client: Client, servers: list[Server]) -> None:
    """Nine calls: three each; Host is the logical name; the answer says who gave it."""
    answers = [client.send("GET", "http://producer/x?y=1") for _ in range(9)]
    assert Counter(text for _, text, _ in answers) == {"a": 3, "b": 3, "c": 3}
    assert {seen["host"] for server in servers for seen in server.seen} == {"producer"}
    assert {seen["path"] for server in servers for seen in server.seen} == {"/x?y=1"}
    assert all(told["instance"].id == text and told["attempts"] == 1 for _, text, told in answers)
    wait_until(lambda: client.in_flight() == 0, what="all answers to be read")


def test_an_instance_that_is_gone_is_no_users_error(client: Client, servers: list[Server]) -> None:
    """It is listed still; GET and POST go on to the others."""
    servers[1].stop()
    answers = [client.send(method, "http://producer/") for method in ["GET", "POST"] * 6]
    assert {text for _, text, _ in answers} == {"a", "c"}
    assert client.breaker().snapshot().failures == 0
    wait_until(lambda: client.in_flight() == 0, what="all answers to be read")


def test_answers_that_fail_are_repeated_when_that_is_safe(client: Client, servers: list[Server]) -> None:
    """503 of one of three: a GET never sees it, a POST does, a POST with a key does not."""
    servers[0].status = 503
    assert {client.send("GET", "http://producer/")[0] for _ in range(6)} == {200}
    assert {client.send("POST", "http://producer/", data=b"x")[0] for _ in range(6)} >= {503}
    keyed = {"Idempotency-Key": "7"}
    assert {client.send("POST", "http://producer/", data=b"x", headers=keyed)[0] for _ in range(6)} == {200}
    assert set(servers[1].bodies) <= {b"", b"x"}


def test_a_circuit_opens_with_an_error_of_the_client(client: Client, servers: list[Server]) -> None:
    """Five answers of 500; then a rejection that both sides know."""
    for server in servers:
        server.status = 500
    assert [client.send("GET", "http://producer/")[0] for _ in range(5)] == [500] * 5
    assert client.breaker().state is State.OPEN
    with pytest.raises(CircuitOpenError) as rejected:
        client.send("GET", "http://producer/")
    assert isinstance(rejected.value, client.errors)
    assert rejected.value.retry_after is not None


def test_a_deadline_ends_a_call_and_travels(client: Client, servers: list[Server]) -> None:
    """The header says what is left; a server that hangs is left with the client's own timeout."""
    with Deadline(5.0):
        client.send("GET", "http://producer/")
    told = [seen["x-request-timeout-ms"] for server in servers for seen in server.seen]
    assert [0 < int(one) <= 5000 for one in told] == [True]
    with Deadline(0.3), pytest.raises(client.timeouts, match="the caller's deadline came first"):
        client.send("POST", "http://producer/hang")
    wait_until(lambda: client.in_flight() == 0, what="the lease to be given back")


def test_an_unknown_service_is_an_error_of_the_client(client: Client) -> None:
    """It says what is known."""
    with pytest.raises(NoInstanceError, match="no instance of 'typo'") as unknown, Deadline(0.2):
        client.send("GET", "http://typo/")
    assert isinstance(unknown.value, client.errors)


def test_a_host_that_is_not_logical_is_called_as_it_is(client: Client, servers: list[Server]) -> None:
    """Through policies of its own key."""
    port = servers[0].instance().port
    status, text, told = client.send("GET", f"http://127.0.0.1:{port}/")
    assert (status, text, told) == (200, "a", {"instance": None, "attempts": 1})
    assert client.balanced.pipeline(f"http://127.0.0.1:{port}").policies[0].snapshot().successes == 1


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_streamed_answer_of_requests_holds_its_instance(servers: list[Server]) -> None:
    """Until it is read or closed; cookies are those of the name."""
    requests = client_module("requests")
    client = Client("requests", listed(servers))
    for server in servers:
        server.headers = {"Set-Cookie": "s=1; Path=/"}
    answer = client._session.get("http://producer/", stream=True)
    assert client.in_flight() == 1
    assert answer.content in {b"a", b"b", b"c"}
    assert client.in_flight() == 0
    assert answer.url == "http://producer/"
    assert [cookie.domain for cookie in answer.cookies] == ["producer.local"]
    closed = client._session.get("http://producer/", stream=True)
    closed.close()
    assert client.in_flight() == 0
    assert {seen.get("cookie") for server in servers for seen in server.seen} == {None, "s=1"}
    assert isinstance(answer, requests.Response)
    client.close()


@pytest.mark.parametrize("name", ["httpx2", "requests", "aiohttp"])
def test_an_absent_client_is_named_with_its_extra(name: str) -> None:
    """Importing the module says what to install."""
    code = (
        f"import sys; sys.modules[{name!r}] = None\n"
        "from resilient import ConfigError\n"
        "try:\n"
        f"    import resilient.transport.{name}\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert f"pip install 'resilient-patterns[{name}]'" in done.stdout


@pytest.mark.parametrize("kind", ["requests", "aiohttp"])
def test_a_wrong_argument_of_an_adapter_is_refused(kind: str) -> None:
    """At construction, by name."""
    client_module(kind)
    module = importlib.import_module(f"resilient.transport.{kind}")
    make = module.ResilientAdapter if kind == "requests" else module.ResilientClientMiddleware
    for options in ({"discovery": 7}, {"deadline_header": "X"}, {"policies": "breaker"}):
        with pytest.raises(ConfigError) as refused:
            make(options.pop("discovery", None), **options)
        assert refused.value.path
    with pytest.raises(ConfigError, match="no logical name"):
        make().balancer("producer")


# --- a library that is built on httpx -------------------------------------------------------------------------------


def test_a_foreign_sdk_works_unchanged_while_an_instance_is_killed(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The openai package with http_client=: no user sees that one of three instances dies."""
    openai = client_module("openai")
    monkeypatch.setenv("NO_PROXY", "*")
    transport = ResilientTransport(listed(servers))
    with (
        httpx.Client(transport=transport) as http,
        openai.OpenAI(api_key="k", base_url="http://producer/v1", http_client=http, max_retries=0) as sdk,
    ):
        ask: Callable[[], str] = lambda: (
            sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "who?"}])
            .choices[0]
            .message.content
        )
        before = Counter(ask() for _ in range(6))
        servers[1].stop()
        after = Counter(ask() for _ in range(20))
    assert before == {"a": 2, "b": 2, "c": 2}
    assert set(after) == {"a", "c"}
    assert all(json.loads(body)["model"] == "m" for server in servers for body in server.bodies)
