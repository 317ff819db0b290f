"""The gateway between a real client and a real upstream: what arrives, what comes back."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from resilient.discovery import Instance
from resilient.discovery.static import StaticDiscovery
from resilient.gateway import Gateway
from tests.gateway.serving import RawServer, Served, Upstream, Wire, answering, gateway_to, hangs


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"])
def test_a_request_arrives_as_it_was_sent(method: str) -> None:
    """Method, path, query, headers and body."""
    up = Upstream()
    body = b"" if method in {"GET", "OPTIONS"} else bytes(range(256)) * 5
    with gateway_to(up) as (front, _), httpx.Client() as client:
        found = client.request(method, front.url + "/a%2Fb/c;d?e=%2F&f", content=body or None, headers={"X-A": "1"})
    assert found.status_code == 200
    seen = up.requests[-1]
    assert (seen["method"], seen["path"], seen["query"]) == (method, "/a%2Fb/c;d", "e=%2F&f")
    assert seen["body"].encode("latin-1") == body
    assert up.header("x-a") == ["1"]
    assert up.header("host") == ["up"]
    assert up.header("content-length") == ([str(len(body))] if body else [])
    assert up.header("transfer-encoding") == []
    assert up.header("via") == ["1.1 gateway"]


def test_an_answer_comes_back_as_it_was_sent() -> None:
    """Status, repeated headers, and a body that stays compressed."""
    headers = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-encoding", b"gzip"), (b"etag", b'"7"')]
    app = answering(418, b"\x1f\x8b not gzip", headers)
    with gateway_to(app) as (front, _), Wire(front) as wire:
        found = wire.send(b"GET / HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n").read_all()
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 418")
    assert head.count(b"set-cookie: ") == 2
    assert b'etag: "7"' in head
    assert body == b"\x1f\x8b not gzip"


def test_the_prefix_is_stripped_and_told() -> None:
    """And a URL's own path comes before what is left."""
    up = Upstream()
    with Served(up) as behind:
        routes = {
            "one": {"path": "/api/patient", "url": behind.url + "/base", "strip_prefix": True},
            "two": {"path": "/api", "url": behind.url, "strip_prefix": 1},
        }
        with Served(Gateway(routes)) as front, httpx.Client(base_url=front.url) as client:
            for path in ("/api/patient/1?x", "/api/patient", "/api/patient/", "/api/ward/2", "/%61pi/ward"):
                assert client.get(path).status_code == 200, path
            assert client.get("/api//evil.example/").status_code == 400
    assert [seen["path"] for seen in up.requests] == ["/base/1", "/base/", "/base/", "/ward/2", "/ward"]
    assert up.header("x-forwarded-prefix", 0) == ["/api/patient"]
    assert up.header("host", 0) == [behind.address]


def test_the_host_of_the_caller_may_be_kept() -> None:
    """Default it is the service's name, and the caller's is in X-Forwarded-Host."""
    up = Upstream()
    with gateway_to(up, {"preserve_host": True}) as (front, _), httpx.Client() as client:
        client.get(front.url, headers={"host": "www.example.org"})
    assert up.header("host") == ["www.example.org"]
    assert up.header("x-forwarded-host") == ["www.example.org"]


