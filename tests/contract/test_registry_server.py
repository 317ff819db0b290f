"""The registry seen from outside: endpoints, limits, the status page, the command."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, MutableMapping
from typing import Any

import httpx
import pytest

from resilient.errors import ConfigError
from resilient.registry_server import RegistryServer, RegistryStore
from resilient.registry_server.app import RegistryApp
from resilient.registry_server.page import MAX_ROWS
from resilient.registry_server.record import Record
from tests.registry_calls import JSON, ask, instance, register
from tests.waiting import wait_until


@pytest.fixture
def port() -> Iterator[int]:
    with RegistryServer() as server:
        yield server.port


@pytest.mark.parametrize("base", ["/eureka", "/eureka/v2"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_an_instance_lives_under_both_prefixes(port: int, base: str, slash: str) -> None:
    """Register, renew, list, find, cancel; with and without a trailing slash; the bodies of writes are empty."""
    path = f"{base}/apps/demo{slash}"
    one = f"{base}/apps/Demo/i-1{slash}"
    assert ask(port, "POST", path, instance(), {"Content-Type": "application/json; charset=utf-8"})[::2] == (204, b"")
    assert ask(port, "PUT", one)[::2] == (200, b"")
    assert ask(port, "PUT", f"{one}?status=UP&lastDirtyTimestamp=1000")[::2] == (200, b"")
    assert ask(port, "PUT", f"{one}?status=UP&lastDirtyTimestamp=1001")[::2] == (404, b"")
    assert ask(port, "GET", f"{base}/apps{slash}", headers=JSON).json["applications"]["apps__hashcode"] == "UP_1_"
    assert ask(port, "GET", path, headers=JSON).json["application"]["name"] == "DEMO"
    assert ask(port, "GET", one, headers=JSON).json["instance"]["instanceId"] == "i-1"
    assert ask(port, "GET", f"{base}/instances/i-1{slash}", headers=JSON).json["instance"]["app"] == "DEMO"
    assert ask(port, "DELETE", one)[::2] == (200, b"")
    assert ask(port, "DELETE", one)[::2] == (404, b"")
    assert ask(port, "PUT", one)[::2] == (404, b"")
    assert ask(port, "GET", one, headers=JSON)[::2] == (404, b"")


def test_json_only_for_those_who_ask_for_it(port: int) -> None:
    """No `Accept`, `*/*` and everything without the word json get XML, as on Netflix's server."""
    register(port)
    for accept in (None, "*/*", "application/xml", "text/html"):
        answer = ask(port, "GET", "/eureka/apps", headers={} if accept is None else {"Accept": accept})
        assert answer.headers["Content-Type"] == "application/xml"
        assert ET.fromstring(answer.body).findtext("application/instance/instanceId") == "i-1"
    answer = ask(port, "GET", "/eureka/apps", headers={"Accept": "application/xml;q=0.9, application/json;q=0.1"})
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [(None, False), ("gzip", True), ("deflate, GZIP;q=0.5", True), ("gzip;q=0", False), ("identity", False)],
)
def test_answers_are_packed_for_those_who_can_unpack(port: int, accepted: str | None, packed: bool) -> None:
    """The content is the same either way."""
    register(port)
    headers = JSON if accepted is None else {**JSON, "Accept-Encoding": accepted}
    answer = ask(port, "GET", "/eureka/apps", headers=headers)
    assert (answer.headers["Content-Encoding"] == "gzip") is packed
    body = gzip.decompress(answer.body) if packed else answer.body
    assert json.loads(body)["applications"]["application"][0]["name"] == "DEMO"


