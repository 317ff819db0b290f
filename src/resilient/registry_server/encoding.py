"""What clients get, written: Eureka's JSON and XML, field by field as Netflix's server writes them.

Spring's reader fails on any field it does not know, on an object where a list belongs, and on a missing list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from xml.sax.saxutils import escape

from resilient.registry_server.record import AMAZON_DATA_CENTER, Lease, Port, Record, hashcode

_EMPTY_MAP = "java.util.Collections$EmptyMap"  # how Netflix's server writes empty metadata
FULL_VERSION, FILTERED_VERSION = 1, -1  # of lists that are no deltas


def applications(leases: Sequence[Lease], version: int, check: str | None = None, *, as_json: bool) -> str:
    """A list of services; `check` is the check sum of another list than `leases` (a delta's)."""
    check = hashcode(leases) if check is None else check
    services = _by_service(leases)
    if as_json:
        listed = ",".join(_service_json(name, members) for name, members in services.items())
        return (
            f'{{"applications":{{"versions__delta":"{version}","apps__hashcode":"{check}","application":[{listed}]}}}}'
        )
    listed = "".join(_service_xml(name, members, "  ") for name, members in services.items())
    head = f"  <versions__delta>{version}</versions__delta>\n  <apps__hashcode>{check}</apps__hashcode>\n"
    return f"<applications>\n{head}{listed}</applications>"


def application(name: str, leases: Iterable[Lease], *, as_json: bool) -> str:
    """One service."""
    if as_json:
        return f'{{"application":{_service_json(name, leases)}}}'
    return _service_xml(name, leases, "").rstrip()


def instance(lease: Lease, *, as_json: bool) -> str:
    """One instance."""
    return f'{{"instance":{_json(lease)}}}' if as_json else _instance_xml(lease, "").rstrip()


def _by_service(leases: Iterable[Lease]) -> dict[str, list[Lease]]:
    services: dict[str, list[Lease]] = {}
    for lease in leases:
        services.setdefault(lease.record.app, []).append(lease)
    return services


def _service_json(name: str, leases: Iterable[Lease]) -> str:
    return f'{{"name":{json.dumps(name)},"instance":[{",".join(map(_json, leases))}]}}'


def _json(lease: Lease) -> str:
    text = lease.json
    if text is None:
        text = lease.json = json.dumps(_document(lease), separators=(",", ":"))
    return text


def _document(lease: Lease) -> dict[str, Any]:
    record = lease.record
    center = record.data_center
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
        "dataCenterInfo": {"@class": center.kind, "name": center.name}
        | ({"metadata": dict(center.metadata)} if center.kind == AMAZON_DATA_CENTER else {}),
        "leaseInfo": _lease_info(lease),
        "metadata": dict(record.metadata) or {"@class": _EMPTY_MAP},
        **_optional(record),
        "isCoordinatingDiscoveryServer": "true" if record.coordinating else "false",
        "lastUpdatedTimestamp": str(record.updated_ms),
        "lastDirtyTimestamp": str(record.dirty_ms),
        "actionType": record.action,
    }


def _port_json(port: Port) -> dict[str, Any]:
    return {"$": port.number, "@enabled": "true" if port.enabled else "false"}


def _lease_info(lease: Lease) -> dict[str, int]:
    record = lease.record
    return {
        "renewalIntervalInSecs": record.renewal_interval,
        "durationInSecs": record.duration,
        "registrationTimestamp": record.registered_ms,
        "lastRenewalTimestamp": lease.renewed_ms,
        "evictionTimestamp": record.evicted_ms,
        "serviceUpTimestamp": record.up_ms,
    }


def _optional(record: Record) -> dict[str, str]:
    """The fields that are left out when they were not given, in the order of the wire."""
    given = {
        "sid": record.sid,
        "appGroupName": record.app_group,
        "homePageUrl": record.home_page,
        "statusPageUrl": record.status_page,
        "healthCheckUrl": record.health_check,
        "secureHealthCheckUrl": record.secure_health_check,
        "vipAddress": record.vip,
        "secureVipAddress": record.secure_vip,
        "asgName": record.asg,
    }
    return {name: value for name, value in given.items() if value is not None}


