"""The behaviour contract of discovery, the statements that are Eureka's own: several servers, deltas, status, auth.

Against registries on the loopback interface that fail as told; what is a matter of timing alone is tested in virtual
time (tests/unit/test_discovery_timing.py, tests/unit/test_discovery_delta.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from resilient import ConfigError, DiscoveryError, NoInstanceError, RegistryAuthError, RegistryUnavailableError, listen
from resilient.balancing import Balancer, Zoned
from resilient.discovery import (
    Discovery,
    Instance,
    InstancesChanged,
    Registered,
    RegistrationLost,
    Registry,
    RegistryAuthFailed,
    RegistryBack,
    RegistryDown,
)
from resilient.discovery.eureka import EurekaDiscovery
from resilient.events import Event
from tests.peers import require_command
from tests.scripted_registry import ScriptedRegistry, free_port, scripted_registry
from tests.waiting import wait_until

FAST = "?fetch_interval=0.2&renew_interval=0.2&lease=3"


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as found:
        yield found


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    events: list[Event] = []
    stop = listen(events.append, Event)
    yield events
    stop()


def authority(registry: ScriptedRegistry) -> str:
    return registry.url.removesuffix("/eureka").partition("://")[2]


def paths(registry: ScriptedRegistry) -> list[str]:
    return [request.path for request in registry.seen("GET")]


def test_04_a_registration_is_told_as_an_event(registry: ScriptedRegistry, heard: list[Event]) -> None:
    """With what was registered, host and id included."""
    with Registry.from_url(registry.url + FAST).register("producer", port=8080) as mine:
        wait_until(lambda: mine.registered, what="the registration")
    (told,) = (event for event in heard if isinstance(event, Registered))
    assert (told.name, told.instance) == ("producer", mine.instance)


def test_07_a_failed_renewal_goes_to_the_next_server_and_is_no_new_registration() -> None:
    """In the same tick, with no second POST."""
    with scripted_registry() as first, scripted_registry() as second:
        url = f"{first.url.removesuffix('/eureka')},{authority(second)}{FAST}"
        with Registry.from_url(url).register("producer", port=8080) as mine:
            wait_until(lambda: mine.registered, what="the registration")
            second.listed.update(first.listed)
            first.script["PUT"] = 503
            wait_until(lambda: len(second.seen("PUT")) >= 2, what="renewals at the second")
            assert (len(first.seen("POST")), len(second.seen("POST"))) == (1, 0)
            assert len(first.seen("PUT")) <= 4
            assert mine.registered


def test_07_a_lease_that_ran_out_is_told_once_and_the_loop_goes_on(heard: list[Event]) -> None:
    """A registry that hangs for longer than the lease; then it is listed again without help."""
    with scripted_registry() as registry:
        url = f"{registry.url}?renew_interval=0.2&lease=1&fetch_interval=0.5"
        with Registry.from_url(url).register("producer", port=8080) as mine:
            wait_until(lambda: mine.registered, what="the registration")
            registry.script["PUT"] = 500
            wait_until(lambda: any(isinstance(event, RegistrationLost) for event in heard), what="the loss")
            registry.script.clear()
            wait_until(lambda: mine.registered, what="the registration")
    assert sum(isinstance(event, RegistrationLost) for event in heard) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_08_refused_credentials_are_told_once_per_change(
    registry: ScriptedRegistry, heard: list[Event], status: int
) -> None:
    """No request goes out without them, what is known stays known, and the registry that takes them again is back."""
    registry.put("producer", "h", 1)
    url = registry.url.replace("://", "://user:pw@") + FAST
    with Discovery.from_url(url) as found:
        found.wait("producer")
        registry.script["GET"] = status
        sent = len(registry.requests)
        wait_until(lambda: len(registry.requests) >= sent + 4, what="more requests")
        assert found.instances("producer")
        registry.script.clear()
        wait_until(lambda: any(isinstance(event, RegistryBack) for event in heard), what="the registry to be back")
    kinds = [type(event) for event in heard if isinstance(event, (RegistryDown, RegistryBack))]
    assert kinds == [RegistryAuthFailed, RegistryBack]
    assert {request.authorization for request in registry.requests} == {"Basic dXNlcjpwdw=="}


def test_08_a_token_is_asked_for_before_each_request(registry: ScriptedRegistry) -> None:
    """It rotates without anybody's help, for fetches and registrations alike."""
    numbers = itertools.count()
    registry.put("producer", "h", 1)
    found = EurekaDiscovery(registry.url + FAST, auth=lambda: {"Authorization": f"Bearer {next(numbers)}"})
    with found, found.register("me", port=2) as mine:
        found.wait("producer")
        wait_until(lambda: mine.registered and len(registry.requests) > 5, what="requests")
    tokens = [request.authorization for request in registry.requests]
    assert sorted(tokens, key=str) == sorted((f"Bearer {n}" for n in range(len(tokens))), key=str)