def test_registrations_come_chunked_and_packed(port: int) -> None:
    """Netflix's Java client sends chunks; gzip is unpacked."""
    body = json.dumps(instance()).encode()
    kind = {"Content-Type": "application/json"}
    assert ask(port, "POST", "/eureka/apps/DEMO", body, kind, chunked=True).status == 204
    packed = gzip.compress(json.dumps(instance("i-2")).encode())
    assert ask(port, "POST", "/eureka/apps/DEMO", packed, {**kind, "Content-Encoding": "gzip"}).status == 204
    listed = ask(port, "GET", "/eureka/apps/DEMO", headers=JSON).json["application"]["instance"]
    assert [found["instanceId"] for found in listed] == ["i-1", "i-2"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "text"),
    [
        ({}, instance(), 415, b""),
        ({"Content-Type": "text/plain"}, instance(), 415, b""),
        ({"Content-Type": "application/json", "Content-Encoding": "br"}, instance(), 415, b""),
        ({"Content-Type": "application/json"}, b"{bad", 400, b'{"error": "cannot parse request body"}'),
        ({"Content-Type": "application/xml"}, b"<bad", 400, b'{"error": "cannot parse request body"}'),
        ({"Content-Type": "application/json"}, instance(ipAddr=None), 400, b"Missing ip address"),
        ({"Content-Type": "application/json"}, instance(app="X"), 400, b"Mismatched appName, expecting DEMO but was X"),
    ],
)
def test_what_is_no_registration_is_refused(
    port: int, headers: dict[str, str], body: Any, status: int, text: bytes
) -> None:
    """With Eureka's statuses and words; nothing is registered."""
    assert ask(port, "POST", "/eureka/apps/DEMO", body, headers)[::2] == (status, text)
    assert ask(port, "GET", "/eureka/apps/DEMO", headers=JSON).status == 404


@pytest.mark.parametrize(
    "path",
    ["//eureka/apps", "/eureka//apps", "/eureka/apps//i-1", "/apps", "/eureka/nope", "/nope", "/eureka/apps/a/b/c",
     "/eureka/apps/%FF", "/eureka/status/x"],
)  # fmt: skip
def test_other_paths_are_not_there(port: int, path: str) -> None:
    """Double slashes too, as on Netflix's server; the answer is empty."""
    assert ask(port, "GET", path, headers=JSON)[::2] == (404, b"")


def test_a_method_that_a_path_does_not_have_is_named(port: int) -> None:
    """405 with those it has; HEAD goes with GET and has its length."""
    assert ask(port, "POST", "/eureka/apps").headers["Allow"] == "GET"
    assert ask(port, "PATCH", "/eureka/apps/A/i").headers["Allow"] == "DELETE, GET, PUT"
    head, got = (ask(port, method, "/eureka/apps", headers=JSON) for method in ("HEAD", "GET"))
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(got.body)))


def test_odd_ids_are_found_encoded(port: int) -> None:
    """Slash, percent, space and colon in an id; ids are case-sensitive, services are not."""
    register(port, "a:b/c%d e")
    assert ask(port, "PUT", "/eureka/apps/demo/a%3Ab%2Fc%25d%20e").status == 200
    assert ask(port, "PUT", "/eureka/apps/DEMO/A%3Ab%2Fc%25d%20e").status == 404
    register(port, "host:demo:8080")
    assert ask(port, "DELETE", "/eureka/apps/DEMO/host:demo:8080").status == 200


def test_virtual_addresses_list_their_instances(port: int) -> None:
    """Exact, case-sensitive, several in one field; an unknown one is an empty list and no error."""
    register(port, "a", vipAddress="one,two", secureVipAddress="safe")
    register(port, "b", vipAddress="two")

    def ids(path: str) -> list[str]:
        listed = ask(port, "GET", f"/eureka/{path}", headers=JSON).json["applications"]
        assert listed["versions__delta"] == "-1"
        return [found["instanceId"] for app in listed["application"] for found in app["instance"]]

    assert ids("vips/two") == ["a", "b"]
    assert ids("vips/one") == ["a"]
    assert ids("svips/safe") == ["a"]
    assert ids("vips/ONE") == ids("vips/nope") == []


def test_the_status_is_overridden_and_given_back(port: int) -> None:
    """PUT and DELETE on status; a bad or missing value and a bad timestamp change nothing."""
    register(port)
    path = "/eureka/apps/DEMO/i-1/status"

    def status() -> str:
        return str(ask(port, "GET", "/eureka/instances/i-1", headers=JSON).json["instance"]["status"])

    assert ask(port, "PUT", f"{path}?value=OUT_OF_SERVICE&lastDirtyTimestamp=1000")[::2] == (200, b"")
    assert status() == "OUT_OF_SERVICE"
    for wrong in ("?value=BOGUS", "", "?value=UP&lastDirtyTimestamp=x", f"?value=UP&lastDirtyTimestamp={10**30}"):
        assert ask(port, "PUT", path + wrong).status == 400
    assert status() == "OUT_OF_SERVICE"
    assert ask(port, "DELETE", f"{path}?value=UP")[::2] == (200, b"")
    assert status() == "UP"
    assert ask(port, "PUT", "/eureka/apps/DEMO/nope/status?value=UP")[::2] == (404, b"")


