"""An instance as JSON, field by field as Netflix's server writes it."""

from __future__ import annotations

import json
from typing import Any

from resilient.registry_server.fields import EMPTY_MAP, lease_after, lease_before, optional
from resilient.registry_server.record import AMAZON_DATA_CENTER, DataCenter, Lease, Port, Record


def full(lease: Lease) -> str:
    """Every field."""
    before, after = lease.json or parts(lease)
    return f"{before}{lease.renewed_ms}{after}"


def compact(lease: Lease) -> str:
    """Only what is needed to call it."""
    record = lease.record
    fields = {
        "instanceId": record.id,
        "app": record.app,
        "ipAddr": record.ip,
        "vipAddress": record.vip,
        "secureVipAddress": record.secure_vip,
        "dataCenterInfo": _center_json(record.data_center),
        "hostName": record.host,
        "status": record.status,
        "lastUpdatedTimestamp": record.updated_ms,
        "actionType": record.action,
        "port": _port_json(record.port),
        "securePort": _port_json(record.secure_port),
        "asgName": record.asg,
    }
    return _dumps({name: value for name, value in fields.items() if value is not None})


def size(lease: Lease) -> int:
    """How many bytes it has: the JSON is plain ASCII."""
    before, after = lease.json or parts(lease)
    return len(before) + 13 + len(after)  # epoch milliseconds have 13 digits


def parts(lease: Lease) -> tuple[str, str]:
    """The JSON of an instance before and after the time of its last renewal; kept by the lease."""
    found = lease.json
    if found is None:
        record = lease.record
        before = _dumps(_before_lease(record) | {"leaseInfo": lease_before(record)})
        after = _dumps(lease_after(record))[1:]
        rest = _dumps(_after_lease(record))[1:]
        found = lease.json = (f'{before[:-2]},"lastRenewalTimestamp":', f",{after},{rest}")
    return found


def _before_lease(record: Record) -> dict[str, Any]:
    return {
        "instanceId": record.id,
        "hostName": record.host,
        "app": record.app,
        "ipAddr": record.ip,
        "status": record.status,
        "overriddenStatus": record.overridden,
        "port": _port_json(record.port),
        "securePort": _port_json(record.secure_port),
        "countryId": record.country,
        "dataCenterInfo": _center_json(record.data_center),
    }


def _after_lease(record: Record) -> dict[str, Any]:
    return {
        "metadata": dict(record.metadata) or {"@class": EMPTY_MAP},
        **optional(record),
        "isCoordinatingDiscoveryServer": "true" if record.coordinating else "false",
        "lastUpdatedTimestamp": str(record.updated_ms),
        "lastDirtyTimestamp": str(record.dirty_ms),
        "actionType": record.action,
    }


def _port_json(port: Port) -> dict[str, Any]:
    return {"$": port.number, "@enabled": "true" if port.enabled else "false"}


def _center_json(center: DataCenter) -> dict[str, Any]:
    place = {"metadata": dict(center.metadata)} if center.kind == AMAZON_DATA_CENTER else {}
    return {"@class": center.kind, "name": center.name, **place}


def _dumps(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