class _Signed(httpx.Auth):
    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Signed {request.method}"
        yield request


async def test_08_what_httpx_takes_as_auth_is_taken(registry: ScriptedRegistry) -> None:
    """On an event loop too."""
    async with EurekaDiscovery(registry.url + FAST, auth=_Signed()).register("me", port=2) as mine:
        await until(lambda: mine.registered)
    assert registry.seen("POST")[0].authorization == "Signed POST"
    assert registry.seen("DELETE")[0].authorization == "Signed DELETE"


def test_08_a_token_that_can_not_be_had_is_a_sentence_and_not_the_end(registry: ScriptedRegistry) -> None:
    """The function's error is what waiting shows; when it works again, so does all."""
    broken = [True]

    def headers() -> Mapping[str, str]:
        if broken:
            raise OSError("the vault is sealed")
        return {}

    registry.put("producer", "h", 1)
    with EurekaDiscovery(registry.url + FAST, auth=headers) as found:
        with pytest.raises(NoInstanceError, match="the vault is sealed"):
            found.wait("producer", timeout=0.3)
        broken.clear()
        assert found.wait("producer")
    assert registry.requests


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


def test_09_a_dead_server_is_skipped_and_the_choice_sticks() -> None:
    """The second one serves the call at once; with all dead the list is cleared and tried again."""
    port = free_port()
    with scripted_registry() as good:
        good.put("producer", "h", 1)
        url = f"eureka://127.0.0.1:{free_port()},{authority(good)},127.0.0.1:{port}{FAST}"
        with Discovery.from_url(url) as found:
            began = time.monotonic()
            assert found.wait("producer")
            assert time.monotonic() - began < 2.5
            wait_until(lambda: len(good.requests) >= 4, what="the choice to stick")
            good.script["GET"] = 500
            wait_until(lambda: found.age("producer") > 0.6, what="an outage")
            with scripted_registry(port) as third:
                third.put("producer", "i", 1)
                third.put("producer", "h", 1)
                wait_until(lambda: len(found.instances("producer")) == 2, what="the third server")


def test_09_two_thirds_put_aside_are_all_asked_again() -> None:
    """With two of three failing, the one that recovers is not left alone for half a minute."""
    with scripted_registry() as first, scripted_registry() as second, scripted_registry() as third:
        for number, server in enumerate((first, second, third)):
            server.put("producer", f"h{number}", 1)
        url = f"eureka://{authority(first)},{authority(second)},{authority(third)}{FAST}&confirm=false"
        with Discovery.from_url(url) as found:
            found.wait("producer")
            first.script["GET"] = second.script["GET"] = 500
            wait_until(lambda: found.instances("producer")[0].host == "h2", what="the third server")
            first.script.clear()
            third.script["GET"] = 500
            wait_until(lambda: found.instances("producer")[0].host == "h0", what="the first server again")


def test_09_servers_of_the_own_zone_are_first_and_the_rest_differ_by_client() -> None:
    """So that the clients of a zone that loses its server do not meet at one other."""
    url = "eureka://a,b,c,d,e/eureka?zones=z1,z2,z2,z1,z3&zone=z2"
    orders = [[server.base[7] for server in EurekaDiscovery(url)._servers.order()] for _ in range(50)]
    assert {"".join(order[:2]) for order in orders} == {"bc"}
    assert len({"".join(order) for order in orders}) > 1
    assert all(sorted(order) == list("abcde") for order in orders)
    assert [server.base[7] for server in EurekaDiscovery("eureka://a,b,c")._servers.order()] == list("abc")


