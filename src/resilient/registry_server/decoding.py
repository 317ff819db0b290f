"""What clients send, read: registrations in the many forms that real clients write."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn
from xml.etree import ElementTree as ET

from resilient.registry_server.record import (
    AMAZON_DATA_CENTER,
    DEFAULT_DATA_CENTER,
    DEFAULT_PORT,
    DEFAULT_SECURE_PORT,
    STATUSES,
    DataCenter,
    Port,
    Record,
)

_DATA_CENTERS = {
    DEFAULT_DATA_CENTER: DEFAULT_DATA_CENTER,
    "com.netflix.appinfo.MyDataCenterInfo": DEFAULT_DATA_CENTER,
    AMAZON_DATA_CENTER: AMAZON_DATA_CENTER,
}
_DATA_CENTER_NAMES = frozenset({"MyOwn", "Netflix", "Amazon"})
_INT32, _INT64 = 2**31, 2**63


class UnreadableError(ValueError):
    """A body that is no registration; Eureka answers all of them with the same words."""


class RegistrationError(ValueError):
    """A registration that lacks something, said in Eureka's words."""


class TooLargeError(ValueError):
    """A body larger than the limit once it is unpacked."""


def gunzip(body: bytes, limit: int) -> bytes:
    """Unpack `body`, at most `limit` bytes of it: a small body can unpack to gigabytes."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise UnreadableError(str(error)) from error
    if len(data) > limit:
        raise TooLargeError
    if not unpacker.eof:
        raise UnreadableError("the gzip body is cut off")
    return data


def read_json(body: bytes, app: str) -> Record:
    """The registration in a JSON body, for the service named in the path.

    Raises:
        UnreadableError: when it is no JSON, or a field has a type that cannot be read.
        RegistrationError: when something is missing.
    """
    try:
        document = json.loads(body, parse_float=str, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(str(error)) from error
    return _record(_mapping(_mapping(document).get("instance")), app)


def read_xml(body: bytes, app: str) -> Record:
    """The registration in an XML body (`<instance>`); see `read_json`."""
    try:
        text = body.decode()
        if "<!DOCTYPE" in text:  # entities could unpack to gigabytes; no client declares any
            raise UnreadableError("a document type is not allowed")
        root = ET.fromstring(text)  # noqa: S314  # without a document type there is nothing to expand
    except (ValueError, ET.ParseError, RecursionError) as error:
        raise UnreadableError(str(error)) from error
    if root.tag != "instance":
        raise UnreadableError(f"the root must be instance, not {root.tag}")
    return _record({child.tag: _of_element(child) for child in root}, app)


def _of_element(element: ET.Element) -> Any:
    """An element as JSON has it, so that there is one reader."""
    if element.tag in {"port", "securePort"}:
        return {"$": element.text, "@enabled": element.get("enabled")}
    if element.tag == "metadata":
        return {unescape_name(child.tag): child.text or "" for child in element}
    if element.tag == "leaseInfo":
        return {child.tag: child.text for child in element}
    if element.tag == "dataCenterInfo":
        return {"@class": element.get("class")} | {
            child.tag: _of_element(child) if child.tag == "metadata" else child.text for child in element
        }
    return element.text


def _record(said: Mapping[str, Any], app: str) -> Record:
    name = _text(said, "app")
    if name is None:
        raise UnreadableError("app is missing")
    center = _data_center(said.get("dataCenterInfo"))
    host, ip = _text(said, "hostName"), _text(said, "ipAddr")
    instance = _text(said, "instanceId") or (center.metadata.get("instance-id") if center else None) or host
    for value, complaint in (
        (instance, "Missing instanceId" if _text(said, "instanceId") is not None else "Missing hostname"),
        (host, "Missing hostname"),
        (ip, "Missing ip address"),
        (name, "Missing appName"),
    ):
        if not value or not value.strip():
            raise RegistrationError(complaint)
    if name.upper() != app.upper():
        raise RegistrationError(f"Mismatched appName, expecting {app.upper()} but was {name.upper()}")
    if center is None:
        raise RegistrationError("Missing dataCenterInfo")
    if not center.name:
        raise RegistrationError("Missing dataCenterInfo Name")
    assert instance is not None
    assert host is not None
    assert ip is not None
    lease = _mapping(said.get("leaseInfo") or {})
    overridden = _text(said, "overriddenStatus") or _text(said, "overriddenstatus") or "UNKNOWN"
    return Record(
        app=name.upper(),
        id=instance,
        host=host,
        ip=ip,
        status=_status(_text(said, "status") or "UP"),
        overridden=_status(overridden),
        port=_port(said.get("port"), DEFAULT_PORT),
        secure_port=_port(said.get("securePort"), DEFAULT_SECURE_PORT),
        country=_integer(said, "countryId", _INT32, 1),
        data_center=center,
        renewal_interval=_seconds(lease, "renewalIntervalInSecs", 30),
        duration=_seconds(lease, "durationInSecs", 90),
        metadata=_metadata(said.get("metadata")),
        sid=_text(said, "sid"),
        app_group=_text(said, "appGroupName"),
        home_page=_text(said, "homePageUrl"),
        status_page=_text(said, "statusPageUrl"),
        health_check=_text(said, "healthCheckUrl"),
        secure_health_check=_text(said, "secureHealthCheckUrl"),
        vip=_text(said, "vipAddress"),
        secure_vip=_text(said, "secureVipAddress"),
        asg=_text(said, "asgName"),
        coordinating=_flag(said.get("isCoordinatingDiscoveryServer")),
        dirty_ms=_integer(said, "lastDirtyTimestamp", _INT64, 0) or None,
    )


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnreadableError(f"an object is needed, not {type(value).__name__}")
    return value


def _text(said: Mapping[str, Any], key: str) -> str | None:
    value = said.get(key)
    return None if value is None else _scalar(value)


def _scalar(value: object) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair: it could never be written out again
            raise UnreadableError(str(error)) from error
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int):
        return str(value)
    raise UnreadableError(f"text is needed, not {type(value).__name__}")


def _integer(said: Mapping[str, Any], key: str, bound: int, default: int) -> int:
    value = said.get(key)
    if value is None or value == "":
        return default
    try:
        number = int(_scalar(value))
    except ValueError as error:
        raise UnreadableError(f"{key} must be a whole number") from error
    if not -bound <= number < bound:
        raise UnreadableError(f"{key} is out of range")
    return number


def _seconds(said: Mapping[str, Any], key: str, default: int) -> int:
    seconds = _integer(said, key, _INT32, default)
    return seconds if seconds > 0 else default  # as Netflix's server does


def _flag(value: object) -> bool:
    return _scalar(value).strip().lower() == "true" if value is not None else False


def _status(said: str) -> str:
    return said.upper() if said.upper() in STATUSES else "UNKNOWN"


def _port(value: object, default: Port) -> Port:
    if value is None:
        return default
    said = _mapping(value)
    enabled = said.get("@enabled")
    return Port(_integer(said, "$", _INT32, default.number), default.enabled if enabled is None else _flag(enabled))


def _metadata(value: object) -> dict[str, str]:
    found = {_scalar(key): _scalar(item) for key, item in _mapping(value or {}).items() if key != "@class"}
    if "" in found:
        raise UnreadableError("a metadata key is empty")  # it would make the XML list unreadable for everybody
    return found


def _data_center(value: object) -> DataCenter | None:
    if value is None:
        return None
    said = _mapping(value)
    kind = _DATA_CENTERS.get(_text(said, "@class") or "")
    name = _text(said, "name") or ""
    if kind is None or (name and name not in _DATA_CENTER_NAMES):
        raise UnreadableError("dataCenterInfo has an unknown @class or name")
    return DataCenter(kind, name, _metadata(said.get("metadata")) if kind == AMAZON_DATA_CENTER else {})


def _no_constant(text: str) -> NoReturn:
    raise UnreadableError(f"{text} is no JSON")


def unescape_name(name: str) -> str:
    """Undo `encoding_xml.escape_name`."""
    return re.sub(
        r"__|_-|((?:_\.[0-9a-fA-F]{4})+)",
        lambda found: {"__": "_", "_-": "$"}.get(found[0]) or _of_utf16(found[0]),
        name,
    )


def _of_utf16(units: str) -> str:
    return b"".join(bytes.fromhex(unit) for unit in units.split("_.")[1:]).decode("utf-16-be", "replace")
