"""A real etcd that asks who comes, restarts with its data, and compacts its history."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator

import pytest

from resilient import NoInstanceError, listen
from resilient.discovery import RegistrationLost, Registry, RegistryAuthFailed, RegistryDown
from resilient.events import Event
from tests.etcd_server import EtcdServer, encoded
from tests.scripted_registry import free_port
from tests.waiting import wait_until


@pytest.fixture
def server() -> Iterator[EtcdServer]:
    with EtcdServer(keeps=True) as found:
        yield found


def lock(server: EtcdServer) -> None:
    server.ask("/v3/auth/user/add", {"name": "root", "password": "s3/cret"})
    server.ask("/v3/auth/role/add", {"name": "root"})
    server.ask("/v3/auth/user/grant", {"user": "root", "role": "root"})
    server.ask("/v3/auth/enable", {})


def test_user_and_password_open_the_door_and_a_token_that_ended_is_asked_for_again(
    server: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A restart makes all tokens invalid: no refusal is told, and nothing of them is shown."""
    lock(server)
    refused: list[Event] = []
    stop = listen(refused.append, RegistryAuthFailed)
    url = f"etcd://root:s3%2Fcret@{server.host}?ttl=4&watch=1"
    with (
        caplog.at_level(logging.DEBUG),
        Registry.from_url(url) as found,
        found.register("producer", port=8001) as mine,
        Registry.from_url(url) as other,
    ):
        assert other.wait("producer", timeout=15)[0].port == 8001
        server.kill()
        server.start()
        began = time.monotonic()
        wait_until(lambda: other.age("producer") < time.monotonic() - began, timeout=15, what="the second token")
        assert mine.registered
    stop()
    assert refused == []
    assert "s3/cret" not in caplog.text
    with Registry.from_url(url) as found, pytest.raises(NoInstanceError, match="lists nothing"):
        found.wait("producer", timeout=0.5)


@pytest.mark.parametrize("who", ["root:wr0ng@", ""])
def test_whoever_is_refused_hears_it_once(server: EtcdServer, caplog: pytest.LogCaptureFixture, who: str) -> None:
    """A wrong password, and none at all."""
    lock(server)
    events: list[Event] = []
    stop = listen(events.append, RegistryDown)
    with (
        Registry.from_url(f"etcd://{who}{server.host}?watch=1") as found,
        pytest.raises(NoInstanceError, match="refuses our credentials"),
    ):
        found.wait("producer", timeout=2.5)
    stop()
    assert [type(event) for event in events] == [RegistryAuthFailed]
    assert "wr0ng" not in caplog.text


def test_members_that_are_away_are_passed_over_and_history_may_be_compacted(server: EtcdServer) -> None:
    """What is found is what is there."""
    with Registry.from_url(f"etcd://127.0.0.1:{free_port()},{server.host}?watch=1") as found:
        for number in range(1, 4):
            server.put(f"/services/web/{number}", f"127.0.0.1:{number}")
        wait_until(lambda: len(found.instances("web")) == 3, timeout=15, what="all three")
        server.signal(signal.SIGSTOP)  # the watch begins anew meanwhile
        server.signal(signal.SIGCONT)
        last = int(server.ask("/v3/kv/range", {"key": encoded("x")})["header"]["revision"])
        server.ask("/v3/kv/compaction", {"revision": str(last)})
        server.put("/services/web/4", "127.0.0.1:4")
        wait_until(lambda: [one.port for one in found.instances("web")] == [1, 2, 3, 4], timeout=15, what="all four")


def test_an_entry_goes_with_its_lease(server: EtcdServer) -> None:
    """A lease that somebody revokes is made anew, and the key with it."""
    with Registry.from_url(f"etcd://{server.host}/live?ttl=2&watch=1") as found, found.register("web", port=1) as mine:
        found.wait("web", timeout=15)
        for lease in server.ask("/v3/lease/leases", {})["leases"]:
            server.ask("/v3/lease/revoke", {"ID": lease["ID"]})
        assert server.keys("/live/") == []
        wait_until(lambda: server.keys("/live/") == [f"/live/web/{mine.instance.id}"], timeout=15, what="the key")
        wait_until(lambda: found.instances("web"), timeout=15, what="the instance")


def test_an_entry_that_somebody_deleted_comes_back(server: EtcdServer) -> None:
    """The lease lives on and would be renewed for ever; the loss is told, and the key is put again once."""
    told: list[Event] = []
    stop = listen(told.append, RegistrationLost)
    with Registry.from_url(f"etcd://{server.host}/live?ttl=2&watch=1") as found, found.register("web", port=1) as mine:
        found.wait("web", timeout=15)
        server.delete(f"/live/web/{mine.instance.id}")
        wait_until(lambda: server.keys("/live/") == [f"/live/web/{mine.instance.id}"], timeout=15, what="the key")
        wait_until(lambda: mine.registered and found.instances("web"), timeout=15, what="the instance")
        revision = server.ask("/v3/kv/range", {"key": encoded("x")})["header"]["revision"]
        renewed = time.monotonic() + 1.5  # two renewals: they are no changes
        wait_until(lambda: time.monotonic() > renewed, what="renewals")
        assert server.ask("/v3/kv/range", {"key": encoded("x")})["header"]["revision"] == revision
        mine.set_status("DOWN")
        wait_until(lambda: server.keys("/live/") == [], timeout=15, what="an instance that is down")
    stop()
    assert [event.reason for event in told if isinstance(event, RegistrationLost)] == ["its key was deleted"]