def test_11_one_answer_that_lost_half_is_not_believed_two_are(registry: ScriptedRegistry) -> None:
    """And without `confirm` the first one is."""
    for number in range(4):
        registry.put("producer", f"h{number}", 1)
    with (
        Discovery.from_url(registry.url + FAST) as careful,
        Discovery.from_url(registry.url + FAST + "&confirm=false") as quick,
    ):
        careful.wait("producer")
        quick.wait("producer")
        gone = {key: registry.listed.pop(key) for key in list(registry.listed)[:3]}
        wait_until(lambda: len(quick.instances("producer")) == 1, what="the quick one")
        wait_until(lambda: len(careful.instances("producer")) == 1, what="the careful one")
        registry.listed.clear()
        wait_until(lambda: not quick.instances("producer"), what="the quick one")
        assert careful.instances("producer")
        registry.listed.update(gone)
        wait_until(lambda: len(careful.instances("producer")) == 3, what="the list that is back")


def test_11_a_registry_that_was_away_is_believed_when_everybody_has_told_it(registry: ScriptedRegistry) -> None:
    """It has forgotten them: a service that is not yet back among others is not gone; after a lease it is."""
    for number in range(4):
        registry.put("producer", f"h{number}", 1)
    registry.put("single", "h9", 1)

    def looks(count: int) -> None:
        before = len(registry.requests)
        wait_until(lambda: len(registry.requests) >= before + count, what=f"{count} looks")

    with Discovery.from_url(registry.url + FAST) as found:
        found.wait("single")
        registry.script["GET"] = 503
        looks(2)
        key, single = registry.listed.popitem()
        registry.script.clear()
        looks(4)
        assert found.instances("single")
        registry.listed[key] = single
        looks(3)
        registry.script["GET"] = 503
        looks(2)
        del registry.listed[key]
        registry.script.clear()
        wait_until(lambda: not found.instances("single"), what="the shorter list, after a lease")
        assert len(found.instances("producer")) == 4


def test_12_deltas_are_all_that_is_fetched_while_the_hash_agrees(
    registry: ScriptedRegistry, heard: list[Event]
) -> None:
    """A new service, a status and metadata arrive by deltas alone, each as one event."""
    registry.put("producer", "a", 1)
    with Discovery.from_url(registry.url + FAST) as found:
        found.wait("producer")
        registry.put("other", "b", 2)
        assert found.wait("other")
        registry.put("producer", "a", 1, metadata={"version": "2"})
        wait_until(lambda: found.instances("producer")[0].metadata, what="the metadata")
        registry.put("other", "b", 2, status="DOWN")
        wait_until(lambda: not found.instances("other"), what="the status")
    assert set(paths(registry)[1:]) == {"/eureka/apps/delta"}
    told = [
        (event.name, len(event.added), len(event.removed), [(a.metadata, b.metadata) for a, b in event.changed])
        for event in heard
        if isinstance(event, InstancesChanged)
    ]
    assert told == [
        ("producer", 1, 0, []),
        ("other", 1, 0, []),
        ("producer", 0, 0, [({}, {"version": "2"})]),
        ("other", 0, 1, []),
    ]


def test_13_a_hash_that_differs_costs_one_full_list_and_17_counts_every_status(registry: ScriptedRegistry) -> None:
    """The server's hash is over all five statuses; who left without a word is found in the same cycle."""
    for port, status in enumerate(["UP", "UP", "UP", "DOWN", "OUT_OF_SERVICE", "STARTING", "UNKNOWN"], start=1):
        registry.put("producer", "h", port, status=status)
    with Discovery.from_url(registry.url + FAST) as found:
        assert len(found.wait("producer")) == 3
        wait_until(lambda: len(registry.requests) >= 4, what="deltas")
        assert paths(registry).count("/eureka/apps/") == 1
        del registry.listed["PRODUCER", "h:producer:1"]
        wait_until(lambda: len(found.instances("producer")) == 2, what="the departure")
        wait_until(lambda: paths(registry)[-1] == "/eureka/apps/delta", what="a delta")
        assert paths(registry).count("/eureka/apps/") == 2


