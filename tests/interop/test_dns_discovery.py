"""Instances from a real nameserver, and from one that misbehaves."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import resilient.discovery
from resilient import ConfigError, NoInstanceError
from resilient.discovery import Discovery
from resilient.discovery.dns import DnsDiscovery
from resilient.discovery.resolv_conf import ResolvConf
from tests.dnsmasq import Dnsmasq, ScriptedNameserver
from tests.scripted_registry import free_port
from tests.waiting import wait_until

Ask = Callable[[str, str], Any]

RECORDS = [
    *(f"--host-record=tasks.many.ex.test,127.0.1.{number}" for number in range(1, 101)),
    "--srv-host=_web._tcp.ex.test,h1.ex.test,8080,10,60",
    "--srv-host=_web._tcp.ex.test,h2.ex.test,8081,10,20",
    "--srv-host=_web._tcp.ex.test,h3.ex.test,8082,20,60",
    "--srv-host=_absent._tcp.ex.test",
    *(f"--host-record=h{number}.ex.test,127.0.0.{number}" for number in (1, 2, 3)),
    "--cname=alias.ex.test,h1.ex.test",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Dnsmasq]:
    with Dnsmasq(RECORDS, ttl=7) as found:
        yield found


@pytest.fixture(params=["sync", "async"])
def hosts(request: pytest.FixtureRequest) -> Ask:
    """`hosts(url, service)`: the addresses found in one colour, or what went wrong in words."""

    async def in_tasks(url: str, service: str) -> list[str]:
        async with Discovery.from_url(url) as found:
            return [f"{one.host}:{one.port}" for one in await found.wait_async(service, timeout=1.0)]

    def ask(url: str, service: str) -> Any:
        try:
            if request.param == "async":
                return asyncio.run(in_tasks(url, service))
            with Discovery.from_url(url) as found:
                return [f"{one.host}:{one.port}" for one in found.wait(service, timeout=1.0)]
        except NoInstanceError as error:
            return str(error)

    return ask


def test_a_swarm_of_a_hundred_tasks_comes_by_tcp(server: Dnsmasq, hosts: Ask) -> None:
    """`tasks.<service>` with a configured port; the answer does not fit into a datagram."""
    found = hosts(f"dns://tasks.{{service}}.ex.test:8080?nameserver={server.address}", "many")
    assert sorted(found) == sorted(f"127.0.1.{number}:8080" for number in range(1, 101))


def test_srv_records_bring_ports_and_weights(server: Dnsmasq, hosts: Ask) -> None:
    """The lowest priority only; the service is named after the first label."""
    url = f"srv://_web._tcp.ex.test?nameserver={server.address}"
    assert hosts(url, "web") == ["127.0.0.1:8080", "127.0.0.2:8081"]
    with Discovery.from_url(url) as found:
        assert [one.weight for one in found.wait("web")] == [60.0, 20.0]


@pytest.mark.parametrize("name", ["absent", "nothing"])
def test_what_is_not_there_is_an_empty_service_not_an_outage(server: Dnsmasq, hosts: Ask, name: str) -> None:
    """The target `.` and a name that does not exist."""
    words = hosts(f"srv://_{{service}}._tcp.ex.test?nameserver={server.address}", name)
    assert f"no instance of '{name}' is known" in words
    assert "and lists nothing" in words


def test_several_names_and_an_alias(server: Dnsmasq) -> None:
    """Each a service of its own name; TLS by option."""
    url = f"dns://alias.ex.test:80,h2.ex.test:81?nameserver={server.address}&secure=true"
    with Discovery.from_url(url) as found:
        (alias,), (other,) = found.wait("alias.ex.test"), found.wait("H2.ex.test")
    assert (alias.host, alias.port, alias.secure, other.host, other.port) == ("127.0.0.1", 80, True, "127.0.0.2", 81)


def test_a_second_nameserver_takes_over(server: Dnsmasq, hosts: Ask) -> None:
    """The first is closed: that is told at once, not waited for."""
    url = f"dns://{{service}}.ex.test:80?nameserver=127.0.0.1:{free_port()},{server.address}"
    assert hosts(url, "h1") == ["127.0.0.1:80"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda question: question[:2] + b"\x81\x80" + b"\xff" * 30, "its answer can not be read"),
        (lambda question: question, "belongs to another question"),
        (lambda question: None, "no answer within 0.3 s"),
        (lambda question: b"xx" + question[2:], "no answer within 0.3 s"),
    ],
    ids=["garbage", "echo", "silence", "forged"],
)
def test_a_nameserver_that_misbehaves_is_named_with_what_it_does(
    hosts: Ask, reply: Callable[[bytes], bytes | None], words: str
) -> None:
    """In the words of the error; what others send in its name is not heard."""
    with ScriptedNameserver() as bad:
        bad.reply = reply
        found = hosts(f"dns://web.test:80?nameserver={bad.address}&timeout=0.3&family=4", "web.test")
    assert words in found
    assert bad.address in found


def test_a_lost_datagram_is_sent_again(hosts: Ask, server: Dnsmasq) -> None:
    """Within the time of the question, so that nothing is down."""
    lost: list[bytes] = []

    def lose_the_first(question: bytes) -> bytes | None:
        lost.append(question)
        if len(lost) == 1:
            return None
        import dns.message
        import dns.rrset

        response = dns.message.make_response(dns.message.from_wire(question))
        response.answer.append(dns.rrset.from_text("web.test.", 9, "IN", "A", "127.0.0.5"))
        return response.to_wire()

    with ScriptedNameserver() as bad:
        bad.reply = lose_the_first
        assert hosts(f"dns://web.test:80?nameserver={bad.address}&timeout=0.6", "web.test") == ["127.0.0.5:80"]
    assert len(lost) == 2


def test_names_from_outside_do_not_fill_the_memory(
    server: Dnsmasq, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many services are followed, no more, and that is said once; what is no name is not asked for."""
    monkeypatch.setattr(DnsDiscovery, "most", 3)
    with DnsDiscovery(f"dns://{{service}}.ex.test:80?nameserver={server.address}") as found:
        for name in ("h1", "no name", "a/b", "h2", "h3", "h4", "h5"):
            assert found.instances(name) == ()
        wait_until(lambda: found.instances("h3"), what="the third")
        assert len(found._sources) == len(found._followed) == 3
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "dns://{service}.ex.test:80: 3 services are followed, 'h4' and more are not"
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("dns://producer", "'producer' names no port, and an address record has none: write dns://producer:8080"),
        ("dns://", r"write a name, or one with {service} in it: dns://tasks.{service}:8080"),
        ("srv://", r"srv://_{service}._tcp.example.org"),
        ("srv://_web._tcp.ex.test:80", "names a port, but SRV records bring their own"),
        ("dns://a..b:80", "'a..b' is no name that DNS could know"),
        ("dns://{services}:80", "is no name that DNS could know"),
        ("dns://a:80/x", "write a name"),
        ("dns://user:secret@a:80", "write a name"),
        ("dns://a:x", "'a:x' is no host or host:port"),
        ("dns://a:80?nameservers=1.1.1.1", "unknown option 'nameservers'.*did you mean 'nameserver'"),
        ("dns://a:80?nameserver=a b", "'a b' is no host or host:port"),
        ("dns://a:80?priorities=all", "unknown option 'priorities'"),
        ("srv://a?priorities=some", "priorities must be lowest or all, not 'some'"),
        ("dns://a:80?family=5", "family must be 4 or 6 or any"),
        ("dns://{service}:80?service=x", "service names the service of a single name"),
        ("dns://{service}:80,x{service}:80", "only one name may have {service} in it"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url: str, words: str) -> None:
    """What is wrong, where, and what to write; no password is shown."""
    with pytest.raises(ConfigError, match=words) as caught:
        Discovery.from_url(url)
    assert "secret" not in str(caught.value)


def test_without_dnspython_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not in a thread."""
    monkeypatch.delitem(sys.modules, "resilient.discovery.dns_look", raising=False)
    monkeypatch.delattr(resilient.discovery, "dns_look", raising=False)
    monkeypatch.setitem(sys.modules, "dns.message", None)
    with pytest.raises(ConfigError, match=r"pip install 'resilient-patterns\[dns\]'"):
        Discovery.from_url("dns://a:80")


def test_resolv_conf_is_read_as_its_manual_says() -> None:
    """Nameservers, the last search list, ndots; comments and unknown lines are passed over."""
    found = ResolvConf.parse(
        "# x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0 ; y\nnameserver\ndomain a.test\nsearch b.test c.test.\n"
        "options timeout:1 ndots:2\nsortlist 1\n\n"
    )
    assert found == ResolvConf(("10.0.0.1", "fe80::1"), ("b.test", "c.test"), 2)
    assert found.names("x.y") == ("x.y.b.test.", "x.y.c.test.", "x.y.")
    assert found.names("x.y.z") == ("x.y.z.", "x.y.z.b.test.", "x.y.z.c.test.")
    assert found.names("x.") == ("x.",)
    assert ResolvConf.parse("") == ResolvConf()
