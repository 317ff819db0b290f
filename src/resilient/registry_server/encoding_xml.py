"""An instance as XML, as Netflix's server writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

from resilient.registry_server.fields import EMPTY_MAP, lease_after, lease_before, optional
from resilient.registry_server.record import AMAZON_DATA_CENTER, DataCenter, Lease, Port, Record

UNIT = "  "
LIST_PAD = 2 * UNIT  # of an instance in the list of all services, the form worth keeping


def full(lease: Lease, pad: str) -> str:
    """Every field, indented by `pad`; the lease keeps it in the form that a list of services has."""
    parts = lease.xml if pad == LIST_PAD else None
    if parts is None:
        parts = _parts(lease.record, pad)
        if pad == LIST_PAD:
            lease.xml = parts
    return f"{parts[0]}{lease.renewed_ms}{parts[1]}"


def compact(lease: Lease, pad: str) -> str:
    """Only what is needed to call it."""
    record = lease.record
    inner = pad + UNIT
    texts = {
        "instanceId": record.id,
        "hostName": record.host,
        "app": record.app,
        "ipAddr": record.ip,
        "status": record.status,
        "vipAddress": record.vip,
        "secureVipAddress": record.secure_vip,
        "asgName": record.asg,
        "lastUpdatedTimestamp": str(record.updated_ms),
        "actionType": record.action,
    }
    written = "".join(tag(name, value, inner) for name, value in texts.items() if value is not None)
    ports = _port_xml("port", record.port, inner) + _port_xml("securePort", record.secure_port, inner)
    return f"{pad}<instance>\n{written}{ports}{_center_xml(record.data_center, inner)}{pad}</instance>\n"


def tag(name: str, value: str, pad: str) -> str:
    """One element on a line of its own."""
    return f"{pad}<{name}>{_xml_text(value) if _ODD.search(value) else value}</{name}>\n"


def _parts(record: Record, pad: str) -> tuple[str, str]:
    inner, deep = pad + UNIT, pad + 2 * UNIT
    if record.metadata:
        metadata = f"{inner}<metadata>\n{_pairs(record.metadata, deep)}{inner}</metadata>\n"
    else:
        metadata = f'{inner}<metadata class="{EMPTY_MAP}"/>\n'
    before = "".join(
        [
            f"{pad}<instance>\n",
            tag("instanceId", record.id, inner),
            tag("hostName", record.host, inner),
            tag("app", record.app, inner),
            tag("ipAddr", record.ip, inner),
            tag("status", record.status, inner),
            tag("overriddenstatus", record.overridden, inner),
            _port_xml("port", record.port, inner),
            _port_xml("securePort", record.secure_port, inner),
            tag("countryId", str(record.country), inner),
            _center_xml(record.data_center, inner),
            f"{inner}<leaseInfo>\n",
            *(f"{deep}<{name}>{value}</{name}>\n" for name, value in lease_before(record).items()),
            f"{deep}<lastRenewalTimestamp>",
        ]
    )
    after = "".join(
        [
            "</lastRenewalTimestamp>\n",
            *(f"{deep}<{name}>{value}</{name}>\n" for name, value in lease_after(record).items()),
            f"{inner}</leaseInfo>\n",
            metadata,
            *(tag(name, value, inner) for name, value in optional(record).items()),
            tag("isCoordinatingDiscoveryServer", "true" if record.coordinating else "false", inner),
            f"{inner}<lastUpdatedTimestamp>{record.updated_ms}</lastUpdatedTimestamp>\n",
            f"{inner}<lastDirtyTimestamp>{record.dirty_ms}</lastDirtyTimestamp>\n",
            f"{inner}<actionType>{record.action}</actionType>\n",
            f"{pad}</instance>\n",
        ]
    )
    return before, after


def _center_xml(center: DataCenter, pad: str) -> str:
    inner = pad + UNIT
    place = ""
    if center.kind == AMAZON_DATA_CENTER:
        place = f"{inner}<metadata>\n{_pairs(center.metadata, inner + UNIT)}{inner}</metadata>\n"
    name = tag("name", center.name, inner)
    return f'{pad}<dataCenterInfo class="{center.kind}">\n{name}{place}{pad}</dataCenterInfo>\n'


def _pairs(metadata: Mapping[str, str], pad: str) -> str:
    return "".join(tag(escape_name(key), value, pad) for key, value in metadata.items())


def _port_xml(name: str, port: Port, pad: str) -> str:
    return f'{pad}<{name} enabled="{"true" if port.enabled else "false"}">{port.number}</{name}>\n'


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ODD = re.compile("[^\t\n\x20-%'-;=?-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # those, and what must be escaped


def _xml_text(value: str) -> str:
    return _NOT_XML.sub("\ufffd", escape(value, {"\r": "&#13;"}))  # no document may be broken by one instance's text


_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.\-]*")


def escape_name(name: str) -> str:
    """A metadata key as an XML name, as XStream writes it: `_` doubled, `$` as `_-`, what is illegal as `_.002f`.

    Unlike Netflix's server it escapes `:` and all that is not ASCII too: a stray colon makes the whole list unreadable.
    """
    if _PLAIN_NAME.fullmatch(name):
        return name
    escaped = re.sub(r"[^A-Za-z0-9.\-]", _escape_one, name)
    return escaped if re.match("[A-Za-z_]", escaped) else _escape_units(escaped[0]) + escaped[1:]


def _escape_one(found: re.Match[str]) -> str:
    return {"_": "__", "$": "_-"}.get(found[0]) or _escape_units(found[0])


def _escape_units(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"_.{units[at : at + 4]}" for at in range(0, len(units), 4))