def test_14_a_registry_without_deltas_serves_all_the_same(registry: ScriptedRegistry) -> None:
    """And by option it is not asked for any."""
    registry.put("producer", "h", 1)
    with Discovery.from_url(registry.url + FAST + "&delta=false") as found:
        found.wait("producer")
        wait_until(lambda: len(registry.requests) >= 4, what="fetches")
    assert set(paths(registry)) == {"/eureka/apps/"}


def test_18_the_own_zone_is_preferred_while_it_has_instances(registry: ScriptedRegistry) -> None:
    """Zones come from metadata or Amazon's availability zone; the other zone serves when the own one is gone."""
    for number in range(3):
        registry.put("producer", f"near{number}", 1, metadata={"zone": "z1"})
        center = {"@class": "x", "name": "Amazon", "metadata": {"availability-zone": "z2"}}
        registry.put("producer", f"far{number}", 1, dataCenterInfo=center)
    with Discovery.from_url(registry.url + FAST + "&confirm=false") as found:
        wait_until(lambda: len(found.instances("producer")) == 6, what="all")
        balancer = Balancer("producer", found, lambda: Zoned(zone="z1"))
        assert {balancer.pick().instance.zone for _ in range(12)} == {"z1"}
        for number in range(3):
            registry.put("producer", f"near{number}", 1, status="DOWN", metadata={"zone": "z1"})
        wait_until(lambda: len(found.instances("producer")) == 3, what="the end of the zone")
        assert {balancer.pick().instance.zone for _ in range(6)} == {"z2"}


def test_18_a_registration_says_our_zone(registry: ScriptedRegistry) -> None:
    """The option of the client, unless the registration names its own."""
    found = Registry.from_url(registry.url + "?zone=z7")
    with found.register("a", port=1) as one, found.register("b", port=2, zone="z8") as two:
        wait_until(lambda: one.registered and two.registered, what="the registrations")
        assert sorted(raw["metadata"]["zone"] for raw in registry.listed.values()) == ["z7", "z8"]


def test_19_a_status_is_posted_at_once_but_not_more_than_four_times_a_minute(registry: ScriptedRegistry) -> None:
    """With a newer timestamp; what flickers is told in the end as it is."""
    with Registry.from_url(registry.url).register("producer", port=8080) as mine:
        wait_until(lambda: mine.registered, what="the registration")
        for number, status in enumerate(["DOWN", "UP", "DOWN", "UP"]):
            began = time.monotonic()
            mine.set_status(status)
            wait_until(lambda number=number: len(registry.seen("POST")) == number + 2, what=status)  # type: ignore[misc]  # bound now
            assert time.monotonic() - began < 1.0
        mine.set_status("DOWN")
        quiet = time.monotonic() + 0.5
        wait_until(lambda: time.monotonic() > quiet, what="half a second")
        assert len(registry.seen("POST")) == 5
    stamps = [int(post.body["instance"]["lastDirtyTimestamp"]) for post in registry.seen("POST")]
    assert stamps == sorted(set(stamps))