def test_metadata_is_merged_by_query(port: int) -> None:
    """Decoded, added to what is there; an empty key is refused."""
    register(port, metadata={"zone": "a"})
    assert ask(port, "PUT", "/eureka/apps/DEMO/i-1/metadata?zone=b&my%20key=%C3%BC&none=")[::2] == (200, b"")
    found = ask(port, "GET", "/eureka/instances/i-1", headers=JSON).json["instance"]["metadata"]
    assert found == {"zone": "b", "my key": "ü", "none": ""}
    assert ask(port, "PUT", "/eureka/apps/DEMO/i-1/metadata?=x").status == 400


def test_the_compact_form_has_what_is_needed_to_call(port: int) -> None:
    """For whoever asks with X-Eureka-Accept; lists and services, JSON and XML; optional fields only when given."""
    register(port, vipAddress="v", asgName="asg", metadata={"k": "v"})
    headers = {**JSON, "X-Eureka-Accept": "compact"}
    fields = ["instanceId", "app", "ipAddr", "vipAddress", "dataCenterInfo", "hostName", "status",
              "lastUpdatedTimestamp", "actionType", "port", "securePort", "asgName"]  # fmt: skip
    whole = ask(port, "GET", "/eureka/apps", headers=headers).json["applications"]
    assert list(whole) == ["application", "versions__delta", "apps__hashcode"]
    for answer in (whole["application"][0], ask(port, "GET", "/eureka/apps/DEMO", headers=headers).json["application"]):
        assert list(answer["instance"][0]) == fields
        assert isinstance(answer["instance"][0]["lastUpdatedTimestamp"], int)
    listed = ET.fromstring(ask(port, "GET", "/eureka/apps", headers={"X-Eureka-Accept": "compact"}).body)
    found = listed.find("application/instance")
    assert found is not None
    assert {child.tag for child in found} == set(fields)


def test_the_registry_says_how_it_is(port: int) -> None:
    """`/status` in Netflix's form: its machine, no replicas, itself."""
    answer = ask(port, "GET", "/eureka/v2/status", headers=JSON).json
    assert list(answer) == ["generalStats", "applicationStats", "instanceInfo"]
    assert list(answer["generalStats"]) == [
        "environment", "num-of-cpus", "total-avail-memory", "current-memory-usage", "server-uptime",
    ]  # fmt: skip
    assert set(answer["applicationStats"].values()) == {""}
    assert answer["instanceInfo"]["app"] == "EUREKA"
    assert answer["instanceInfo"]["port"] == {"$": port, "@enabled": "true"}
    written = ET.fromstring(ask(port, "GET", "/eureka/status").body)
    assert [child.tag for child in written] == list(answer)
    assert written.findtext("instanceInfo/app") == "EUREKA"


def test_a_delta_tells_what_came_changed_and_left(port: int) -> None:
    """With the check sum of all that is there."""
    register(port, "stays")
    register(port, "changes")
    register(port, "leaves")
    ask(port, "PUT", "/eureka/apps/DEMO/changes/status?value=DOWN")
    ask(port, "DELETE", "/eureka/apps/DEMO/leaves")
    delta = ask(port, "GET", "/eureka/apps/delta", headers=JSON).json["applications"]
    told = {found["instanceId"]: found["actionType"] for app in delta["application"] for found in app["instance"]}
    assert told == {"stays": "ADDED", "changes": "MODIFIED", "leaves": "DELETED"}
    assert delta["apps__hashcode"] == "DOWN_1_UP_1_"


async def test_large_bodies_and_full_registries_are_refused() -> None:
    """413 beyond the size, packed or not; 507 beyond the number of instances."""
    app = RegistryApp(RegistryStore(max_instances=1), max_body=1_000)
    kind = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://r/eureka") as client:

        async def post(body: bytes, **headers: str) -> tuple[int, str]:
            answer = await client.post("/apps/DEMO", content=body, headers={**kind, **headers})
            return answer.status_code, answer.text

        large = json.dumps(instance(metadata={"k": "v" * 2_000})).encode()
        assert await post(large) == (413, "a registration may have 1,000 bytes")
        assert (await post(gzip.compress(large), **{"Content-Encoding": "gzip"}))[0] == 413
        assert (await post(json.dumps(instance("a")).encode()))[0] == 204
        assert await post(json.dumps(instance("b")).encode()) == (507, "the registry is full: it holds 1 instances")
        assert (await post(json.dumps(instance("a")).encode()))[0] == 204


