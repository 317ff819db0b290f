"""Discovery that is written down, and the way from a URL to a discovery."""

from __future__ import annotations

import pickle
import threading

import pytest

from resilient import ConfigError, NoInstanceError
from resilient.discovery import Discovery, Instance, Registry
from resilient.discovery.eureka import EurekaDiscovery
from resilient.discovery.static import StaticDiscovery


def test_static_urls_name_their_instances() -> None:
    """Services by semicolon, addresses by comma, any case, IPv6 in brackets."""
    found = Discovery.from_url("static://Producer=a:1,[::1]:2;other=c:3")
    assert [(instance.host, instance.port) for instance in found.instances("producer")] == [("a", 1), ("::1", 2)]
    assert found.instances("PRODUCER") is found.instances("producer")
    assert found.instances("other")[0].service == "other"
    assert found.instances("nobody") == ()
    assert found.age("other") == 0.0


@pytest.mark.parametrize(
    "url",
    ["static://", "static://a", "static://a=", "static://a=b", "static://a=b:0", "static://a=b:99999", "static://=b:1"],
)
def test_a_wrong_static_url_is_refused_in_words(url: str) -> None:
    """It says how to write it."""
    with pytest.raises(ConfigError, match="write static://producer=host:port"):
        Discovery.from_url(url)


def test_an_option_is_refused_by_name() -> None:
    """There are none, and one that is written must not be passed over in silence."""
    with pytest.raises(ConfigError, match="unknown option 'zone'; static:// has none"):
        Discovery.from_url("static://a=b:1?zone=x")


async def test_nobody_waits_for_what_will_not_come() -> None:
    """A static list is final: the answer is at once, in both worlds."""
    found = Discovery.from_url("static://a=b:1")
    assert found.wait("a") == await found.wait_async("a")
    with pytest.raises(NoInstanceError, match=r"no instance of 'x' is known: static .* lists a") as caught:
        found.wait("x", timeout=3600)
    assert caught.value.policy == "x"
    with pytest.raises(NoInstanceError):
        await found.wait_async("x", timeout=3600)


async def test_a_static_discovery_runs_in_both_worlds_without_a_thread() -> None:
    """`with` and `async with` are there, and do nothing."""
    before = threading.active_count()
    with StaticDiscovery({"a": [Instance("a", "h", 1)]}) as found:
        async with found:
            assert found.instances("a")[0].host == "h"
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("eureca://a", r"eureca:// is not known here.*did you mean 'eureka'"),
        ("localhost:8761", "has no scheme"),
        ("user:pass@host:8761", "'host:8761' has no scheme"),
        ("user:pass://word@h", "'h' has no scheme"),
        ("static://user:pass@p=h", "p: 'h' is no host:port"),
        ("static://p=user:pass@h:1", "p: 'h:1' is no host:port"),
        ("static://p=h h:1", "p: 'h h:1' is no host:port"),
    ],
)
def test_a_url_that_nobody_understands_is_refused_in_words(url: str, words: str) -> None:
    """What is allowed stands in the message, and no password."""
    with pytest.raises(ConfigError, match=words) as caught:
        Discovery.from_url(url)
    assert caught.value.path == "url"
    assert "pass" not in str(caught.value)


def test_a_registry_must_be_writable() -> None:
    """Nothing can be registered in a static list."""
    with pytest.raises(ConfigError, match="nothing can be registered"):
        Registry.from_url("static://a=b:1")
    assert isinstance(Registry.from_url("http://a:8761/eureka/"), EurekaDiscovery)


def test_the_environment_names_the_discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """$RESILIENT_DISCOVERY is read when no URL is given, and only then."""
    monkeypatch.setenv("RESILIENT_DISCOVERY", "static://a=b:1")
    assert Discovery.from_url().instances("a")[0].host == "b"
    monkeypatch.delenv("RESILIENT_DISCOVERY")
    with pytest.raises(ConfigError, match="RESILIENT_DISCOVERY"):
        Discovery.from_url()


def test_an_instance_is_a_value() -> None:
    """Hashable, comparable without its metadata, picklable."""
    one = Instance("a", "h", 1, metadata={"k": "v"})
    assert one == Instance("a", "h", 1)
    assert len({one, Instance("a", "h", 1)}) == 1
    assert pickle.loads(pickle.dumps(one)).metadata == {"k": "v"}


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"service": "a b", "port": 1}, "service"),
        ({"service": "", "port": 1}, "service"),
        ({"service": "a", "port": 0}, "port"),
        ({"service": "a", "port": "80"}, "port"),
        ({"service": "a", "port": 1, "host": " "}, "host"),
        ({"service": "a", "port": 1, "id": ""}, "id"),
        ({"service": "a", "port": 1, "weight": 0}, "weight"),
        ({"service": "a", "port": 1, "metadata": {"k": 1}}, "metadata"),
        ({"service": "a", "port": 1, "health": True}, "health"),
    ],
)
def test_wrong_registrations_are_refused_at_once(arguments: dict[str, object], path: str) -> None:
    """Before anything is sent."""
    arguments = dict(arguments)
    service = arguments.pop("service")
    with pytest.raises(ConfigError) as caught:
        EurekaDiscovery().register(service, **arguments)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.path == path


def test_options_are_checked_and_keywords_win_over_the_query() -> None:
    """A lease that ends before it is renewed is a mistake."""
    with pytest.raises(ConfigError, match=r"lease .* must be longer than renew_interval"):
        EurekaDiscovery("eureka://a?renew_interval=9&lease=9")
    with pytest.raises(ConfigError, match="fetch_interval must be more than 0"):
        EurekaDiscovery(fetch_interval=0)
    EurekaDiscovery("eureka://a?renew_interval=9&lease=9", renew_interval=3)


def test_a_status_that_does_not_exist_is_refused() -> None:
    """It names the three that do."""
    with pytest.raises(ConfigError, match="UP, OUT_OF_SERVICE, DOWN"):
        EurekaDiscovery().register("a", port=1).set_status("STARTING")
