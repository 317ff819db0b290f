"""Asking DNS for the addresses of one service, again and again; decides only, sends nothing itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.CNAME  # these are loaded by name when the first answer is read, where no fork waits for it
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
from dns.rdatatype import RdataType

from resilient.clock import Clock
from resilient.discovery.instance import Instance
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.source import CONFIRM, Doubt, Source, told_once
from resilient.discovery.steps import Answer, Exchange

LONGEST = 30.0  # seconds: Docker gives its own names 600, and would be listened to for ten minutes
SHORTEST = 1.0  # Consul gives 0, which would mean a question per call
_EMPTY = 5.0  # seconds at most after an empty answer: the service may be starting
_TRUNCATED = 0x02  # in the third byte of a message
_FEW = 0.01  # for the weight 0 of an SRV record, "a very small chance of being selected" (RFC 2782)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for one service.

    Attributes:
        service: its name here.
        names: absolute names in the order in which they are tried.
        port: of every address; None: SRV records say it.
        families: the record types of addresses, in the order in which they are tried.
        every: whether targets of all priorities are listed, not only those of the best that has any.
        secure: whether the ports speak TLS.
    """

    service: str
    names: tuple[str, ...]
    port: int | None
    families: tuple[RdataType, ...] = (RdataType.A, RdataType.AAAA)
    every: bool = False
    secure: bool = False


@dataclass(slots=True)
class _Found:
    """The records of one answer; `ttl` None when it had none and did not say for how long."""

    records: Sequence[Any] = ()
    glue: dict[tuple[str, RdataType], list[str]] = field(default_factory=dict)
    ttl: float | None = None


class _FailedError(Exception):
    """No nameserver answers: nothing is learnt."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.answer = answer


class DnsLook(Source):
    """The job that keeps one service fresh.

    Args:
        question: what is asked.
        servers: the nameservers.
        roster: who learns the answer.
        clock: where time comes from.
        rng: where the spread comes from: a function like `random.random`.
    """

    def __init__(
        self,
        question: Question,
        servers: Servers,
        roster: Roster,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(servers, roster, LONGEST, clock, rng)
        self._question = question
        self._doubt = Doubt()
        self._found = _Found()
        self._ttl = LONGEST
        self._targets: dict[str, list[str]] = {}  # what each SRV target resolved to when it last did
        self._asked: set[str] = set()  # what was asked in this look
        self._tell = told_once(f"{servers.name}: {question.service}:")

    def _age(self) -> float:
        return self._roster.age(self._question.service)

    def _look(self) -> Exchange[None]:
        self._ttl = LONGEST
        before, self._asked = self._asked, set()
        try:
            found = yield from (self._addresses() if self._question.port else self._services())
        except _FailedError as failed:
            self._failed(failed.answer)
            self._asked |= before
            return
        self._servers.forget(before - self._asked)  # targets that are gone may have failed when they were asked last
        service = self._question.service
        unique = {(instance.host, instance.port): instance for instance in found}
        fresh = tuple(unique[key] for key in sorted(unique))  # servers turn the order with each answer
        ttl = max(self._ttl if fresh else min(self._ttl, _EMPTY), SHORTEST)
        if self._doubt.believes(len(self._roster.get(service)), len(fresh)):
            self._roster.update(service, fresh)
            self._again(ttl)
        else:
            self._again(min(ttl, CONFIRM))

    def _addresses(self) -> Exchange[list[Instance]]:
        assert self._question.port is not None
        for name in self._question.names:
            addresses = yield from self._resolve(name)
            if addresses:
                return [self._instance(address, self._question.port) for address in addresses]
        return []

    def _services(self) -> Exchange[list[Instance]]:
        """The SRV records' targets; a single target `.` says that the service is not there."""
        found = _Found()
        for name in self._question.names:
            found = yield from self._ask(name, RdataType.SRV)
            if found.records:
                break
        records = [record for record in found.records if str(record.target) != "."]
        every_zero = not any(record.weight for record in records)
        instances: list[Instance] = []
        lost: list[str] = []
        for priority in sorted({record.priority for record in records}):
            for record in (record for record in records if record.priority == priority):
                target = str(record.target)
                addresses = yield from self._target(target, found)
                if not addresses:
                    lost.append(f"the SRV target {target} has no address")
                share = (1.0 if every_zero else record.weight or _FEW) / max(len(addresses), 1)
                notes = {"target": target.rstrip("."), "priority": str(priority)}
                instances += [self._instance(address, record.port, share, notes) for address in addresses]
            if instances and not self._question.every:
                break
        self._tell(lost)
        self._targets = {
            key: value for key, value in self._targets.items() if any(str(r.target) == key for r in records)
        }
        return instances

    def _target(self, target: str, found: _Found) -> Exchange[list[str]]:
        for family in self._question.families:
            if glue := found.glue.get((target.lower(), family)):
                return glue
        try:
            addresses = yield from self._resolve(target)
        except _FailedError:
            return self._targets.get(target, [])
        self._targets[target] = addresses
        return addresses

    def _resolve(self, name: str) -> Exchange[list[str]]:
        """The addresses of the first family that has any: a dual-stack host is one instance, not two."""
        for family in self._question.families:
            found = yield from self._ask(name, family)
            if found.records:
                return [record.address for record in found.records]
        return []

    def _ask(self, name: str, kind: RdataType) -> Exchange[_Found]:
        question = dns.message.make_query(name, kind, use_edns=False)
        truncated = False

        def accept(answer: Answer) -> str:
            nonlocal truncated
            if not answer.good:
                return str(answer)
            try:
                truncated = len(answer.body) > 2 and bool(answer.body[2] & _TRUNCATED)
                if truncated:  # perhaps in the middle of a record
                    return ""
                response = dns.message.from_wire(answer.body, ignore_trailing=True)
                if not question.is_response(response):
                    return "its answer belongs to another question"
                rcode = response.rcode()
                if rcode not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                    return f"{dns.rcode.to_text(rcode)} for {name}"
                self._found = _read(response)
            except (dns.exception.DNSException, ValueError) as error:
                return f"its answer can not be read: {str(error) or type(error).__name__}"
            return ""

        purpose = f"{name} {kind.name}"
        self._asked.add(purpose)
        for method in ("UDP", "TCP"):
            answer = yield from self._servers.ask(
                method, "", accept, body=question.to_wire(), read=True, purpose=purpose
            )
            if answer.error:
                raise _FailedError(answer)
            if not truncated:
                break
        else:
            raise _FailedError(Answer(error=f"the answer for {name} is truncated, by TCP too"))
        if self._found.ttl is not None:
            self._ttl = min(self._ttl, self._found.ttl)
        return self._found

    def _instance(
        self, address: str, port: int, weight: float = 1.0, metadata: dict[str, str] | None = None
    ) -> Instance:
        service = self._question.service
        return Instance(
            service, address, port, f"{address}:{service}:{port}", self._question.secure, None, weight, metadata or {}
        )


def _read(response: Any) -> _Found:
    chain = response.resolve_chaining()
    found = _Found(list(chain.answer) if chain.answer is not None else [])
    if chain.answer is not None or response.authority:
        found.ttl = float(chain.minimum_ttl)
    for rrset in response.additional:
        if rrset.rdtype in {RdataType.A, RdataType.AAAA}:
            found.glue[str(rrset.name).lower(), rrset.rdtype] = sorted(record.address for record in rrset)
    return found
