"""Instances as plain data, as people write them into files and keys: read tolerantly, each on its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from resilient.discovery.instance import Instance


def read_services(data: object) -> tuple[dict[str, tuple[Instance, ...]], list[str]]:
    """The instances of `{service: [instance, …]}`, each once, and what is wrong with those that can not be read.

    Raises:
        ValueError: when it is no such object at all.
    """
    if not isinstance(data, Mapping):
        raise ValueError("it must be an object of services: {'producer': [{'host': …, 'port': …}]}")  # noqa: TRY004  # the data is wrong, not an argument
    services: dict[str, tuple[Instance, ...]] = {}
    problems: list[str] = []
    for service, listed in data.items():
        name = str(service).strip().lower()
        if not name:
            problems.append("a service has no name")
            continue
        found: list[Instance] = []
        for number, raw in enumerate(listed if isinstance(listed, list) else () if listed is None else (listed,)):
            try:
                found.append(read_instance(name, raw))
            except ValueError as error:
                problems.append(f"{service}[{number}]: {error}")
        services[name] = tuple(unique((*services.get(name, ()), *found)))
    return services, problems


def unique(instances: Iterable[Instance]) -> list[Instance]:
    """The first of each id, in order."""
    return list({instance.id: instance for instance in reversed(list(instances))}.values())[::-1]


def read_instance(service: str, raw: object) -> Instance:
    """One instance: `"host:port"`, or an object with host, port and what else `Instance` has; other keys are ignored.

    Raises:
        ValueError: when it is neither; says why.
    """
    if isinstance(raw, str):
        return _address(service, raw)
    if not isinstance(raw, Mapping):
        raise ValueError(f"an instance is 'host:port' or an object with host and port, not {raw!r}")  # noqa: TRY004  # the data is wrong, not an argument
    host = str(raw.get("host") or "").strip().strip("[]")
    if not host or any(map(str.isspace, host)):
        raise ValueError(f"host must be an address or a name, not {raw.get('host')!r}")
    port = read_port(raw.get("port"))
    given = raw.get("metadata")
    zone, name, secure = raw.get("zone"), raw.get("id"), raw.get("secure")
    return Instance(
        service,
        host,
        port,
        str(name) if name else f"{host}:{service}:{port}",
        secure if isinstance(secure, bool) else str(secure).lower() == "true",
        None if zone is None else str(zone),
        read_weight(raw.get("weight")),
        {str(key): str(value) for key, value in given.items()} if isinstance(given, Mapping) else {},
    )


def write_instance(instance: Instance) -> dict[str, Any]:
    """What `read_instance` reads."""
    return {
        "id": instance.id,
        "host": instance.host,
        "port": instance.port,
        "secure": instance.secure,
        "zone": instance.zone,
        "weight": instance.weight,
        "metadata": dict(instance.metadata),
    }


def read_port(value: object) -> int:
    """A port, a number or text.

    Raises:
        ValueError: when it is none.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and 0 < int(text) <= 65_535):
        raise ValueError(f"port must be from 1 to 65535, not {value!r}")
    return int(text)


def read_weight(value: object) -> float:
    """A weight, a number or text; 1.0 where it is none: an instance is worth more than its weight."""
    try:
        weight = float(value) if isinstance(value, (int, float, str)) else 1.0
    except ValueError:
        return 1.0
    return weight if weight > 0 and math.isfinite(weight) else 1.0


def _address(service: str, address: str) -> Instance:
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
        stray = any(map(str.isspace, address)) or any(mark in address for mark in "/@?#")
    except ValueError:
        host, port, stray = None, None, False
    if not host or not port or stray:
        raise ValueError(f"{address.rpartition('@')[2]!r} is no host:port (port 1 to 65535)")
    return Instance(service, host, port, id=f"{host}:{service}:{port}")
