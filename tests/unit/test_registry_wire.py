"""The registry's two languages: what clients write is read, what is written is what strict readers read."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.registry_server import encoding, encoding_xml
from resilient.registry_server.decoding import (
    RegistrationError,
    TooLargeError,
    UnreadableError,
    gunzip,
    read_json,
    read_xml,
    unescape_name,
)
from resilient.registry_server.record import AMAZON_DATA_CENTER, DataCenter, Lease, Port, Record

MY_OWN = {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}

# What the reader of Spring Cloud's client knows; any other field makes it refuse the whole list.
KNOWN_TO_SPRING = {
    *("instanceId", "app", "appGroupName", "ipAddr", "sid", "homePageUrl", "statusPageUrl", "healthCheckUrl"),
    *("secureHealthCheckUrl", "vipAddress", "secureVipAddress", "countryId", "dataCenterInfo", "hostName", "status"),
    *("overriddenStatus", "leaseInfo", "isCoordinatingDiscoveryServer", "lastUpdatedTimestamp", "lastDirtyTimestamp"),
    *("actionType", "asgName", "port", "securePort", "metadata"),
}
LEASE_KNOWN_TO_SPRING = {
    *("renewalIntervalInSecs", "durationInSecs", "registrationTimestamp", "lastRenewalTimestamp"),
    *("evictionTimestamp", "serviceUpTimestamp"),
}


def said(**changes: Any) -> dict[str, Any]:
    whole = {
        "instanceId": "i",
        "hostName": "h",
        "app": "DEMO",
        "ipAddr": "10.0.0.1",
        "dataCenterInfo": MY_OWN,
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def read(**changes: Any) -> Record:
    return read_json(json.dumps({"instance": said(**changes)}).encode(), "DEMO")


def lease(**changes: Any) -> Lease:
    record = Record(
        **{"app": "DEMO", "id": "i", "host": "h", "ip": "10.0.0.1", "dirty_ms": 1_700_000_000_000, **changes}
    )
    return Lease(record, 0.0, 1_800_000_000_000)


def test_the_least_a_client_may_send_gets_netflixs_defaults() -> None:
    """eureka-js-client sends little more than this."""
    assert read() == Record(
        app="DEMO", id="i", host="h", ip="10.0.0.1", status="UP", port=Port(7001, True), secure_port=Port(7002, False)
    )


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"app": "demo"}, "app", "DEMO"),
        ({"port": {"$": 8080, "@enabled": "true"}}, "port", Port(8080, True)),
        ({"port": {"$": "8080", "@enabled": True}}, "port", Port(8080, True)),
        ({"port": {"$": 8080, "@enabled": False}}, "port", Port(8080, False)),
        ({"port": {"$": 8080}}, "port", Port(8080, True)),
        ({"port": None}, "port", Port(7001, True)),
        ({"status": "down"}, "status", "DOWN"),
        ({"status": "BOGUS"}, "status", "UNKNOWN"),
        ({"status": None}, "status", "UP"),
        ({"overriddenstatus": "DOWN"}, "overridden", "DOWN"),
        ({"overriddenStatus": "DOWN"}, "overridden", "DOWN"),
        ({"overriddenStatus": None}, "overridden", "UNKNOWN"),
        ({"lastDirtyTimestamp": 1_795_240_316_528}, "dirty_ms", 1_795_240_316_528),
        ({"lastDirtyTimestamp": "1795240316528"}, "dirty_ms", 1_795_240_316_528),
        ({"lastDirtyTimestamp": None}, "dirty_ms", None),
        ({"isCoordinatingDiscoveryServer": True}, "coordinating", True),
        ({"isCoordinatingDiscoveryServer": "false"}, "coordinating", False),
        ({"asgName": None, "homePageUrl": None, "sid": "na"}, "asg", None),
        ({"leaseInfo": {"durationInSecs": 6, "renewalIntervalInSecs": "2"}}, "duration", 6),
        ({"leaseInfo": {"durationInSecs": 0}}, "duration", 90),
        ({"leaseInfo": None}, "duration", 90),
        ({"metadata": {"a": 5, "b": True, "c": None, "d": 1.5, "@class": "x"}}, "metadata",
         {"a": "5", "b": "true", "c": "null", "d": "1.5"}),
        ({"metadata": {"@class": "java.util.Collections$EmptyMap"}}, "metadata", {}),
        ({"metadata": None}, "metadata", {}),
        ({"instanceId": ...}, "id", "h"),
        ({"unknown": {"field": 1}}, "id", "i"),
        ({"dataCenterInfo": {"@class": "com.netflix.appinfo.MyDataCenterInfo", "name": "MyOwn"}}, "data_center",
         DataCenter()),
    ],
)  # fmt: skip
def test_clients_write_the_same_in_many_ways(changes: dict[str, Any], field: str, value: object) -> None:
    """Numbers, strings and booleans for each other, explicit nulls, missing fields, two spellings."""
    assert getattr(read(**changes), field) == value


def test_an_amazon_instance_is_known_by_its_instance_id() -> None:
    """Without instanceId, the data center's own id comes before the host name."""
    center = {"@class": AMAZON_DATA_CENTER, "name": "Amazon", "metadata": {"instance-id": "i-0abc"}}
    record = read(instanceId=..., dataCenterInfo=center)
    assert (record.id, record.data_center.metadata) == ("i-0abc", {"instance-id": "i-0abc"})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"hostName": ...}, "Missing hostname"),
        ({"hostName": " "}, "Missing hostname"),
        ({"ipAddr": ...}, "Missing ip address"),
        ({"app": ""}, "Missing appName"),
        ({"instanceId": ""}, None),
        ({"instanceId": ..., "hostName": ...}, "Missing hostname"),
        ({"dataCenterInfo": None}, "Missing dataCenterInfo"),
        ({"dataCenterInfo": {"@class": MY_OWN["@class"]}}, "Missing dataCenterInfo Name"),
        ({"app": "other"}, "Mismatched appName, expecting DEMO but was OTHER"),
    ],
)
def test_what_is_missing_is_said_in_eurekas_words(changes: dict[str, Any], complaint: str | None) -> None:
    """The texts of Netflix's server, which clients log."""
    if complaint is None:
        assert read(**changes).id == "h"
        return
    with pytest.raises(RegistrationError) as caught:
        read(**changes)
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{bad",
        b"[]",
        b"null",
        b'{"instance": 5}',
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        b'{"instance": {"metadata": NaN}}',
        json.dumps(said()).encode(),
        *(
            json.dumps({"instance": said(**changes)}).encode()
            for changes in (
                {"app": ...},
                {"port": 8080},
                {"port": {"$": "x"}},
                {"port": {"$": 2**40}},
                {"hostName": ["h"]},
                {"dataCenterInfo": {"name": "MyOwn"}},
                {"dataCenterInfo": {"@class": "evil", "name": "MyOwn"}},
                {"dataCenterInfo": {**MY_OWN, "name": "Mine"}},
                {"metadata": {"n": {"x": 1}}},
                {"metadata": {"": "empty key"}},
                {"metadata": [1]},
                {"metadata": {"half": "\ud800"}},
                {"lastDirtyTimestamp": "soon"},
                {"lastDirtyTimestamp": 2**70},
                {"leaseInfo": "long"},
            )
        ),
    ],
    ids=lambda body: body[:60].decode(errors="replace"),
)
def test_a_body_that_is_no_registration_is_unreadable(body: bytes) -> None:
    """Nothing that a client sends raises anything else."""
    with pytest.raises(UnreadableError):
        read_json(body, "DEMO")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(sorted(KNOWN_TO_SPRING)),
)
def test_any_value_in_any_field_is_taken_or_refused_and_never_breaks_the_list(value: Any, field: str) -> None:
    """What was taken can be written in both languages, and read again."""
    try:
        record = read(**{field: value})
    except (UnreadableError, RegistrationError):
        return
    held = Lease(record, 0.0, 0)
    written = json.loads(encoding.applications([held], 1, as_json=True))
    assert written["applications"]["application"][0]["instance"][0]["instanceId"] == record.id
    ET.fromstring(encoding.applications([held], 1, as_json=False))


