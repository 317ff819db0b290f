"""What an httpx client does by itself goes on: HTTP/2, keep-alive, redirects, auth, cookies, proxies, mounts."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from resilient import Pipeline
from resilient.balancing import Sticky
from resilient.discovery import Instance
from resilient.policies.retry import Retry
from resilient.transport import ResilientTransport
from tests.listed import Listed
from tests.peers import require, require_command


class Peer:
    """One real instance on a socket: answers with what `reply` makes of each request; counts connections."""

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self.requests: list[bytes] = []
        self.connections: list[socket.socket] = []
        self._reply = reply
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def instance(self, name: str) -> Instance:
        return Instance("producer", "127.0.0.1", self.port, id=name)

    def stop(self) -> None:
        """Cut everything."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            received = b""
            while data := connection.recv(65_536):
                received += data
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    self.requests.append(head)
                    answer = self._reply(head)
                    connection.sendall(answer)
                    if b"connection: close" in answer.lower():
                        return


def answer(body: bytes = b"ok", status: str = "200 OK", **headers: str) -> bytes:
    """One HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
def peers() -> Iterator[Callable[..., Peer]]:
    """`peers(reply)`: a real instance, stopped afterwards."""
    running: list[Peer] = []

    def start(reply: Callable[[bytes], bytes] = lambda _head: answer()) -> Peer:
        running.append(Peer(reply))
        return running[-1]

    yield start
    for peer in running:
        peer.stop()


@contextmanager
def client(discovery: Listed | None, *, options: dict[str, Any] | None = None, **given: Any) -> Iterator[httpx.Client]:
    """A plain httpx client over the transport, without the environment's proxies."""
    transport = ResilientTransport(discovery, **{"trust_env": False, **(options or {})})
    with httpx.Client(transport=transport, **given) as found:
        yield found


# --- connections ----------------------------------------------------------------------------------------------------


def test_a_connection_is_kept_alive(peers: Callable[..., Peer]) -> None:
    """Twenty requests to each of two instances, two connections."""
    both = peers(), peers()
    with client(Listed(both[0].instance("a"), both[1].instance("b"))) as http:
        for _ in range(40):
            assert http.get("http://producer/").text == "ok"
    assert [len(peer.requests) for peer in both] == [20, 20]
    assert [len(peer.connections) for peer in both] == [1, 1]


def test_a_connection_that_the_server_closes_while_it_is_idle_costs_nothing(peers: Callable[..., Peer]) -> None:
    """Each answer ends its connection: every request gets a new one, and no user an error."""
    peer = peers(lambda _head: answer(connection="close"))
    with client(Listed(peer.instance("a"))) as http:
        assert [http.get("http://producer/").text for _ in range(5)] == ["ok"] * 5
    assert len(peer.connections) == 5


def test_a_connection_that_is_cut_under_a_request_is_made_up_for(peers: Callable[..., Peer]) -> None:
    """A kept connection that dies when it is used again: a GET goes on, with one instance too."""
    calls: list[bytes] = []

    def once(head: bytes) -> bytes:
        calls.append(head)
        if len(calls) == 2:
            for connection in peer.connections:
                connection.shutdown(socket.SHUT_RDWR)
        return answer()

    peer = peers(once)
    policies = lambda _key: Pipeline(Retry(wait=0.0))  # short
    with client(Listed(peer.instance("a")), options={"policies": policies}) as http:
        assert [http.get("http://producer/").text for _ in range(3)] == ["ok"] * 3
    assert len(peer.connections) == 2


def test_limits_are_those_of_each_instance(peers: Callable[..., Peer]) -> None:
    """limits= of the transport; a client's own would be dropped by httpx."""
    peer = peers()
    limits = httpx.Limits(max_connections=5, max_keepalive_connections=0)
    with client(Listed(peer.instance("a")), options={"limits": limits}) as http:
        assert [http.get("http://producer/").text for _ in range(3)] == ["ok"] * 3
    assert len(peer.connections) == 3