def _service_xml(name: str, leases: Iterable[Lease], pad: str) -> str:
    inner = pad + "  "
    listed = "".join(_xml(lease) if inner == _LIST_PAD else _instance_xml(lease, inner) for lease in leases)
    return f"{pad}<application>\n{_tag('name', name, inner)}{listed}{pad}</application>\n"


_LIST_PAD = " " * 4  # of an instance in the list of all services, the form worth keeping


def _xml(lease: Lease) -> str:
    text = lease.xml
    if text is None:
        text = lease.xml = _instance_xml(lease, _LIST_PAD)
    return text


def _instance_xml(lease: Lease, pad: str) -> str:
    record = lease.record
    center = record.data_center
    inner, deep = pad + "  ", pad + "    "
    if record.metadata:
        pairs = "".join(_tag(escape_name(key), value, deep) for key, value in record.metadata.items())
        metadata = f"{inner}<metadata>\n{pairs}{inner}</metadata>\n"
    else:
        metadata = f'{inner}<metadata class="{_EMPTY_MAP}"/>\n'
    place = ""
    if center.kind == AMAZON_DATA_CENTER:
        pairs = "".join(_tag(escape_name(key), value, deep + "  ") for key, value in center.metadata.items())
        place = f"{deep}<metadata>\n{pairs}{deep}</metadata>\n"
    return "".join(
        [
            f"{pad}<instance>\n",
            _tag("instanceId", record.id, inner),
            _tag("hostName", record.host, inner),
            _tag("app", record.app, inner),
            _tag("ipAddr", record.ip, inner),
            _tag("status", record.status, inner),
            _tag("overriddenstatus", record.overridden, inner),
            _port_xml("port", record.port, inner),
            _port_xml("securePort", record.secure_port, inner),
            _tag("countryId", str(record.country), inner),
            f'{inner}<dataCenterInfo class="{center.kind}">\n',
            _tag("name", center.name, deep),
            place,
            f"{inner}</dataCenterInfo>\n",
            f"{inner}<leaseInfo>\n",
            *(_tag(name, str(value), deep) for name, value in _lease_info(lease).items()),
            f"{inner}</leaseInfo>\n",
            metadata,
            *(_tag(name, value, inner) for name, value in _optional(record).items()),
            _tag("isCoordinatingDiscoveryServer", "true" if record.coordinating else "false", inner),
            _tag("lastUpdatedTimestamp", str(record.updated_ms), inner),
            _tag("lastDirtyTimestamp", str(record.dirty_ms), inner),
            _tag("actionType", record.action, inner),
            f"{pad}</instance>\n",
        ]
    )


def _port_xml(name: str, port: Port, pad: str) -> str:
    return f'{pad}<{name} enabled="{"true" if port.enabled else "false"}">{port.number}</{name}>\n'


def _tag(name: str, value: str, pad: str) -> str:
    return f"{pad}<{name}>{_xml_text(value)}</{name}>\n"


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _xml_text(value: str) -> str:
    return _NOT_XML.sub("\ufffd", escape(value, {"\r": "&#13;"}))  # no document may be broken by one instance's text


def escape_name(name: str) -> str:
    """A metadata key as an XML name, as XStream writes it: `_` doubled, `$` as `_-`, what is illegal as `_.002f`.

    Unlike Netflix's server it escapes `:` and all that is not ASCII too: a stray colon makes the whole list unreadable.
    """
    escaped = re.sub(r"[^A-Za-z0-9.\-]", _escape_one, name)
    return escaped if re.match("[A-Za-z_]", escaped) else _escape_units(escaped[0]) + escaped[1:]


def _escape_one(found: re.Match[str]) -> str:
    return {"_": "__", "$": "_-"}.get(found[0]) or _escape_units(found[0])


def _escape_units(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"_.{units[at : at + 4]}" for at in range(0, len(units), 4))
