"""Eureka's JSON, read tolerantly and written exactly; no I/O.

The reader takes what real servers of every age send: single objects where lists belong, numbers as text, missing and
extra fields. The writer keeps to the fields and types that a strict reader (Spring's) accepts.
Source: the Netflix server and client 1.10.18, observed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from sys import intern
from typing import Any, NamedTuple

from resilient.discovery.instance import Instance

_DATA_CENTER = {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}


class Listed(NamedTuple):
    """One instance as a server lists it, usable or not."""

    service: str  # in lower case
    id: str
    status: str
    deleted: bool
    instance: Instance | None  # None when it is not UP, is deleted, or can not be read
    problem: str = ""  # why it can not be read


class Applications(NamedTuple):
    """One answer to `/apps/` or `/apps/delta`."""

    hashcode: str | None  # `STATUS_count_` of everything that the server lists; None when it does not say
    listed: Iterator[Listed]


def read_applications(body: bytes) -> Applications:
    """What a server lists, or what changed there lately.

    Raises:
        ValueError: when the body is no application list at all.
    """
    try:
        applications = json.loads(body)["applications"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"no application list: {body[:60]!r}") from error
    if not isinstance(applications, dict):
        raise ValueError(f"no application list: {body[:60]!r}")  # noqa: TRY004  # the body is wrong, not an argument
    hashcode = applications.get("apps__hashcode")
    return Applications(hashcode if isinstance(hashcode, str) else None, _listed(applications))


def _listed(applications: dict[str, Any]) -> Iterator[Listed]:
    for application in _many(applications.get("application")):
        if not isinstance(application, dict):
            yield Listed("", "", "", deleted=False, instance=None, problem=f"{_short(application)} is no application")
            continue
        for raw in _many(application.get("instance")):
            yield _one(raw, application.get("name"))


def _one(raw: Any, application: object) -> Listed:
    """Tolerant: what can be said of it is said, however much of it is wrong."""
    if not isinstance(raw, dict):
        return Listed("", "", "", deleted=False, instance=None, problem=f"{_short(raw)} is no instance")
    status = raw.get("status")
    status = "UP" if status is None else str(status).upper()  # missing: UP, the default of Netflix's own model
    service = str(raw.get("app") or application or "").lower()
    name = _id(raw)
    if raw.get("actionType") == "DELETED":
        return Listed(service, name, status, deleted=True, instance=None)
    try:
        instance = _instance(raw, service, name) if status == "UP" else None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        return Listed(service, name, status, deleted=False, instance=None, problem=str(error))
    return Listed(service, name, status, deleted=False, instance=instance)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _many(value: Any) -> list[Any]:
    """A list, the one thing that stands where a list belongs, or nothing."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _amazon(raw: dict[str, Any]) -> dict[str, Any]:
    center = raw.get("dataCenterInfo")
    found = center.get("metadata") if isinstance(center, dict) else None
    return found if isinstance(found, dict) else {}


def _id(raw: dict[str, Any]) -> str:
    """Netflix's order: the id, the name that Amazon gave the machine, the host."""
    return str(
        raw.get("instanceId") or _amazon(raw).get("instance-id") or raw.get("hostName") or raw.get("ipAddr") or ""
    )


def _instance(raw: dict[str, Any], service: str, name: str) -> Instance:
    """The instance; raises when it can not be read."""
    host = raw.get("hostName") or raw.get("ipAddr")
    if not service or not isinstance(host, str):
        raise ValueError(f"it has no {'address' if service else 'service'}")
    given = raw.get("metadata")
    metadata = {  # keys, zones and the like are the same text in many instances: kept once
        intern(str(key)): "" if value is None else intern(str(value))
        for key, value in (given if isinstance(given, dict) else {}).items()
        if key != "@class"
    }
    port, secure = _port(raw)
    return Instance(
        service=intern(service),
        host=host,
        port=port,
        id=name,
        secure=secure,
        zone=metadata.get("zone") or _amazon(raw).get("availability-zone"),
        weight=_weight(metadata.get("weight")),
        metadata=metadata,
    )


def _port(raw: dict[str, Any]) -> tuple[int, bool]:
    """The plain port when it is enabled, else the secure one."""
    for key, secure, usually in (("port", False, True), ("securePort", True, False)):
        value = raw.get(key)
        if value is None:
            continue
        number, enabled = (value.get("$"), value.get("@enabled")) if isinstance(value, dict) else (value, None)
        if not (usually if enabled is None else str(enabled).lower() == "true"):
            continue
        try:
            port = int(str(number))
        except ValueError:
            raise ValueError(f"port {_short(number)} is no number") from None
        if not 0 < port < 65536:
            raise ValueError(f"port {port} is not one of 1 to 65535")
        return port, secure
    raise ValueError("none of its ports is enabled")


def _weight(text: str | None) -> float:
    try:
        weight = float(text) if text is not None else 1.0
    except ValueError:
        return 1.0
    return weight if weight > 0 and math.isfinite(weight) else 1.0


def write_instance(
    instance: Instance, *, address: str, status: str, dirty_ms: int, renew_interval: float, lease: float
) -> bytes:
    """The body of a registration.

    Args:
        instance: what is registered; `id` and `host` known.
        address: its address, for readers that want no name.
        status: UP, DOWN, OUT_OF_SERVICE or STARTING.
        dirty_ms: when it last changed, in epoch milliseconds.
        renew_interval: seconds between renewals; on the wire in whole seconds, at least 1.
        lease: seconds until it may be dropped unrenewed; rounded up to whole seconds.
    """
    metadata = dict(instance.metadata)
    if instance.zone is not None:
        metadata.setdefault("zone", instance.zone)
    if instance.weight != 1.0:
        metadata.setdefault("weight", f"{instance.weight:g}")
    host = f"[{instance.host}]" if ":" in instance.host else instance.host
    body = {
        "instanceId": instance.id,
        "hostName": instance.host,
        "app": instance.service.upper(),
        "ipAddr": address,
        "status": status,
        "overriddenStatus": "UNKNOWN",
        "port": {"$": instance.port, "@enabled": str(not instance.secure).lower()},
        "securePort": {"$": instance.port if instance.secure else 443, "@enabled": str(instance.secure).lower()},
        "countryId": 1,
        "dataCenterInfo": _DATA_CENTER,
        "leaseInfo": {
            "renewalIntervalInSecs": max(1, round(renew_interval)),
            "durationInSecs": max(1, math.ceil(lease)),
            "registrationTimestamp": 0,
            "lastRenewalTimestamp": 0,
            "evictionTimestamp": 0,
            "serviceUpTimestamp": 0,
        },
        "metadata": metadata,
        "homePageUrl": f"{'https' if instance.secure else 'http'}://{host}:{instance.port}/",
        "vipAddress": instance.service,
        "secureVipAddress": instance.service,
        "isCoordinatingDiscoveryServer": "false",
        "lastUpdatedTimestamp": str(dirty_ms),
        "lastDirtyTimestamp": str(dirty_ms),
    }
    return json.dumps({"instance": body}).encode()