# --- what the client does -------------------------------------------------------------------------------------------


def test_redirects_are_followed_by_name_and_by_address(peers: Callable[..., Peer]) -> None:
    """A relative one and one to the name are balanced again; an absolute one to an address is another key."""
    other = peers(lambda _head: answer(b"elsewhere"))

    def moved(head: bytes) -> bytes:
        targets = {b"/relative": "/here", b"/named": "http://producer/here"}
        targets[b"/away"] = f"http://127.0.0.1:{other.port}/"
        location = targets.get(head.split(b" ")[1])
        return answer(b"here") if location is None else answer(b"", "302 Found", location=location)

    both = peers(moved), peers(moved)
    with client(Listed(both[0].instance("a"), both[1].instance("b")), follow_redirects=True) as http:
        for path, text, url in (
            ("/relative", "here", "http://producer/here"),
            ("/named", "here", "http://producer/here"),
            ("/away", "elsewhere", f"http://127.0.0.1:{other.port}/"),
        ):
            found = http.get(f"http://producer{path}")
            assert (found.text, str(found.url)) == (text, url)
            hops = [one.extensions["resilient"]["instance"] for one in (*found.history, found)]
            assert hops[0] != hops[1]


def test_auth_flows_send_their_second_request_through_the_transport(peers: Callable[..., Peer]) -> None:
    """Basic with the first request; digest after a 401, to the same instance where Sticky keeps the key together."""

    def challenge(head: bytes) -> bytes:
        if b"uthorization: Digest" in head:
            return answer(b"in")
        realm = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
        return answer(b"", "401 Unauthorized", www_authenticate=realm)

    both = peers(challenge), peers(challenge)
    discovery = Listed(both[0].instance("a"), both[1].instance("b"))
    with client(discovery, options={"strategy": Sticky}) as http:
        for user in ("ann", "bob"):
            extensions = {"resilient": {"key": user}}
            found = http.get("http://producer/", auth=httpx.DigestAuth(user, "pw"), extensions=extensions)
            assert (found.status_code, found.text) == (200, "in")
            assert found.history[0].extensions["resilient"]["instance"] == found.extensions["resilient"]["instance"]
    basic = peers()
    with client(Listed(basic.instance("a")), auth=("ann", "pw")) as http:
        http.get("http://producer/")
    assert b"uthorization: Basic YW5uOnB3" in basic.requests[0]


def test_cookies_are_kept_for_the_name(peers: Callable[..., Peer]) -> None:
    """Set by one instance, sent to the other one, and to no other service."""
    both = [peers(lambda _head: answer(set_cookie="s=1")) for _ in range(2)]
    other = peers()
    stock = Instance("stock", "127.0.0.1", other.port, id="s")
    with client(Listed(both[0].instance("a"), both[1].instance("b"), stock)) as http:
        for _ in range(2):
            http.get("http://producer/")
        http.get("http://stock/")
        assert http.cookies.get("s") == "1"
    heads = [head for peer in both for head in peer.requests]
    assert sorted(b"s=1" in head for head in heads) == [False, True]
    assert b"ookie" not in other.requests[0]


def test_mounts_leave_other_hosts_to_other_transports(peers: Callable[..., Peer]) -> None:
    """httpx chooses by pattern; what is mounted elsewhere never reaches this transport."""
    peer = peers()
    transport = ResilientTransport(Listed(peer.instance("a")), trust_env=False)
    plain = httpx.MockTransport(lambda request: httpx.Response(200, text="mounted"))
    with httpx.Client(mounts={"all://producer": transport, "all://": plain}) as http:
        assert (http.get("http://producer/").text, http.get("http://example.org/").text) == ("ok", "mounted")


