"""Foreign clients against our registry: py_eureka_client itself, and recorded conversations of others."""

from __future__ import annotations

import gzip
import http.client
import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from resilient.registry_server import RegistryServer
from tests.peers import require
from tests.servers import RegistryProcess
from tests.waiting import wait_until

CAPTURES = Path(__file__).parent / "captures"

# Run in a process of its own: its threads outlive stop(), and one of them registers again a moment later.
SCRIPT = """
import sys, threading, time
import py_eureka_client.eureka_client as eureka
client = eureka.init(
    eureka_server=sys.argv[1], app_name="py-app", instance_id="py-1", instance_host="localhost",
    instance_ip="127.0.0.1", instance_port=9090, renewal_interval_in_secs=int(sys.argv[2]), duration_in_secs=30,
    metadata={"my_zone": "z1"},
)
def shown():
    return sorted((i.instanceId, i.status) for a in client.applications.applications for i in a.instances)
print("started", shown(), flush=True)
deadline = time.monotonic() + 20
for line in sys.stdin:
    word, _, wanted = line.strip().partition(" ")
    if word == "until":
        while repr(shown()) != wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        print("shown", shown(), flush=True)
    elif word == "override":
        eureka.get_event_loop().run_until_complete(client.status_update(wanted))
        print("overridden", flush=True)
    elif word == "stop":
        eureka.stop()
        print("stopped", flush=True)
"""