def test_the_json_of_an_instance_is_netflixs_field_by_field() -> None:
    """Order, strings and numbers as on the real wire."""
    text = encoding.instance(
        lease(vip="demo", home_page="http://h:8080/", metadata={"zone": "z1"}, registered_ms=1, up_ms=2, updated_ms=3),
        as_json=True,
    )
    assert text == (
        '{"instance":{"instanceId":"i","hostName":"h","app":"DEMO","ipAddr":"10.0.0.1","status":"UP",'
        '"overriddenStatus":"UNKNOWN","port":{"$":7001,"@enabled":"true"},"securePort":{"$":7002,"@enabled":"false"},'
        '"countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",'
        '"name":"MyOwn"},"leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":90,"registrationTimestamp":1,'
        '"lastRenewalTimestamp":1800000000000,"evictionTimestamp":0,"serviceUpTimestamp":2},"metadata":{"zone":"z1"},'
        '"homePageUrl":"http://h:8080/","vipAddress":"demo","isCoordinatingDiscoveryServer":"false",'
        '"lastUpdatedTimestamp":"3","lastDirtyTimestamp":"1700000000000","actionType":"ADDED"}}'
    )


def test_no_field_is_written_that_springs_reader_does_not_know() -> None:
    """With every optional field given; data centers other than Amazon's have no metadata."""
    texts = {key: key for key in ("sid", "app_group", "home_page", "status_page", "health_check", "asg", "vip")}
    full = lease(**texts, secure_health_check="s", secure_vip="v", metadata={"a": "b"}, coordinating=True)
    document = json.loads(encoding.instance(full, as_json=True))["instance"]
    assert set(document) == KNOWN_TO_SPRING
    assert set(document["leaseInfo"]) == LEASE_KNOWN_TO_SPRING
    assert set(document["dataCenterInfo"]) == {"@class", "name"}
    assert set(document["port"]) == {"$", "@enabled"}