def test_base_url_params_and_event_hooks_work_as_ever(peers: Callable[..., Peer]) -> None:
    """They are the client's; hooks see the logical request and the answer of the instance."""
    peer, seen = peers(), list[str]()
    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [lambda request: seen.append(str(request.url))],
        "response": [lambda found: seen.append(found.extensions["resilient"]["instance"].id)],
    }
    discovery = Listed(peer.instance("a"))
    with client(discovery, base_url="http://producer/v1", params={"q": "1"}, event_hooks=hooks) as http:
        http.get("/weather")
    assert seen == ["http://producer/v1/weather?q=1", "a"]
    assert peer.requests[0].startswith(b"GET /v1/weather?q=1 HTTP/1.1\r\n")


# --- proxies --------------------------------------------------------------------------------------------------------


def test_a_proxy_gets_the_address_and_the_name(peers: Callable[..., Peer]) -> None:
    """proxy=: the request line names the instance, Host the service; NO_PROXY goes by the logical name."""
    instance, proxy = peers(), peers(lambda _head: answer(b"by proxy"))
    discovery = Listed(instance.instance("a"))
    with client(discovery, options={"proxy": f"http://127.0.0.1:{proxy.port}"}) as http:
        assert http.get("http://producer/x").text == "by proxy"
    [head] = proxy.requests
    assert head.startswith(f"GET http://127.0.0.1:{instance.port}/x HTTP/1.1".encode())
    assert b"\r\nHost: producer\r\n" in head
    assert instance.requests == []


def test_the_proxy_of_the_environment_goes_by_the_logical_name(
    peers: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY for what NO_PROXY does not name, whatever address it has."""
    instance, proxy = peers(), peers(lambda _head: answer(b"by proxy"))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    stock = Instance("stock", "127.0.0.1", instance.port, id="s")
    for direct, texts in (("producer", ["ok", "by proxy"]), ("127.0.0.1", ["by proxy", "by proxy"])):
        monkeypatch.setenv("no_proxy", direct)
        with client(Listed(instance.instance("a"), stock), options={"trust_env": True}) as http:
            assert [http.get(f"http://{name}/").text for name in ("producer", "stock")] == texts


# --- HTTP/2 ---------------------------------------------------------------------------------------------------------


class Http2Peer:
    """One real instance that speaks HTTP/2 over TLS: answers each stream with the authority it was asked for."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.connections = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, certificate))
        context.set_alpn_protocols(["h2"])
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        import h2.config
        import h2.connection
        import h2.events

        with suppress(OSError), self._context.wrap_socket(raw, server_side=True) as connection:
            self.connections += 1
            spoken = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
            spoken.initiate_connection()
            connection.sendall(spoken.data_to_send())
            while data := connection.recv(65_536):
                for event in spoken.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        authority: Any = dict(event.headers)
                        body = authority[":authority"].encode()
                        headers = [(":status", "200"), ("content-length", str(len(body)))]
                        spoken.send_headers(event.stream_id, headers)
                        spoken.send_data(event.stream_id, body, end_stream=True)
                connection.sendall(spoken.data_to_send())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the name `producer`, and its key."""
    openssl = require_command("openssl", package="openssl")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=producer", "-addext", "subjectAltName=DNS:producer", "-days", "2"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", str(cert), "-keyout", str(key)]
    subprocess.run([openssl, "req", "-x509", "-nodes", *made, *subject], check=True, capture_output=True, timeout=30)
    return cert, key


def test_http2_passes_through(certificate: tuple[Path, Path]) -> None:
    """One connection carries all streams; `:authority` is the logical name, and so is the certificate's."""
    try:
        import h2  # noqa: F401  # it is there or not
    except ImportError:
        require(None, "h2 is not installed")
    peer = Http2Peer(certificate)
    try:
        discovery = Listed(Instance("producer", "127.0.0.1", peer.port, id="a", secure=True))
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        with client(discovery, options={"verify": trust, "http2": True}) as http:
            answers = [http.get("https://producer/") for _ in range(5)]
        assert {(found.http_version, found.text) for found in answers} == {("HTTP/2", "producer")}
        assert peer.connections == 1
    finally:
        peer.stop()
