"""Eureka's JSON and URLs: read tolerantly, written exactly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient import ConfigError
from resilient.discovery import Instance
from resilient.discovery.eureka_mirror import Mirror
from resilient.discovery.eureka_url import EurekaUrl
from resilient.discovery.eureka_wire import read_applications, write_instance
from resilient.discovery.instance import Known


def read(text: bytes) -> tuple[Known, int]:
    """Who is usable, and how many can not be read."""
    mirror = Mirror()
    known = mirror.fill(read_applications(text))
    return known, len(mirror.problems)


def body(*instances: Any, name: Any = "DEMO") -> bytes:
    return json.dumps({"applications": {"application": [{"name": name, "instance": list(instances)}]}}).encode()


FULL: dict[str, Any] = {
    "instanceId": "i-1",
    "hostName": "host1",
    "app": "DEMO",
    "ipAddr": "10.0.0.1",
    "status": "UP",
    "port": {"$": 8080, "@enabled": "true"},
    "securePort": {"$": 8443, "@enabled": "false"},
    "metadata": {"zone": "z1", "weight": "2.5"},
}
BAD = FULL | {"instanceId": "i-2"}


def test_a_full_instance_is_read_with_its_zone_and_weight() -> None:
    """What a real server writes becomes one Instance."""
    known, skipped = read(body(FULL))
    (found,) = known["demo"]
    assert found == Instance("demo", "host1", 8080, "i-1", zone="z1", weight=2.5)
    assert found.metadata == {"zone": "z1", "weight": "2.5"}
    assert skipped == 0


@pytest.mark.parametrize(
    "change",
    [
        {"port": {"$": "8080", "@enabled": True}},
        {"port": 8080},
        {"port": {"$": 8080}},
        {"unknown": {"deep": [1]}, "lastDirtyTimestamp": 5, "leaseInfo": None},
        {"securePort": None, "overriddenstatus": "UNKNOWN"},
        {"status": "up"},
    ],
)
def test_the_same_model_comes_of_every_spelling(change: dict[str, Any]) -> None:
    """Numbers as text, missing optional fields and extra fields change nothing."""
    known, skipped = read(body(FULL | change))
    assert known["demo"] == read(body(FULL))[0]["demo"]
    assert skipped == 0


def test_a_single_object_stands_for_a_list() -> None:
    """Old servers write one application or one instance without the array."""
    single = json.dumps({"applications": {"application": {"name": "DEMO", "instance": FULL}}}).encode()
    assert read(single) == read(body(FULL))


@pytest.mark.parametrize(
    "bad", [None, 7, "text", {}, BAD | {"port": {"$": "x"}}, BAD | {"port": {"$": 70000}}, BAD | {"hostName": ["a"]}]
)
def test_one_bad_instance_is_skipped_and_counted(bad: Any) -> None:
    """The rest of the list is used."""
    known, skipped = read(body(bad, FULL))
    assert [instance.id for instance in known["demo"]] == ["i-1"]
    assert skipped == 1


@pytest.mark.parametrize("text", [b"", b"<applications/>", b"[]", b'{"applications": []}', b"{}", b"null", b'"x"'])
def test_what_is_no_list_is_an_error_not_an_empty_list(text: bytes) -> None:
    """Garbage must never empty what is known."""
    with pytest.raises(ValueError, match="no application list"):
        read_applications(text)


def test_an_instance_with_only_the_secure_port_is_secure() -> None:
    """The enabled port is the one that is used."""
    raw = FULL | {"port": {"$": 80, "@enabled": "false"}, "securePort": {"$": 8443, "@enabled": "true"}}
    (found,) = read(body(raw))[0]["demo"]
    assert (found.port, found.secure) == (8443, True)


def test_identity_falls_back_to_amazon_then_to_the_host() -> None:
    """The order in which Netflix names an instance."""
    plain = {key: value for key, value in FULL.items() if key != "instanceId"}
    amazon = plain | {"dataCenterInfo": {"name": "Amazon", "metadata": {"instance-id": "i-9"}}}
    assert read(body(plain))[0]["demo"][0].id == "host1"
    assert read(body(amazon))[0]["demo"][0].id == "i-9"


def test_applications_that_are_no_objects_are_skipped() -> None:
    """As are weights that are no numbers, and the marker of Java's empty map."""
    odd = FULL | {"metadata": {"weight": "heavy", "@class": "java.util.Collections$EmptyMap", "n": None}}
    text = json.dumps({"applications": {"application": [7, {"name": "DEMO", "instance": odd}, {"name": "E"}]}})
    known, skipped = read(text.encode())
    assert skipped == 1
    assert (known["demo"][0].weight, known["demo"][0].metadata) == (1.0, {"weight": "heavy", "n": ""})