def test_19_any_instance_is_taken_out_by_an_override_and_given_back(registry: ScriptedRegistry) -> None:
    """By the requests of the contract; what can not be done is said in words."""
    registry.put("producer", "h", 1)
    found = EurekaDiscovery(registry.url + FAST)
    with found:
        (instance,) = found.wait("producer")
        found.override_status(instance, "OUT_OF_SERVICE")
        wait_until(lambda: not found.instances("producer"), what="the override")
        found.override_status(instance, None)
        wait_until(lambda: found.instances("producer"), what="the end of the override")
        changes = [request for request in registry.requests if request.path.endswith("/status")]
        assert [(change.method, change.query) for change in changes] == [
            ("PUT", "value=OUT_OF_SERVICE"),
            ("DELETE", "value=UP"),
        ]
        with pytest.raises(DiscoveryError, match="does not list 'x' of 'nobody'"):
            found.override_status(Instance("nobody", "h", 1, "x"), "DOWN")
        with pytest.raises(ConfigError, match="status must be one of"):
            found.override_status(instance, "AWAY")
        registry.script["PUT"] = 401
        with pytest.raises(RegistryAuthError, match="refuses to override"):
            found.override_status(instance, "DOWN")
        registry.script["PUT"] = 500
        with pytest.raises(RegistryUnavailableError, match="500"):
            asyncio.run(found.override_status_async(instance, "DOWN"))


@pytest.mark.parametrize("colour", ["sync", "async", "registry"])
def test_20_draining_says_down_waits_and_then_leaves(registry: ScriptedRegistry, colour: str) -> None:
    """DOWN is answered before the time begins, the DELETE comes after it; two entries drain together."""
    found = Registry.from_url(registry.url + FAST + "&drain=0.5")
    first, second = found.register("producer", port=1), found.register("other", port=2)

    async def on_a_loop() -> None:
        async with found, first, second:
            await until(lambda: first.registered and second.registered)
            await found.aclose()

    if colour == "async":
        asyncio.run(on_a_loop())
    else:
        with found, first, second:
            wait_until(lambda: first.registered and second.registered, what="the registrations")
            (found if colour == "registry" else first).close()
    last = [request for request in registry.requests if "PRODUCER" in request.path and request.method != "GET"][-2:]
    assert [request.method for request in last] == ["POST", "DELETE"]
    assert last[0].body["instance"]["status"] == "DOWN"
    assert last[1].at - last[0].at >= 0.5
    if colour != "sync":
        first_leaves = min(request.at for request in registry.seen("DELETE"))
        assert all(request.at <= first_leaves for request in registry.seen("POST"))  # both are DOWN by then
    assert registry.listed == {}


def test_22_a_registration_entered_in_a_child_is_another_one(registry: ScriptedRegistry) -> None:
    """Its id ends in the child's process id; the parent's stays as it is."""
    import multiprocessing

    mine = Registry.from_url(registry.url + FAST).register("producer", port=8080, host="127.0.0.1")

    def child() -> None:
        with mine:
            wait_until(lambda: mine.registered, what="the registration")
            wait_until(lambda: len(registry_ids()) == 2, what="both entries")

    def registry_ids() -> list[str]:
        answer = httpx.get(f"http://{authority(registry)}/eureka/apps/").json()
        return [one["instanceId"] for app in answer["applications"]["application"] for one in app["instance"]]

    with mine:
        wait_until(lambda: mine.registered, what="the registration")
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(20)
        assert process.exitcode == 0
        posted = [post.body["instance"]["instanceId"] for post in registry.seen("POST")]
        assert posted == ["127.0.0.1:producer:8080", f"127.0.0.1:producer:8080-{process.pid}"]
        assert list(registry.listed) == [("PRODUCER", "127.0.0.1:producer:8080")]


