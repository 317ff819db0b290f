"""EndpointSlices from an API server that behaves as the documents of Kubernetes say, with all its habits."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient import ConfigError, NoInstanceError, listen
from resilient.discovery import Change, Discovery, Registry, RegistryAuthFailed, RegistryDown, kubernetes
from resilient.discovery.kubernetes import KubernetesDiscovery
from resilient.discovery.kubernetes_watch import KubernetesWatch
from resilient.discovery.kubernetes_wire import read_slice, union
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Answer, Send, Server, drive
from resilient.events import Event
from resilient.testing import VirtualClock
from tests.scripted_kubernetes import ScriptedKubernetes, endpoint, slice_of
from tests.waiting import wait_until


@pytest.fixture
def api() -> Iterator[ScriptedKubernetes]:
    with ScriptedKubernetes() as found:
        yield found


def url(api: ScriptedKubernetes, **options: str) -> str:
    query = "&".join(f"{key}={value}" for key, value in {"api": api.url, "watch": "1", **options}.items())
    return f"kubernetes://default?{query}"


def hosts(found: Discovery, service: str = "web") -> list[str]:
    return [one.host for one in found.instances(service)]


def conditions(ready: bool | None, serving: bool | None = None, terminating: bool | None = None) -> dict[str, Any]:
    return {"conditions": {"ready": ready, "serving": serving, "terminating": terminating}}


def usable(*slices: dict[str, Any], port: str | None = None, family: str = "any") -> list[tuple[str, int]]:
    read = [one for each in slices if (one := read_slice(each, port, family)) is not None]
    return [(one.host, one.port) for one in union(read)]


def test_24_an_endpoint_in_two_slices_is_one_instance() -> None:
    """It moves from one to the other; several services and families stay apart."""
    one, two = (
        slice_of("a", "web", endpoint("10.0.0.1"), endpoint("10.0.0.2")),
        slice_of("b", "web", endpoint("10.0.0.2")),
    )
    assert usable(one, two) == [("10.0.0.1", 8001), ("10.0.0.2", 8001)]
    six = slice_of("c", "web", endpoint("::1"), addressType="IPv6")
    assert usable(one, six, family="6") == [("::1", 8001)]
    assert usable(one, six, family="4") == [("10.0.0.1", 8001), ("10.0.0.2", 8001)]


def test_24_ready_counts_and_unknown_is_ready_and_who_is_ending_serves_when_nobody_else_does() -> None:
    """As kube-proxy does."""
    ending = endpoint("10.0.0.1", **conditions(False, True, True))
    starting = endpoint("10.0.0.2", **conditions(False, False, False))
    unknown = [endpoint("10.0.0.3", **conditions(None)), endpoint("10.0.0.4", conditions=None)]
    assert usable(slice_of("a", "web", ending, starting, *unknown)) == [("10.0.0.3", 8001), ("10.0.0.4", 8001)]
    assert usable(slice_of("a", "web", ending, starting)) == [("10.0.0.1", 8001)]
    assert usable(slice_of("a", "web", starting)) == []


def test_the_port_is_chosen_by_name_or_number() -> None:
    """Without a choice: the only one, http, https, the first; one that is missing is told."""
    grpc, https, http, udp = (
        {"name": "grpc", "port": 1},
        {"name": "https", "port": 2},
        {"name": "http", "port": 3},
        {"name": "dns", "port": 4, "protocol": "UDP"},
    )

    def chosen(*ports: dict[str, Any], port: str | None = None) -> tuple[int, bool]:
        read = read_slice(slice_of("a", "web", endpoint("h")) | {"ports": list(ports)}, port, "any")
        assert read is not None
        return (read.ready[0].port, read.ready[0].secure) if read.ready else (-1, False)

    assert chosen(grpc, https, http) == (3, False)
    assert chosen(grpc, https) == (2, True)
    assert chosen(udp, grpc) == (1, False)
    assert chosen(grpc, https, port="grpc") == (1, False)
    assert chosen(port="9090") == (9090, False)
    for port, words in (("http2", "it has no port 'http2'"), (None, "it names no port; give one by port=NUMBER")):
        read = read_slice(slice_of("a", "web", endpoint("h"), port=None), port, "any")
        assert read is not None
        assert read.problems == (f"a: {words}",)


def test_what_a_pod_says_of_itself_is_kept() -> None:
    """Zone for balancing, pod and node for whoever looks."""
    read = read_slice(
        slice_of("a", "Web", endpoint("10.0.0.1", targetRef={"kind": "Pod", "name": "web-1"})), None, "any"
    )
    assert read is not None
    (one,) = read.ready
    assert (one.service, one.zone, dict(one.metadata)) == ("web", "z1", {"pod": "web-1", "node": "n1"})


@pytest.mark.parametrize("odd", [{"metadata": 7}, {"metadata": {"name": "a", "labels": 7}}, {"endpoints": [7, {}]}])
def test_16_an_odd_object_is_no_exception(odd: dict[str, Any]) -> None:
    """It belongs to no service, or its endpoints are told one by one."""
    read = read_slice({**slice_of("a", "web", endpoint("h")), **odd}, None, "any")
    assert read is None or len(read.problems) == 2


def test_a_list_comes_in_pages_and_is_taken_whole(api: ScriptedKubernetes) -> None:
    """Five slices, two in a page."""
    api.page = 2
    for number in range(1, 6):
        api.put(slice_of(f"web-{number}", "web", endpoint(f"10.0.0.{number}")))
    with Discovery.from_url(url(api)) as found:
        found.wait("web", timeout=15)
        assert hosts(found) == [f"10.0.0.{number}" for number in range(1, 6)]
        assert [query.get("continue") for query in api.asked("list")] == [None, "2", "4"]
        wait_until(lambda: len(api.asked("watch")) >= 3, what="watches")
    first = api.asked("watch")[0]
    assert first["allowWatchBookmarks"] == "true"
    assert (first["timeoutSeconds"], first["resourceVersion"]) == ("1", "105")
    assert len(api.asked("list")) == 3


def test_a_watch_goes_on_where_the_last_one_ended_and_bookmarks_move_it(api: ScriptedKubernetes) -> None:
    """Nothing is listed again, and what happens to others moves the version on."""
    api.put(slice_of("web-1", "web", endpoint("10.0.0.1")))
    with Discovery.from_url(url(api)) as found:
        found.wait("web", timeout=15)
        api.put(slice_of("web-2", "web", endpoint("10.0.0.2")))
        wait_until(lambda: len(hosts(found)) == 2, what="the second")
        wait_until(lambda: len(api.asked("watch")) >= 2, what="a second watch")
        assert api.asked("watch")[-1]["resourceVersion"] == "102"
        api.delete("web-1")
        wait_until(lambda: hosts(found) == ["10.0.0.2"], what="the deletion")
        wait_until(lambda: found.age("web") < 0.5, what="a confirmation")
    assert len(api.asked("list")) == 1


@pytest.mark.parametrize("in_stream", [True, False], ids=["event", "status"])
def test_24_a_version_that_is_gone_is_listed_again_without_a_gap(api: ScriptedKubernetes, in_stream: bool) -> None:
    """410, as an event or as a status: the old set is known until the new one is whole."""
    api.gone_in_stream = in_stream
    for number in range(1, 4):
        api.put(slice_of(f"web-{number}", "web", endpoint(f"10.0.0.{number}")))
    sizes: list[int] = []
    with Discovery.from_url(url(api)) as found:
        found.wait("web", timeout=15)

        def heard(change: Change) -> None:
            sizes.append(len(found.instances("web")))

        found.subscribe("web", heard)
        if not in_stream:
            api.kill()
        api.forget()
        api.put(slice_of("web-4", "web", endpoint("10.0.0.4")))
        if not in_stream:
            api.start()
        wait_until(lambda: len(hosts(found)) == 4, timeout=20, what="the fourth")
    assert sizes == [4]
    assert len(api.asked("list")) == 2


def test_a_token_that_turned_is_read_anew(api: ScriptedKubernetes, tmp_path: Path) -> None:
    """At 401, and for each request; nobody is told of a refusal, and the token is shown nowhere."""
    api.token = "f1rst"
    file = tmp_path / "token"
    file.write_text("f1rst\n")
    api.put(slice_of("web-1", "web", endpoint("10.0.0.1")))
    refused: list[Event] = []
    stop = listen(refused.append, RegistryDown)
    with Discovery.from_url(url(api, token=str(file))) as found:
        found.wait("web", timeout=15)
        file.write_text("s3cond\n")
        api.token = "s3cond"
        api.put(slice_of("web-2", "web", endpoint("10.0.0.2")))
        wait_until(lambda: "Bearer s3cond" in [bearer for bearer, _ in api.seen], what="the second token")
        wait_until(lambda: len(hosts(found)) == 2, what="the second instance")
    stop()
    assert refused == []


def test_a_token_that_is_missing_is_told_in_words(api: ScriptedKubernetes, caplog: pytest.LogCaptureFixture) -> None:
    """Once, with the file's name; no bug of ours."""
    with (
        Discovery.from_url(url(api, token="/nowhere/token")) as found,
        pytest.raises(NoInstanceError, match=r"FileNotFoundError.*/nowhere/token"),
    ):
        found.wait("web", timeout=2.5)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_24_who_may_not_look_hears_it_once_in_kubernetes_words(
    api: ScriptedKubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    """403 is a matter of configuration: told once, tried again after a minute."""
    api.status = 403
    events: list[Event] = []
    stop = listen(events.append, RegistryDown)
    with (
        caplog.at_level(logging.WARNING),
        Discovery.from_url(url(api)) as found,
        pytest.raises(NoInstanceError, match=r"HTTP status 403.*cannot list resource"),
    ):
        found.wait("web", timeout=1.5)
    stop()
    assert [type(event) for event in events] == [RegistryAuthFailed]
    assert len(caplog.records) == 1


def test_a_refusal_waits_a_minute_and_a_failure_a_second() -> None:
    """In virtual time; a list that lost half is asked for again before it is believed; silence ends a watch."""
    clock = VirtualClock(0.0)
    servers = Servers((Server("http://a"),), "kubernetes://x", clock, 5.0)
    roster = Roster(clock)
    watch = KubernetesWatch("x", "app=web", None, "any", servers, roster, 60.0, clock, lambda: 0.5)
    sent: list[Send] = []

    def run(*answers: Answer) -> float:
        left = list(answers)
        clock.advance(max(0.0, watch.due() - clock.monotonic()) if sent else 0.0)

        def send(step: Send) -> Answer:
            sent.append(step)
            return left.pop(0)

        drive(watch.work(), send, lambda _: None)
        assert left == []
        return round(watch.due() - clock.monotonic(), 3)

    def listing(*names: str, **more: str) -> Answer:
        items = [slice_of(name, "web", endpoint(name)) for name in names]
        return Answer(200, json.dumps({"metadata": {"resourceVersion": "7", **more}, "items": items}).encode())

    denied = Answer(403, b'{"message": "no"}')
    assert run(denied) == 60.0
    assert run(Answer(401), Answer(401)) == 60.0
    assert [run(Answer(500)), run(Answer(200, b"[]")), run(Answer(200, b'{"items": []}'))] == [1.0, 2.0, 4.0]
    assert run(listing("a", **{"continue": "1"}), Answer(410)) == 1.0
    assert run(listing("a", **{"continue": "1"}), listing("b"), Answer(200), Answer(error="silence")) == 1.0
    assert sent[-1].timeout == 70.0
    assert "labelSelector=kubernetes.io%2Fservice-name%2Capp%3Dweb" in sent[0].path
    assert run(Answer(410)) == 1.0
    assert run(listing()) == 4.0
    assert len(roster.get("web")) == 2
    assert run(listing(), Answer(200), Answer(200, b"<html>")) == 1.0
    assert roster.get("web") == ()


def test_a_pod_finds_everything_by_itself(
    api: ScriptedKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The namespace, the API server and the token from where Kubernetes puts them."""
    monkeypatch.setattr(kubernetes, "_ACCOUNT", tmp_path)
    (tmp_path / "namespace").write_text("default")
    (tmp_path / "token").write_text("t0ken")
    api.token = "t0ken"
    api.put(slice_of("web-1", "web", endpoint("10.0.0.1")))
    with KubernetesDiscovery(f"kubernetes://?api={api.url}") as found:
        assert found.wait("web", timeout=15)[0].host == "10.0.0.1"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert KubernetesDiscovery()._servers.order()[0].base == "https://[fd00::1]:6443"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("kubernetes://default", "this is no pod .*write where the API server is"),
        ("kubernetes://?api=http://a", "this is no pod, so write the namespace"),
        ("kubernetes://a,b?api=http://a", "write kubernetes://NAMESPACE"),
        ("kubernetes://user:s3cret@a?api=http://a", "write kubernetes://NAMESPACE"),
        ("kubernetes://a:80?api=http://a", "write kubernetes://NAMESPACE"),
        ("kubernetes://a?api=a:80", "api must begin with http:// or https://"),
        ("kubernetes://a?api=https://a&ca=/nowhere", "ca '/nowhere' is no file of certificates"),
        ("kubernetes://a?api=http://a&ports=http", "unknown option 'ports'.*did you mean 'port'"),
        ("kubernetes://a?api=http://a&family=5", "family must be 4 or 6 or any"),
    ],
)
def test_a_wrong_url_is_refused_in_words(wrong: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong and what is allowed."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=words) as caught:
        Discovery.from_url(wrong)
    assert "s3cret" not in str(caught.value)


def test_nothing_can_be_registered_in_kubernetes() -> None:
    """It registers pods by itself."""
    with pytest.raises(ConfigError, match="nothing can be registered"):
        Registry.from_url("kubernetes://default?api=http://a")
