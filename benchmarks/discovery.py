"""Discovery: a lookup while thousands of instances change beneath it, what a delta and a full list cost, memory."""

from __future__ import annotations

import gc
import json
import statistics
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.measure import Effort
from benchmarks.report import Goal
from resilient.clock import SYSTEM_CLOCK
from resilient.discovery.eureka import EurekaDiscovery
from resilient.discovery.eureka_mirror import Mirror
from resilient.discovery.eureka_wire import read_applications
from resilient.discovery.instance import Known
from resilient.discovery.roster import Roster

TITLE: Final = "discovery"
_EACH = 10  # instances of a service
_CHANGED = 10  # instances in a delta
_LOOKUPS = 20_000
_WIDE = 34


def show(effort: Effort) -> list[Goal]:
    """Measure, print, compare with the goals."""
    count = effort.services * _EACH
    still, moving, replaced = _lookups(count, effort)
    many, one = (_Fleet(count, services) for services in (effort.services, 1))
    deltas = {fleet.services: fleet.delta(effort.rounds) for fleet in (many, one)}
    print(f"\n{TITLE}, {count:,} instances\n{'':{_WIDE}} {'ns':>8}")
    print(f"{'instances(), nothing changes':{_WIDE}} {still:8,.0f}")
    print(f"{'instances(), all change below':{_WIDE}} {moving:8,.0f}   ({replaced:,} lists replaced meanwhile)")
    print(f"{'':{_WIDE}} {'ms':>8} {'full, ms':>9} {'bytes each':>11}")
    for fleet in (many, one):
        name = f"{_CHANGED} changed, {fleet.services:,} service{'s' if fleet.services > 1 else ''}"
        full, memory = fleet.full, fleet.memory
        print(f"{name:{_WIDE}} {deltas[fleet.services] * 1e3:8.2f} {full * 1e3:9.0f} {memory:11,.0f}")
    return [
        Goal(f"{TITLE}: ns of CPU for instances() while everything changes <= 300", moving, 300),
        Goal(f"{TITLE}: ms for a delta of {_CHANGED}, many services <= 5", deltas[many.services] * 1e3, 5),
        Goal(f"{TITLE}: ms for a delta of {_CHANGED}, one service <= 5", deltas[one.services] * 1e3, 5),
        Goal(f"{TITLE}: bytes per instance <= 1,024", many.memory if count >= 1000 else 0.0, 1024),
    ]


class _Fleet:
    """A registry's full list, taken in: what it cost."""

    def __init__(self, count: int, services: int) -> None:
        self.services = services
        self._raw = [_raw(f"service-{number % services}", number) for number in range(count)]
        self._mirror, self._roster = Mirror(), Roster(SYSTEM_CLOCK)
        body = _body(self._raw, count)
        self.full = _cpu(lambda: Roster(SYSTEM_CLOCK).replace(Mirror().fill(read_applications(body))))
        gc.collect()
        tracemalloc.start()
        self._roster.replace(self._mirror.fill(read_applications(body)))
        gc.collect()
        self.memory = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.stop()

    def delta(self, rounds: int) -> float:
        """Seconds to read, apply, check and publish one in which some moved to another port; the least counts."""
        least = float("inf")
        for turn in range(rounds * 4):
            some = self._raw[:: max(1, len(self._raw) // _CHANGED)][:_CHANGED]
            changed = [raw | {"port": {"$": 9000 + turn, "@enabled": "true"}} for raw in some]
            body = _body(changed, len(self._raw))
            least = min(least, _cpu(lambda body=body: self._apply(body)))  # type: ignore[misc]  # bound now
        return least

    def _apply(self, body: bytes) -> None:
        answer = read_applications(body)
        changed = self._mirror.apply(answer)
        assert answer.hashcode == self._mirror.hashcode
        self._roster.amend(changed)


def _lookups(count: int, effort: Effort) -> tuple[float, float, int]:
    """Nanoseconds of this thread per lookup, alone and while another thread replaces everything; how often it did."""
    found = EurekaDiscovery("eureka://registry.invalid")
    found._refresh.settled = True  # no loop: what is measured is the lookup alone
    lists = [_known(count, effort.services, port) for port in (8000, 8001)]
    found._roster.replace(lists[0])
    still = min(_lookup(found) for _ in range(effort.rounds))
    done, replaced = threading.Event(), [0]

    def replace() -> None:
        while not done.is_set():
            replaced[0] += 1
            found._roster.replace(lists[replaced[0] % 2])

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        bursts: list[float] = []
        end = time.monotonic() + effort.rounds * effort.period
        while not bursts or time.monotonic() < end:
            bursts.append(_lookup(found))
        moving = statistics.fmean(bursts)
    finally:
        done.set()
        writer.join()
    return still, moving, replaced[0]


def _known(count: int, services: int, port: int) -> Known:
    listed = [_raw(f"service-{number % services}", number, port) for number in range(count)]
    return Mirror().fill(read_applications(_body(listed, count)))


def _lookup(found: EurekaDiscovery) -> float:
    instances = found.instances
    began = time.thread_time_ns()
    for _ in range(_LOOKUPS):
        instances("service-0")
    return (time.thread_time_ns() - began) / _LOOKUPS


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _raw(service: str, number: int, port: int = 8080) -> dict[str, Any]:
    host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return {
        "instanceId": f"{host}:{service}:8080", "hostName": host, "app": service.upper(), "ipAddr": host,
        "status": "UP", "overriddenStatus": "UNKNOWN", "port": {"$": port, "@enabled": "true"},
        "securePort": {"$": 8443, "@enabled": "false"}, "countryId": 1,
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
        "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90, "registrationTimestamp": 1_795_240_177_594},
        "metadata": {"zone": f"zone-{number % 3}", "management.port": "8081"}, "homePageUrl": f"http://{host}:8080/",
        "vipAddress": service, "lastUpdatedTimestamp": "1795240177595", "actionType": "MODIFIED",
    }  # fmt: skip


def _body(listed: Sequence[dict[str, Any]], total: int) -> bytes:
    applications: dict[str, list[dict[str, Any]]] = {}
    for raw in listed:
        applications.setdefault(raw["app"], []).append(raw)
    found = [{"name": name, "instance": these} for name, these in applications.items()]
    return json.dumps({"applications": {"apps__hashcode": f"UP_{total}_", "application": found}}).encode()