def test_lists_are_lists_whatever_their_length() -> None:
    """Spring fails on an object where a list belongs, and on a missing list."""
    assert encoding.applications([], 1, as_json=True) == (
        '{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}'
    )
    one = json.loads(encoding.applications([lease()], 1, as_json=True))["applications"]
    assert [service["name"] for service in one["application"]] == ["DEMO"]
    assert len(one["application"][0]["instance"]) == 1
    assert one["apps__hashcode"] == "UP_1_"
    assert set(one["application"][0]) == {"name", "instance"}


def test_the_xml_of_an_empty_list_is_netflixs() -> None:
    """No prolog, two spaces."""
    assert encoding.applications([], 1, as_json=False) == (
        "<applications>\n  <versions__delta>1</versions__delta>\n  <apps__hashcode></apps__hashcode>\n</applications>"
    )


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("my_key", "my__key"),
        ("a$b", "a_-b"),
        ("1abc", "_.0031abc"),
        ("a b", "a_.0020b"),
        ("a/b", "a_.002fb"),
        ("dotted.key", "dotted.key"),
        ("a:b", "a_.003ab"),
        ("-x", "_.002dx"),
        ("ü", "_.00fc"),
        ("😀", "_.d83d_.de00"),
    ],
)
def test_metadata_keys_are_escaped_as_xstream_does(key: str, name: str) -> None:
    """Java's clients undo it; the colon, which Netflix's server leaves, is escaped too."""
    assert encoding_xml.escape_name(key) == name
    assert unescape_name(name) == key


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(), max_size=5))
def test_no_text_of_an_instance_makes_the_xml_unreadable(metadata: dict[str, str]) -> None:
    """Control characters, markup and any key: the document stays well-formed, and keys come back as they were."""
    written = {key: value.encode(errors="replace").decode() for key, value in metadata.items()}
    for text in (
        encoding.applications([lease(metadata=written)], 1, as_json=False),
        encoding.instance(lease(metadata=written), as_json=False),
    ):
        found = next(ET.fromstring(text).iter("metadata"))
        assert [unescape_name(child.tag) for child in found] == list(written)


def test_xml_registrations_are_read_like_json_ones() -> None:
    """Fargo writes this; keys are unescaped."""
    body = (
        b"<instance><instanceId>x-1</instanceId><hostName>xh</hostName><app>demo</app><ipAddr>10.0.0.9</ipAddr>"
        b'<status>UP</status><port enabled="false">8080</port><vipAddress>x</vipAddress><dataCenterInfo '
        b'class="com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"><name>MyOwn</name></dataCenterInfo>'
        b"<leaseInfo><durationInSecs>7</durationInSecs></leaseInfo><metadata><my__key>v</my__key></metadata></instance>"
    )
    assert read_xml(body, "DEMO") == Record(
        app="DEMO", id="x-1", host="xh", ip="10.0.0.9", port=Port(8080, False), vip="x", duration=7,
        metadata={"my_key": "v"},
    )  # fmt: skip


def test_what_is_written_in_xml_can_be_registered_again() -> None:
    """The two codecs are each other's inverse."""
    amazon = DataCenter(AMAZON_DATA_CENTER, "Amazon", {"instance-id": "i-0", "availability-zone": "a"})
    for held in (lease(metadata={"a_b": "<&>"}, home_page="http://h/?a=1&b=2"), lease(data_center=amazon)):
        again = read_xml(encoding.instance(held, as_json=False).encode(), "DEMO")
        assert again == held.record
        again = read_json(encoding.instance(held, as_json=True).encode(), "DEMO")
        assert again == held.record


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<instance>",
        b"<other/>",
        b"\xff",
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><instance><app>&b;</app></instance>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x><instance/>'.encode("utf-16"),
    ],
)
def test_xml_that_is_no_registration_is_unreadable(body: bytes) -> None:
    """Entities are refused before anything is expanded, in every encoding."""
    with pytest.raises(UnreadableError):
        read_xml(body, "DEMO")


def test_a_packed_body_cannot_unpack_beyond_the_limit() -> None:
    """A megabyte that unpacks to a gigabyte is refused without unpacking it."""
    assert gunzip(gzip.compress(b"x" * 1_000), 1_000) == b"x" * 1_000
    with pytest.raises(TooLargeError):
        gunzip(gzip.compress(b"x" * 1_001), 1_000)
    with pytest.raises(UnreadableError):
        gunzip(b"no gzip", 1_000)
    with pytest.raises(UnreadableError, match="cut off"):
        gunzip(gzip.compress(b"x" * 500)[:-4], 1_000)