async def test_a_client_that_stops_in_the_middle_is_not_waited_for() -> None:
    """408 when the body does not arrive in time; one that hangs up disturbs nobody."""
    app = RegistryApp(body_timeout=0.02)
    scope = {"type": "http", "method": "POST", "path": "/eureka/apps/DEMO", "query_string": b"",
             "headers": [(b"content-type", b"application/json")]}  # fmt: skip
    statuses = []

    async def send(message: MutableMapping[str, Any]) -> None:
        statuses.append(message.get("status"))

    async def silence() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def hang_up() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    await app(scope, silence, send)
    assert statuses[0] == 408
    statuses.clear()
    await app(scope, hang_up, send)
    assert statuses[0] == 400
    assert len(app.store) == 0


async def test_it_can_be_mounted_in_another_application() -> None:
    """The path below the mount counts, also when the server hands on no raw path."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = RegistryApp()
    app.store.register(Record(app="DEMO", id="i-1", host="h", ip="i"))
    mounted = Starlette(routes=[Mount("/registry", app)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(mounted), base_url="http://r") as client:
        assert (await client.get("/registry/eureka/instances/i-1")).status_code == 200
        assert (await client.get("/registry/eureka")).headers["Location"] == "/registry/"
        assert (await client.get("/registry/")).headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("kind", ["json", "xml"])
def test_25_a_thousand_instances_are_listed_each_once(port: int, kind: str) -> None:
    """Also when one has changed since the last list; how long ten times as many take is a figure of `make bench`."""
    for number in range(1000):
        register(port, f"i-{number}-", app=f"SERVICE-{number % 100}", metadata={"zone": "a", "version": "7"})
    for turn in range(2):
        register(port, "i-0-", app="SERVICE-0", lastDirtyTimestamp=str(2000 + turn))
        answer = ask(port, "GET", "/eureka/apps/", headers={"Accept": f"application/{kind}"})
        assert len(set(re.findall(rb"i-\d+-", answer.body))) == 1000


def test_a_client_that_crashed_is_gone_after_its_lease() -> None:
    """One that renews stays."""
    with RegistryServer(eviction_interval=0.1) as server:
        register(server.port, "crashed", leaseInfo={"durationInSecs": 1})
        register(server.port, "alive", leaseInfo={"durationInSecs": 1})

        def left() -> list[str]:
            assert ask(server.port, "PUT", "/eureka/apps/DEMO/alive").status == 200
            listed = ask(server.port, "GET", "/eureka/apps/DEMO", headers=JSON).json["application"]["instance"]
            return [found["instanceId"] for found in listed]

        assert left() == ["crashed", "alive"]
        wait_until(lambda: left() == ["alive"], what="the end of the lease")
        assert ask(server.port, "PUT", "/eureka/apps/DEMO/crashed").status == 404


# The status page


def page(port: int) -> str:
    answer = ask(port, "GET", "/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    return answer.body.decode()


def test_an_empty_page_says_what_to_do(port: int) -> None:
    """Nobody is there yet: no table, one friendly sentence."""
    text = page(port)
    assert "Nobody is registered yet" in text
    assert "0 services, 0 instances, 0 up" in text
    assert "<table" not in text


def test_the_page_shows_who_is_there(port: int) -> None:
    """Service, instance, status, address, zone, lease; a web address becomes a link."""
    register(port, "p-1", app="PRODUCER", port={"$": 8080, "@enabled": "true"}, metadata={"zone": "z1"},
             homePageUrl="http://h:8080/", leaseInfo={"durationInSecs": 200})  # fmt: skip
    register(port, "p-2", app="PRODUCER", status="DOWN")
    assert ask(port, "PUT", "/eureka/apps/PRODUCER/p-2/status?value=DOWN").status == 200
    text = page(port)
    assert "1 service, 2 instances, 1 up" in text
    assert re.search(r"<h2>PRODUCER <span>2 instances, 1 up</span></h2>", text)
    assert '<a href="http://h:8080/" rel="noopener noreferrer">h:8080</a>' in text
    assert '<span class="status up"><span aria-hidden="true">●</span> up</span>' in text
    assert '<span class="status down"><span aria-hidden="true">✕</span> down</span>' in text
    assert '<td data-label="Zone"><span>z1</span></td>' in text
    assert "0 s ago of 3 min 20 s" in text
    assert "0 s ago of 90 s" in text
    assert text.count("by override") == 1
    assert "not yet up" in text


EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_nothing_that_an_instance_says_becomes_markup(port: int) -> None:
    """Every text field at once; the policy would stop what escaping missed."""
    fields = dict.fromkeys(("hostName", "ipAddr", "vipAddress", "status", "sid", "statusPageUrl"), EVIL)
    register(port, EVIL, **fields, metadata={"zone": EVIL, EVIL: EVIL}, homePageUrl=f"http://h/{EVIL}")
    evil_app = {**instance(EVIL)["instance"], "app": EVIL}
    path = "/eureka/apps/" + "".join(f"%{byte:02X}" for byte in EVIL.encode())
    posted = ask(port, "POST", path, {"instance": evil_app}, {"Content-Type": "application/json"})
    assert posted.status == 204
    text = page(port)
    assert "<script>alert" not in text.lower()
    assert "<img" not in text.lower()
    assert "&lt;script&gt;" in text.lower()
    assert text.count("<script>") == 1
    policy = ask(port, "GET", "/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "JaVaScRiPt://http://x/%0aalert(1)",
     "data:text/html,x", "//evil.example/", "http:alert(1)", "http://", "https://[", "ftp://h/", "", " http://h/"],
)  # fmt: skip
def test_only_web_addresses_become_links(port: int, url: str) -> None:
    """Anything but http(s) with a host stays text."""
    register(port, homePageUrl=url)
    text = page(port)
    assert "<a " not in text
    assert "h:7001" in text


def test_the_page_asks_nobody_else(port: int) -> None:
    """No address but data: and none of another host: it works offline and tells nobody."""
    text = page(port)
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:,"]
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


def test_a_large_fleet_does_not_drown_the_page() -> None:
    """The first thousand rows, and how many more there are."""
    with RegistryServer() as server:
        for number in range(MAX_ROWS + 5):
            server.store.register(Record(app="BIG", id=f"{number:05}", host="h", ip="i"))
        text = page(server.port)
        assert text.count('<td data-label="Instance">') == MAX_ROWS
        assert "5 more instances" in text


def test_the_printed_address_leads_to_the_page(port: int) -> None:
    """Whoever opens …/eureka in a browser is sent to the page."""
    answer = ask(port, "GET", "/eureka")
    assert (answer.status, answer.headers["Location"]) == (307, "/")


# In this process


def test_the_embedded_server_keeps_its_port_and_forgets_the_rest() -> None:
    """Stopped it does not answer; started again it is empty, on the same port."""
    server = RegistryServer()
    assert server.port == 0
    with server:
        port = server.port
        assert server.url == f"eureka://127.0.0.1:{port}"
        register(port)
        assert len(server.store) == 1
        with pytest.raises(RuntimeError, match="runs already"):
            server.start()
    assert not server.running
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(port, "GET", "/")
    with server:
        assert server.port == port
        assert ask(port, "GET", "/eureka/apps/DEMO").status == 404


@pytest.mark.parametrize(
    ("path", "arguments"),
    [("host", {"host": ""}), ("port", {"port": 70_000}), ("port", {"port": "8761"}),
     ("eviction_interval", {"eviction_interval": 0}), ("max_instances", {"max_instances": -1}),
     ("max_bytes", {"max_bytes": 0}), ("max_connections", {"max_connections": 0}),
     ("answer_timeout", {"answer_timeout": 0}), ("auth", {"auth": ("u", "")}), ("auth", {"auth": ("u:v", "p")}),
     ("auth", {"auth": "up"})],
)  # fmt: skip
def test_a_bad_argument_is_refused_at_once(path: str, arguments: dict[str, Any]) -> None:
    """The error names it, before anything listens."""
    with pytest.raises(ConfigError, match=path) as caught:
        RegistryServer(**arguments)
    assert caught.value.path == path


def test_importing_the_package_imports_no_extra() -> None:
    """Starlette and uvicorn are imported where a server starts."""
    code = "import sys, resilient.registry_server, resilient.cli; print({'starlette', 'uvicorn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("host", "authority"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]")],
)
def test_the_address_is_one_that_can_be_asked_from_here(host: str, authority: str) -> None:
    """Every-interface hosts are named by the loopback address."""
    server = RegistryServer(host, 8761)
    assert (server.http, server.url) == (f"http://{authority}:8761", f"eureka://{authority}:8761")
    assert repr(server) == f"<RegistryServer http://{authority}:8761 stopped, 0 instances>"