def test_what_is_written_is_read_back() -> None:
    """A registration keeps address, port, zone, weight and metadata."""
    mine = Instance("shop", "10.0.0.9", 8443, "me", secure=True, zone="z", weight=0.5, metadata={"k": "v"})
    written = json.loads(
        write_instance(mine, address="10.0.0.9", status="UP", dirty_ms=17, renew_interval=0.4, lease=1.2)
    )
    raw = written["instance"]
    assert read(body(raw, name="SHOP"))[0]["shop"] == (mine,)
    assert raw["app"] == "SHOP"
    assert raw["lastDirtyTimestamp"] == "17"
    assert raw["leaseInfo"]["renewalIntervalInSecs"] == 1
    assert raw["leaseInfo"]["durationInSecs"] == 2
    assert raw["dataCenterInfo"]["@class"] == "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"
    assert type(raw["port"]["$"]) is int
    assert raw["port"]["@enabled"] == "false"


@pytest.mark.parametrize(
    ("url", "bases"),
    [
        ("eureka://a", ["http://a:8761/eureka"]),
        ("eureka://a:1,b:2/eureka/v2/", ["http://a:1/eureka/v2", "http://b:2/eureka/v2"]),
        ("http://a:8761//eureka//", ["http://a:8761/eureka"]),
        ("https://reg.corp.uat/eureka/", ["https://reg.corp.uat/eureka"]),
        ("http://a:1/eureka/,http://b:2/eureka/", ["http://a:1/eureka", "http://b:2/eureka"]),
        ("eureka://[::1]:8761", ["http://[::1]:8761/eureka"]),
        ("eureka://[::1]", ["http://[::1]:8761/eureka"]),
    ],
)
def test_every_spelling_of_a_registry_is_understood(url: str, bases: list[str]) -> None:
    """Several servers, paths, slashes, unusual domains, IPv6."""
    assert [server.base for server in EurekaUrl.parse(url).servers] == bases


def test_credentials_are_decoded_and_never_shown() -> None:
    """A password with an at sign reaches the header, not the log."""
    found = EurekaUrl.parse("eureka://us%20er:p%40ss@a:1,b:2")
    assert {server.auth for server in found.servers} == {("us er", "p@ss")}
    assert found.name == "eureka://a:1,b:2/eureka"
    assert "ss" not in repr(found.servers)


def test_credentials_may_differ_by_server() -> None:
    """A server without any has those of the one before it, but never those of another URL."""
    found = EurekaUrl.parse("eureka://u:p@a:1,b:2,v:q@c:3/eureka,http://d:4/eureka")
    assert [(server.base, server.auth) for server in found.servers] == [
        ("http://a:1/eureka", ("u", "p")),
        ("http://b:2/eureka", ("u", "p")),
        ("http://c:3/eureka", ("v", "q")),
        ("http://d:4/eureka", None),
    ]
    assert found.name == "eureka://a:1,b:2,c:3/eureka,http://d:4/eureka"


@pytest.mark.parametrize(
    "url",
    [
        "eureka://us:se@cret@a:1",
        "eureka://us:se,cret@a:1",
        "eureka://us:1,cret@a:1",
        "eureka://us:se/cret@a:1",
        "eureka://us:se?cret@a:1",
    ],
)
def test_a_raw_separator_in_a_password_is_refused_without_showing_it(url: str) -> None:
    """It would be read as another host, path or option."""
    with pytest.raises(ConfigError, match="must be percent-encoded") as caught:
        EurekaUrl.parse(url)
    assert "us" not in str(caught.value).replace("user", "").replace("must", "")
    assert "se" not in str(caught.value).replace("user", "")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("eureka://h h", "'h h' is no host"),
        ("eureka://h,i\tj", "is no host"),
        ("eureka://u:secret@h h", "'h h' is no host"),
        ("eureka://a?fetch=1", "unknown option 'fetch'.*fetch_interval"),
        ("eureka://a?lease=soon", "lease must be from 0.01 to 86400 seconds"),
        ("eureka://a?lease=-1", "lease must be from 0.01 to 86400 seconds"),
        ("eureka://", "is no host"),
        ("eureka://a:0", "is no host"),
        ("eureka://a:99999", "is no host"),
        ("eureka://a:x", "is no host"),
        ("eureka://a,,b", "is no host"),
        ("eureka://a,ftp://b", "must begin with"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url: str, words: str) -> None:
    """What was wrong and what is allowed, at once."""
    with pytest.raises(ConfigError, match=words) as caught:
        EurekaUrl.parse(url)
    assert caught.value.path.startswith("url")


def test_options_stand_in_the_query() -> None:
    """The demo's URL."""
    options = EurekaUrl.parse("eureka://a?fetch_interval=1&renew_interval=2&lease=6").options
    assert options == {"fetch_interval": 1.0, "renew_interval": 2.0, "lease": 6.0}