class PyEurekaClient:
    """py_eureka_client in a process, driven line by line."""

    def __init__(self, url: str, *, interval: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, url, str(interval)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def says(self, line: str = "") -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if line:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as process:
        yield process


def listed(registry: RegistryProcess) -> dict[str, str]:
    answer = httpx.get(f"{registry.http}/eureka/apps", headers={"Accept": "application/json"}).json()
    return {
        found["instanceId"]: found["status"]
        for service in answer["applications"]["application"]
        for found in service["instance"]
    }


def test_py_eureka_client_registers_leads_its_life_and_sees_others(registry: RegistryProcess) -> None:
    """Register, full list, heartbeat, deltas of one that comes and goes, override."""
    require(importlib.util.find_spec("py_eureka_client"), "py_eureka_client is not installed")
    other = {"instanceId": "o-1", "hostName": "o", "app": "OTHER", "ipAddr": "10.0.0.1", "dataCenterInfo": MY_OWN}
    client = PyEurekaClient(f"{registry.http}/eureka/", interval=1)
    try:
        assert client.says() == "started [('py-1', 'UP')]"
        found = httpx.get(f"{registry.http}/eureka/instances/py-1", headers={"Accept": "application/json"}).json()
        assert found["instance"]["app"] == "PY-APP"
        assert found["instance"]["metadata"]["my_zone"] == "z1"
        registered = found["instance"]["leaseInfo"]["lastRenewalTimestamp"]

        posted = httpx.post(f"{registry.http}/eureka/apps/OTHER", json={"instance": other})
        assert posted.status_code == 204
        both = "[('o-1', 'UP'), ('py-1', 'UP')]"
        assert client.says(f"until {both}") == f"shown {both}"
        assert httpx.delete(f"{registry.http}/eureka/apps/OTHER/o-1").status_code == 200
        assert client.says("until [('py-1', 'UP')]") == "shown [('py-1', 'UP')]"
        found = httpx.get(f"{registry.http}/eureka/instances/py-1", headers={"Accept": "application/json"}).json()
        assert found["instance"]["leaseInfo"]["lastRenewalTimestamp"] > registered

        assert client.says("override OUT_OF_SERVICE") == "overridden"
        assert listed(registry) == {"py-1": "OUT_OF_SERVICE"}
    finally:
        client.kill()


def test_py_eureka_client_leaves(registry: RegistryProcess) -> None:
    """Its stop is a registration with DOWN and a cancel; the interval is long, because its next heartbeat would
    register it again: a bug of its own.
    """
    require(importlib.util.find_spec("py_eureka_client"), "py_eureka_client is not installed")
    client = PyEurekaClient(f"{registry.http}/eureka/", interval=60)
    try:
        assert client.says() == "started [('py-1', 'UP')]"
        assert listed(registry) == {"py-1": "UP"}
        assert client.says("stop") == "stopped"
        assert listed(registry) == {}
    finally:
        client.kill()
    left = httpx.get(f"{registry.http}/eureka/apps/delta", headers={"Accept": "application/json"}).json()
    (gone,) = left["applications"]["application"][0]["instance"]
    assert (gone["instanceId"], gone["status"], gone["actionType"]) == ("py-1", "DOWN", "DELETED")


def test_py_eureka_client_that_crashes_is_dropped(registry: RegistryProcess) -> None:
    """Killed, it no longer renews; the registry forgets it when its lease ends."""
    require(importlib.util.find_spec("py_eureka_client"), "py_eureka_client is not installed")
    client = PyEurekaClient(f"{registry.http}/eureka/", interval=60)
    try:
        assert client.says().startswith("started")
        described = httpx.get(f"{registry.http}/eureka/instances/py-1", headers={"Accept": "application/json"}).json()
    finally:
        client.kill()
    described["instance"]["leaseInfo"]["durationInSecs"] = 1
    assert httpx.post(f"{registry.http}/eureka/apps/PY-APP", json=described).status_code == 204
    wait_until(lambda: listed(registry) == {}, what="the end of the lease")


def test_what_eureka_js_client_sends_passes(registry: RegistryProcess) -> None:
    """Lower-case service, booleans, no lease, no timestamps; it demands exactly 204 and 200."""
    said = {
        "app": "js-app", "instanceId": "js-app-1", "hostName": "localhost", "ipAddr": "127.0.0.1", "vipAddress": "js",
        "port": {"$": 8081, "@enabled": True}, "dataCenterInfo": MY_OWN, "status": "UP",
    }  # fmt: skip
    with httpx.Client(base_url=f"{registry.http}/eureka", headers={"Accept": "application/json"}) as client:
        assert client.post("/apps/js-app", json={"instance": said}).status_code == 204
        assert client.put("/apps/js-app/js-app-1").status_code == 200
        (service,) = client.get("/apps/").json()["applications"]["application"]
        assert service["instance"][0]["port"] == {"$": 8081, "@enabled": "true"}
        assert client.delete("/apps/js-app/js-app-1").status_code == 200
        assert client.put("/apps/js-app/js-app-1").status_code == 404


# Recorded conversations


MY_OWN = {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}

# Where our registry answers otherwise on purpose: request, or note, to (recorded, ours) and why.
DEVIATIONS = {
    "renew OLDER ts replication": (409, 200),  # one node: there is no replication
    "batch replication": (200, 404),
    "server status": (200, 200),  # it describes another machine; its form has a test of its own
    "OPTIONS /eureka/v2/apps": (500, 405),
    "renew bad ts": (500, 400),  # the client's mistakes are 4xx
    "bad status": (500, 400),
    "no value": (500, 400),
}


class Exchange(NamedTuple):
    """One recorded request and its answer."""

    note: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer: str


def probe() -> list[Exchange]:
    found = []
    for line in (CAPTURES / "real-eureka-1.10.18-probe.jsonl").read_text().splitlines():
        said = json.loads(line)
        method, path = said["request"].split(" ", 1)
        body = (said["body"] or "").encode()
        if said["headers"].get("Content-Encoding") == "gzip":  # the recording left the packed body out
            document = {"instanceId": "gz", "hostName": "h", "app": "DEMO", "ipAddr": "i", "dataCenterInfo": MY_OWN}
            body = gzip.compress(json.dumps({"instance": document}).encode())
        found.append(Exchange(said["note"], method, path, said["headers"], body, said["status"], said["response_body"]))
    return found


def send(port: int, exchange: Exchange) -> tuple[int, str]:
    """The request as recorded: nothing added but what HTTP needs."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(exchange.method, exchange.path, skip_accept_encoding=True)
        for name, value in exchange.headers.items():
            connection.putheader(name, value)
        chunked = "Transfer-Encoding" in exchange.headers
        if not chunked:
            connection.putheader("Content-Length", str(len(exchange.body)))
        connection.endheaders(iter([exchange.body]) if chunked else exchange.body, encode_chunked=chunked)
        response = connection.getresponse()
        data = response.read()
        return response.status, (gzip.decompress(data) if response.headers["Content-Encoding"] else data).decode()
    finally:
        connection.close()


def comparable(text: str) -> Any:
    """An answer without what must differ: moments, the delta's version, the order of instances and metadata."""
    if text.startswith("<"):
        return _of_element(ET.fromstring(text))
    try:
        return _normal("", json.loads(text))
    except ValueError:
        return text


def _of_element(element: ET.Element) -> Any:
    children = [_of_element(child) for child in element]
    if element.tag in {"application", "metadata"}:
        children.sort(key=repr)
    if element.tag == "instance":
        children = _with_id(children)
    return element.tag, dict(element.attrib), _moment(element.tag, (element.text or "").strip()), children


def _with_id(children: list[Any]) -> list[Any]:
    """Ours always writes instanceId; Netflix's leaves it out when the client did, and the host name stands for it."""
    if children and children[0][0] != "instanceId":
        host = next(child for child in children if child[0] == "hostName")
        return [("instanceId", {}, host[2], []), *children]
    return children


def _normal(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        if "hostName" in value and "instanceId" not in value:
            value = {"instanceId": value["hostName"], **value}
        pairs = [(key, _normal(key, item)) for key, item in value.items()]
        return sorted(pairs) if name == "metadata" else pairs  # the order of the fields counts
    if isinstance(value, list):
        return sorted((_normal("", item) for item in value), key=repr)
    return _moment(name, value)


def _moment(name: str, value: Any) -> Any:
    if name == "versions__delta" and str(value) != "-1":
        return type(value)
    if name.endswith("Timestamp") and len(str(value)) == 13 and name != "lastDirtyTimestamp":
        return type(value), "a moment"
    if name == "lastDirtyTimestamp" and str(value)[:4] not in {"1700", "1600", "1800"}:
        return type(value), "a moment"  # not one that the client gave
    return value


def test_netflixs_recorded_answers_are_ours() -> None:
    """112 requests in order: the same status, the same empty or spoken body, the same JSON and XML field by field."""
    used = set()
    with RegistryServer(eviction_interval=60.0) as server:
        for number, exchange in enumerate(probe()):
            where = f"#{number} {exchange.note} {exchange.method} {exchange.path}"
            status, answer = send(server.port, exchange)
            key = exchange.note or f"{exchange.method} {exchange.path}"
            if key in DEVIATIONS:
                used.add(key)
                assert (exchange.status, status) == DEVIATIONS[key], where
                continue
            assert status == exchange.status, where
            assert comparable(answer) == comparable(exchange.answer), where
    assert used == set(DEVIATIONS)


def test_the_recorded_life_of_a_java_client_passes() -> None:
    """Fetch, register, renew, change of status and of metadata, deltas, cancel: as with Netflix's server."""
    lines = (CAPTURES / "netflix-java-client-1.10.18.jsonl").read_text().splitlines()
    with RegistryServer() as server:
        for line in filter(None, lines):
            said = json.loads(line)
            method, path, _ = said["request"].split(" ")
            headers = dict(header.split(": ", 1) for header in said["headers"])
            for own in ("Host", "Content-Length", "Connection"):
                headers.pop(own, None)
            recorded = said["response"]
            status, answer = send(
                server.port, Exchange("", method, path, headers, said["body"].encode(), recorded["status"], "")
            )
            where = f"{said['n']} {said['request']}"
            assert status == recorded["status"], where
            assert own_instances(answer) == own_instances(recorded["body"]), where


def own_instances(text: str) -> Any:
    """The Java client's own instances in an answer; the recording has others beside it."""
    if not text:
        return ""
    services = json.loads(text)["applications"]["application"]
    return [comparable(json.dumps(service)) for service in services if service["name"] == "JAVA-APP"]