def test_the_request_id_is_kept_passed_on_and_answered() -> None:
    """The upstream's own does not replace it; without one it is made."""
    up = Upstream()
    with gateway_to(up) as (front, _), httpx.Client(base_url=front.url) as client:
        assert client.get("/", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
        made = client.get("/").headers["x-request-id"]
        refused = client.get("/%00", headers={"X-Request-Id": "abc-2"})
    assert up.header("x-request-id", 0) == ["abc-1"]
    assert up.header("x-request-id", 1) == [made]
    assert refused.headers["x-request-id"] == refused.json()["request_id"] == "abc-2"


def test_a_head_has_the_headers_and_no_body() -> None:
    """With the length of the GET; the connection goes on."""
    up = Upstream()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        up.requests.append({"method": scope["method"]})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
        await send({"type": "http.response.body", "body": b"1234567"})

    with gateway_to(app) as (front, _), httpx.Client(base_url=front.url) as client:
        found = client.head("/")
        assert (found.headers["content-length"], found.content) == ("7", b"")
        assert client.get("/").content == b"1234567"
        assert client.head("/%00").content == b""
    assert [one["method"] for one in up.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_stays_one(status: int) -> None:
    """204 and 304; the connection goes on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"etag", b"1")]})
        await send({"type": "http.response.body"})

    with gateway_to(app) as (front, _), httpx.Client(base_url=front.url) as client:
        assert [client.get("/").status_code for _ in range(2)] == [status, status]


def test_preliminary_answers_and_trailers_do_not_disturb_the_answer() -> None:
    """103 is for the connection that asked; trailers are left out, and so is the header that announces them."""
    reply = (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nconnection: close\r\n\r\n"
        b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
    )
    with RawServer(reply) as behind:
        gateway = Gateway({"up": {"path": "/", "service": "up"}}, discovery=f"static://up={behind.address}")
        with Served(gateway) as front, httpx.Client() as client:
            found = client.get(front.url)
    assert (found.status_code, found.content) == (200, b"hello")
    assert "trailer" not in found.headers
    assert b"\r\nte:" not in behind.heads[0].lower()


def test_redirects_go_to_the_caller() -> None:
    """The gateway follows none, and leaves their Location as it is."""
    app = answering(302, b"", [(b"location", b"/login")])
    with gateway_to(app, {"path": "/patient", "strip_prefix": True}) as (front, _):
        found = httpx.get(front.url + "/patient")
    assert (found.status_code, found.headers["location"]) == (302, "/login")


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("/login?a=b#c", "/patient/login?a=b#c"),
        ("http://up/login", "/patient/login"),
        ("http://up", "/patient/"),
        ("//up/login", "/patient/login"),
        ("INSTANCE/login", "/patient/login"),
        ("http://elsewhere.example/login", "http://elsewhere.example/login"),
        ("login", "login"),
        ("?page=2", "?page=2"),
        ("http://[bad/", "http://[bad/"),
    ],
)
def test_the_stripped_prefix_is_put_back_into_a_location_when_asked(location: str, seen: str) -> None:
    """For paths and URLs of the upstream itself, under its name or its address."""
    up = Upstream()
    with gateway_to(up, {"path": "/patient", "strip_prefix": True, "rewrite_location": True}) as (front, behind):
        told = location.replace("INSTANCE", behind.url).encode()
        up.answers["/"] = answering(201, b"", [(b"location", told)])
        assert httpx.get(front.url + "/patient/").headers["location"] == seen


def test_what_is_not_there_is_a_json_problem() -> None:
    """404 and 405, with a sentence and the request's id; 501 for what is never passed on."""
    with gateway_to(answering(200), {"path": "/a", "methods": ["GET"]}) as (front, _), httpx.Client() as client:
        lost = client.get(front.url + "/b")
        wrong = client.post(front.url + "/a", content=b"x")
        trace = client.request("TRACE", front.url + "/a")
        upgrade = client.get(front.url + "/a", headers={"Connection": "Upgrade", "Upgrade": "websocket"})
    assert lost.headers["content-type"] == "application/problem+json"
    assert lost.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "No route leads there.",
        "request_id": lost.headers["x-request-id"],
    }
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
    assert (trace.status_code, upgrade.status_code) == (501, 501)
    assert "WebSockets" in upgrade.json()["detail"]


def test_an_upstream_that_is_away_is_502_and_soon_503() -> None:
    """The circuit opens, and says when to come back."""
    routes = {"up": {"path": "/", "service": "up", "breaker": {"consecutive_failures": 2}, "retry": False}}
    gateway = Gateway(routes, discovery=f"static://up=127.0.0.1:{closed_port()}")
    with Served(gateway) as front, httpx.Client(base_url=front.url) as client:
        found = [client.get("/") for _ in range(4)]
    assert [one.status_code for one in found] == [502, 502, 503, 503]
    assert found[0].json()["detail"] == "'up' could not be reached."
    assert 1 <= int(found[3].headers["retry-after"]) <= 6
    assert found[3].json()["route"] == "up"
    assert "127.0.0.1" not in "".join(one.text for one in found)


def test_an_upstream_that_is_slow_is_504() -> None:
    """After the route's timeout."""

    with gateway_to(hangs, {"timeout": 0.2, "retry": False}) as (front, _):
        found = httpx.get(front.url)
    assert found.status_code == 504
    assert found.json()["detail"] == "'up' did not answer in time."


def test_an_upstream_that_talks_nonsense_is_502() -> None:
    """What it says is not HTTP."""
    with RawServer(b"SSH-2.0-OpenSSH_9.2\r\n") as behind:
        gateway = Gateway({"up": {"path": "/", "url": f"http://{behind.address}"}})
        with Served(gateway) as front:
            assert httpx.get(front.url).status_code == 502


def test_a_service_that_nobody_registered_is_503() -> None:
    """Its name is known to the gateway alone."""
    discovery = StaticDiscovery({"up": [Instance("up", "127.0.0.1", 1)]})
    gateway = Gateway({"up": {"path": "/", "service": "up"}}, discovery=discovery)
    discovery._roster.replace({})
    with Served(gateway) as front:
        found = httpx.get(front.url)
    assert (found.status_code, found.json()["detail"]) == (503, "No instance of 'up' is there at the moment.")


def test_what_may_be_sent_twice_is_sent_to_another_instance() -> None:
    """A GET, and a PUT whose body came in one piece; a POST that was sent is not."""
    up = Upstream()
    with Served(answering(503)) as bad, Served(up) as good:
        where = f"static://up={bad.address},{good.address}"
        gateway = Gateway({"up": {"path": "/", "service": "up"}}, discovery=where)
        with Served(gateway) as front, httpx.Client(base_url=front.url) as client:
            assert {client.post("/", content=b"body").status_code for _ in range(2)} == {200, 503}
            assert {client.get("/").status_code for _ in range(2)} == {200}
            assert {client.put("/", content=b"body").status_code for _ in range(2)} == {200}
    assert {one["body"] for one in up.requests if one["method"] == "PUT"} == {"body"}


def test_the_deadline_of_the_caller_is_kept_to_and_passed_on() -> None:
    """The smaller one of it and the route's timeout."""
    up = Upstream()

    up.answers["/hangs"] = hangs
    with gateway_to(up, {"timeout": 5.0}) as (front, _), httpx.Client(base_url=front.url) as client:
        client.get("/", headers={"X-Request-Timeout-Ms": "1500"})
        client.get("/")
        client.get("/", headers={"X-Request-Timeout-Ms": "60000"})
        late = client.get("/hangs", headers={"X-Request-Timeout-Ms": "150"})
    left = [int(up.header("x-request-timeout-ms", index)[0]) for index in range(3)]
    assert 1000 < left[0] <= 1500
    assert 4000 < left[1] <= 5000
    assert 4000 < left[2] <= 5000
    assert late.status_code == 504


def test_only_a_trusted_proxy_speaks_for_others() -> None:
    """The same request, with and without trust."""
    up = Upstream()
    told = {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}
    for trusted in ([], ["127.0.0.0/8"]):
        with gateway_to(up, settings={"trusted_proxies": trusted}) as (front, _):
            httpx.get(front.url, headers=told)
    assert up.header("x-forwarded-for", 0) == ["127.0.0.1"]
    assert up.header("x-forwarded-proto", 0) == ["http"]
    assert up.header("x-forwarded-for", 1) == ["1.2.3.4, 127.0.0.1"]
    assert up.header("x-forwarded-proto", 1) == ["https"]


def test_an_upload_that_is_too_long_is_413() -> None:
    """By its length at once, and by counting when no length is told; the connection ends."""
    up = Upstream()
    with gateway_to(up, {"max_body": 1000}) as (front, _), httpx.Client(base_url=front.url) as client:
        assert client.post("/", content=b"a" * 1000).status_code == 200
        told = client.post("/", content=b"a" * 1001)
        counted = client.post("/", content=iter([b"a" * 600, b"b" * 600]))
    assert (told.status_code, counted.status_code) == (413, 413)
    assert told.headers["connection"] == counted.headers["connection"] == "close"
    assert counted.json()["detail"] == "The request's body has more than 1000 bytes."
    assert len(up.requests) == 1


def test_uploads_that_are_too_long_do_not_open_the_circuit() -> None:
    """They say nothing about the upstream."""
    up = Upstream()
    route = {"max_body": 10, "breaker": {"consecutive_failures": 1}}
    with gateway_to(up, route) as (front, _), httpx.Client(base_url=front.url) as client:
        assert [client.post("/", content=iter([b"a" * 9] * 3)).status_code for _ in range(3)] == [413] * 3
        assert client.get("/").status_code == 200


def test_limits_of_target_and_headers_hold() -> None:
    """414 and 431."""
    settings = {"max_target": 100, "max_headers": 20, "max_header_bytes": 500}
    with gateway_to(answering(200), settings=settings) as (front, _), httpx.Client(base_url=front.url) as client:
        assert client.get("/" + "a" * 100).status_code == 414
        assert client.get("/", headers=[("x-a", "b")] * 20).status_code == 431
        assert client.get("/", headers={"x-a": "b" * 500}).status_code == 431
        assert client.get("/").status_code == 200


def test_an_error_of_the_upstream_is_passed_on_as_it_is() -> None:
    """Without a fallback its own words are the best there are."""
    with gateway_to(answering(500, b"oops", [(b"x-a", b"1")])) as (front, _):
        found = httpx.get(front.url)
    assert (found.status_code, found.text, found.headers["x-a"]) == (500, "oops", "1")


def test_json_is_what_an_echo_answers() -> None:
    """Two requests over one connection to the gateway, with one connection to the upstream."""
    with gateway_to(Upstream()) as (front, _), httpx.Client(base_url=front.url) as client:
        assert [json.loads(client.post("/", content=text).text)["body"] for text in ("a", "b")] == ["a", "b"]


def test_a_status_that_is_none_is_502() -> None:
    """No server could pass it on."""
    with RawServer(b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n") as behind:
        gateway = Gateway({"up": {"path": "/", "url": f"http://{behind.address}", "breaker": False}})
        with Served(gateway) as front:
            assert httpx.get(front.url).status_code == 502


def test_a_mistake_inside_the_gateway_is_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever made it; the caller reads nothing about it."""

    def broken(request: httpx.Request) -> httpx.Response:
        raise KeyError("secret")

    routes = {"up": {"path": "/", "url": "http://up.example"}}
    with Served(Gateway(routes, transport=lambda _instance: httpx.MockTransport(broken))) as front:
        found = httpx.get(front.url)
    assert (found.status_code, found.json()["detail"]) == (500, "The gateway made a mistake.")
    assert "secret" in caplog.text
