"""Eureka's JSON, read tolerantly and written exactly; no I/O.

The reader takes what real servers of every age send: single objects where lists belong, numbers as text, missing and
extra fields. The writer keeps to the fields and types that a strict reader (Spring's) accepts.
Source: the Netflix server and client 1.10.18, observed.
"""

from __future__ import annotations

import json
import math
from typing import Any

from resilient.discovery.instance import Instance

_DATA_CENTER = {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}


def read_applications(body: bytes) -> tuple[dict[str, tuple[Instance, ...]], int, int]:
    """The UP instances by service (lower case, in order of ids), how many could not be read, how many are listed.

    Raises:
        ValueError: when the body is no application list at all.
    """
    try:
        applications = json.loads(body)["applications"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"no application list: {body[:60]!r}") from error
    if not isinstance(applications, dict):
        raise ValueError(f"no application list: {body[:60]!r}")  # noqa: TRY004  # the body is wrong, not an argument
    services: dict[str, dict[str, Instance]] = {}
    skipped = listed = 0
    for application in _many(applications.get("application")):
        if not isinstance(application, dict):
            skipped += 1
            continue
        for raw in _many(application.get("instance")):
            listed += 1
            try:
                instance = _instance(raw, application.get("name"))
            except (TypeError, ValueError, KeyError, AttributeError):
                skipped += 1
                continue
            if instance is not None:
                services.setdefault(instance.service, {})[instance.id] = instance
    return {name: tuple(found[key] for key in sorted(found)) for name, found in services.items()}, skipped, listed


def _many(value: Any) -> list[Any]:
    """A list, the one thing that stands where a list belongs, or nothing."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _instance(raw: dict[str, Any], application: object) -> Instance | None:
    """The instance, or None when it is not UP; raises when it can not be read."""
    status = raw.get("status")
    if status is not None and str(status).upper() != "UP":  # missing: UP, the default of Netflix's own model
        return None
    service = str(raw.get("app") or application or "").lower()
    host = raw.get("hostName") or raw.get("ipAddr")
    if not service or not isinstance(host, str):
        raise ValueError("an instance without a name or an address")
    center = raw.get("dataCenterInfo")
    amazon = center.get("metadata") if isinstance(center, dict) else None
    amazon = amazon if isinstance(amazon, dict) else {}
    given = raw.get("metadata")
    metadata = {
        str(key): "" if value is None else str(value)
        for key, value in (given if isinstance(given, dict) else {}).items()
        if key != "@class"
    }
    port, secure = _port(raw)
    return Instance(
        service=service,
        host=host,
        port=port,
        id=str(raw.get("instanceId") or amazon.get("instance-id") or host),
        secure=secure,
        zone=metadata.get("zone") or amazon.get("availability-zone"),
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
        port = int(str(number))
        if not 0 < port < 65536:
            raise ValueError(f"port {port}")
        return port, secure
    raise ValueError("no port is enabled")


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
