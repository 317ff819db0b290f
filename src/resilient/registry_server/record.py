"""What the registry knows of one instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

STATUSES = frozenset({"UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"})

DEFAULT_DATA_CENTER = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"
AMAZON_DATA_CENTER = "com.netflix.appinfo.AmazonInfo"


@dataclass(frozen=True, slots=True)
class Port:
    """A port and whether it is to be used."""

    number: int
    enabled: bool


# Netflix's defaults, also where a client names no port.
DEFAULT_PORT = Port(7001, enabled=True)
DEFAULT_SECURE_PORT = Port(7002, enabled=False)


@dataclass(frozen=True, slots=True)
class DataCenter:
    """Where an instance runs; only Amazon's has metadata."""

    kind: str = DEFAULT_DATA_CENTER
    name: str = "MyOwn"
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One instance: what it said when it registered, and below that what the registry adds. Never changed, replaced.

    Times are epoch milliseconds, as on the wire; `duration` and `renewal_interval` are seconds.
    """

    app: str
    id: str
    host: str
    ip: str
    status: str = "UP"
    overridden: str = "UNKNOWN"
    port: Port = DEFAULT_PORT
    secure_port: Port = DEFAULT_SECURE_PORT
    country: int = 1
    data_center: DataCenter = field(default_factory=DataCenter)
    renewal_interval: int = 30
    duration: int = 90
    metadata: Mapping[str, str] = field(default_factory=dict)
    sid: str | None = None
    app_group: str | None = None
    home_page: str | None = None
    status_page: str | None = None
    health_check: str | None = None
    secure_health_check: str | None = None
    vip: str | None = None
    secure_vip: str | None = None
    asg: str | None = None
    coordinating: bool = False
    dirty_ms: int | None = None  # when the client last changed it; the registry fills in what is missing

    action: str = "ADDED"
    updated_ms: int = 0
    registered_ms: int = 0
    up_ms: int = 0
    evicted_ms: int = 0


class Lease:
    """A record and when it was last heard of. Never changed: a renewal is a new lease.

    `json` and `xml` keep the written forms of the record, split where the time of the last renewal belongs: instances
    are listed far more often than they change.
    """

    __slots__ = ("json", "record", "renewed", "renewed_ms", "xml")

    def __init__(self, record: Record, renewed: float, renewed_ms: int) -> None:
        self.record = record
        self.renewed = renewed  # on the monotonic clock, in seconds
        self.renewed_ms = renewed_ms
        self.json: tuple[str, str] | None = None
        self.xml: tuple[str, str] | None = None

    def heard(self, now: float, now_ms: int) -> Lease:
        """The same record, last heard of now."""
        lease = Lease(self.record, now, now_ms)
        lease.json, lease.xml = self.json, self.xml
        return lease


def hashcode(leases: Iterable[Lease]) -> str:
    """Eureka's check sum of a list: `DOWN_1_UP_3_`, by status name; clients compare it with their own copy."""
    return hashcode_of(Counter(lease.record.status for lease in leases))


def hashcode_of(statuses: Mapping[str, int]) -> str:
    """The same from how many instances have each status."""
    return "".join(f"{status}_{count}_" for status, count in sorted(statuses.items()) if count)


def resulting_status(said: str, overridden: str, before: str | None) -> str:
    """The status of a registration: the first of Eureka's rules that applies.

    An instance that is not ready says so itself; an operator's override is next; then what the registry had, so that
    an instance taken out of service does not come back by registering again; then what the instance says.
    """
    if said not in {"UP", "OUT_OF_SERVICE"}:
        return said
    if overridden != "UNKNOWN":
        return overridden
    if before in {"UP", "OUT_OF_SERVICE"}:
        return before
    return said
