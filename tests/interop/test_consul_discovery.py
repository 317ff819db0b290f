"""A real Consul that asks for tokens, and one that a client asks wrong questions."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from resilient import NoInstanceError, listen
from resilient.discovery import Registry, RegistryAuthFailed, RegistryDown
from resilient.events import Event
from tests.consul_agent import ConsulAgent
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def agent() -> Iterator[ConsulAgent]:
    rules = 'acl { enabled = true default_policy = "deny" tokens { master = "root-s3cret" agent = "root-s3cret" } }'
    with ConsulAgent([rules], token="root-s3cret") as found:
        yield found


def test_a_token_opens_the_door(agent: ConsulAgent) -> None:
    """For looking up and for registering; a tag selects."""
    url = f"consul://root-s3cret@{agent.host}?wait=1&ttl=2&tag=v1"
    with Registry.from_url(url) as found, found.register("producer", port=8001) as mine:
        assert found.wait("producer", timeout=15)[0].port == 8001
        assert agent.ask("GET", "/v1/agent/services")[mine.instance.id]["Tags"] == ["v1"]
        with Registry.from_url(url.replace("tag=v1", "tag=v2")) as other, pytest.raises(NoInstanceError):
            other.wait("producer", timeout=0.5)
    assert agent.ids() == []


def test_a_wrong_token_is_told_once_and_shown_nowhere(agent: ConsulAgent, caplog: pytest.LogCaptureFixture) -> None:
    """The event and one line say that it is refused; whoever waits hears it too."""
    events: list[Event] = []
    stop = listen(events.append, RegistryDown)
    with caplog.at_level(logging.DEBUG), Registry.from_url(f"consul://wr0ng@{agent.host}?wait=1&ttl=2") as found:
        with (
            found.register("producer", port=8001),
            pytest.raises(NoInstanceError, match=r"HTTP status 403.*refuses our credentials"),
        ):
            found.wait("producer", timeout=2.5)
        assert "wr0ng" not in repr(found)
    stop()
    assert [type(event) for event in events] == [RegistryAuthFailed]
    ours = [record for record in caplog.records if record.name == "resilient" and "is down" in record.getMessage()]
    assert len(ours) == 1
    assert "wr0ng" not in caplog.text


def test_consuls_own_words_are_handed_on(agent: ConsulAgent) -> None:
    """A datacenter that does not exist."""
    with (
        Registry.from_url(f"consul://root-s3cret@{agent.host}?dc=mars") as found,
        pytest.raises(NoInstanceError, match="No path to datacenter"),
    ):
        found.wait("producer", timeout=1.5)


def test_maintenance_before_the_end(agent: ConsulAgent) -> None:
    """With drain= callers hear that it goes before it is gone."""
    url = f"consul://root-s3cret@{agent.host}?wait=1&ttl=3&drain=1"
    with Registry.from_url(url.replace("&drain=1", "")) as other, Registry.from_url(url) as found:
        mine = found.register("producer", port=8001)
        listed: list[int] = []
        other.subscribe("producer", lambda change: listed.append(len(agent.ids())))
        with mine:
            assert other.wait("producer", timeout=15)
        wait_until(lambda: len(listed) == 2, timeout=15, what="both changes")
    assert agent.ids() == []