@functools.cache
def _made(openssl: str, folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", str(cert), "-keyout", str(key)]
    subject = ["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([openssl, "req", "-x509", "-nodes", *made, *subject], check=True, capture_output=True, timeout=30)
    return cert, key


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    return _made(require_command("openssl", package="openssl"), tmp_path_factory.mktemp("tls"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tls_with_an_own_authority_and_a_client_certificate(certificate: tuple[Path, Path]) -> None:
    """Both sides show a certificate; without ours the registry does not answer, and that is said."""
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.load_verify_locations(cert)
    context.verify_mode = ssl.CERT_REQUIRED
    with scripted_registry(tls=context) as registry:
        registry.put("producer", "h", 1)
        with Discovery.from_url(f"{registry.url}{FAST}&ca={cert}&cert={cert}&key={key}") as found:
            assert found.wait("producer")
        assert "Error" in trouble(f"{registry.url}{FAST}&ca={cert}")
        assert "CERTIFICATE_VERIFY_FAILED" in trouble(registry.url + FAST)
        mine = ssl.create_default_context(cafile=str(cert))
        mine.load_cert_chain(cert, key)
        with EurekaDiscovery(registry.url + FAST, tls=mine) as found:
            assert found.wait("producer")


def trouble(url: str) -> str:
    """What waiting says when the registry at `url` does not answer well."""
    with Discovery.from_url(url) as found, pytest.raises(NoInstanceError) as caught:
        found.wait("producer", timeout=0.7)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "eurkea://a"}, "must begin with"),
        ({"url": "eureka://a:"}, "is no host or host:port"),
        ({"url": "eureka://a?fetchinterval=3"}, "did you mean 'fetch_interval'"),
        ({"url": "eureka://a?delta=maybe"}, "delta must be true or false, not 'maybe'"),
        ({"url": "eureka://a?drain=-1"}, "drain must be from 0 to 3600 seconds, not '-1'"),
        ({"url": "eureka://a?ca=/x"}, "https://host:8761/eureka"),
        ({"url": "https://a/eureka?ca=/no/such"}, "ca '/no/such' is no file of certificates"),
        ({"url": "https://a/eureka?key=/x"}, "key is of no use without cert"),
        ({"url": "https://a/eureka?cert=/no/such"}, "cert '/no/such' can not be used"),
        ({"url": "eureka://a,b?zones=x&zone=x"}, "2 in all, not x"),
        ({"url": "eureka://a,b?zones=x,y"}, "not where we are"),
        ({"url": "eureka://a?zones=,"}, "words with commas"),
        ({"lease": 10.0}, "must be longer than renew_interval"),
        ({"drain": 90.0}, "drain .90 s. must be shorter than lease"),
        ({"drain": -1}, "drain must be 0 or more seconds"),
        ({"fetch_interval": 0}, "fetch_interval must be more than 0"),
        ({"delta": "no"}, "delta must be True or False, not 'no'"),
        ({"zone": 7}, "zone must be text that is not empty, not 7"),
        ({"url": "eureka://u:p@a", "auth": ("v", "q")}, "either auth or a user in the URL"),
        ({"auth": "token"}, "auth must be .user, password., a function"),
        ({"url": "https://a", "tls": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "ca": "/x"}, "either tls or ca"),
    ],
)
def test_a_wrong_option_is_a_sentence_that_names_it(options: dict[str, Any], words: str) -> None:
    """What, which value, what is allowed; nothing is asked before."""
    with pytest.raises(ConfigError, match=words) as caught:
        EurekaDiscovery(**options)
    assert caught.value.path


def test_a_host_that_does_not_resolve_is_a_sentence() -> None:
    """Which server, and what its name's resolution said."""
    assert "http://no-such-host.invalid:8761/eureka: ConnectError" in trouble(f"eureka://no-such-host.invalid{FAST}")


@pytest.mark.parametrize(
    "bad", [b"", b"HTTP/1.1 200 OK\r\n", b"\x00\xff garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000]
)
def test_a_server_that_speaks_no_http_is_a_sentence(bad: bytes) -> None:
    """Garbage, half a head, a head without end, a connection closed: an error of that server, in words."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):  # the client has seen enough
                    connection.recv(4096)
                    connection.sendall(bad)

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        said = trouble(f"eureka://127.0.0.1:{listener.getsockname()[1]}{FAST}")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert "has not answered" in said
    assert "Error" in said


async def test_23_the_sync_client_works_where_a_loop_runs_already(registry: ScriptedRegistry) -> None:
    """A notebook's cell: `with`, `wait` and registering need no loop of their own and start none; one thread works."""
    with Registry.from_url(registry.url + FAST) as found, found.register("me", port=1) as mine:
        assert found.wait("me")[0].port == 1
        wait_until(lambda: mine.registered, what="the registration")
        name = f"resilient {registry.url}"
        assert [thread.name for thread in threading.enumerate() if thread.name == name] == [name]
    assert registry.listed == {}
