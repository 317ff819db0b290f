"""Kubernetes' EndpointSlices (discovery.k8s.io/v1), read tolerantly; no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from resilient.discovery.instance import Instance
from resilient.discovery.plain import read_port
from resilient.discovery.steps import Answer

NAME = "kubernetes.io/service-name"
_ANY = {"any": ("IPv4", "IPv6", "FQDN"), "4": ("IPv4",), "6": ("IPv6",)}


@dataclass(frozen=True, slots=True)
class Slice:
    """What one slice says of its service: those that are ready, and those that still serve while they end."""

    service: str
    ready: tuple[Instance, ...]
    ending: tuple[Instance, ...]
    problems: tuple[str, ...]


def read_object(body: bytes) -> dict[str, Any]:
    """One JSON object.

    Raises:
        ValueError: when it is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no answer of Kubernetes: {body[:60]!r}") from error
    if not isinstance(found, dict):
        raise ValueError(f"no answer of Kubernetes: {body[:60]!r}")  # noqa: TRY004  # the body is wrong, not an argument
    return found


def told(answer: Answer) -> str:
    """Why an answer is none, with Kubernetes' own words."""
    try:
        words = str(read_object(answer.body).get("message") or "")
    except ValueError:
        words = ""
    return str(answer) + (f": {words[:300]}" if words and not answer.error else "")


def version(found: Mapping[str, Any]) -> str:
    """The resource version of a list or an object; "" when it has none."""
    metadata = found.get("metadata")
    given = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
    return given if isinstance(given, str) else ""


def name_of(found: Mapping[str, Any]) -> str:
    """The slice's name."""
    metadata = found.get("metadata")
    return str(metadata.get("name") or "") if isinstance(metadata, Mapping) else ""


def read_slice(found: Mapping[str, Any], port: str | None, family: str) -> Slice | None:
    """What a slice says; None when it belongs to no service, or to another family.

    Args:
        found: the object.
        port: the name or number of the port that is wanted; None: the only one, else http, https, or the first.
        family: 4, 6 or any.
    """
    name = name_of(found)
    labels = found["metadata"].get("labels") if isinstance(found.get("metadata"), Mapping) else None
    service = labels.get(NAME) if isinstance(labels, Mapping) else None
    if not isinstance(service, str) or not service or found.get("addressType") not in _ANY[family]:
        return None
    service = service.lower()
    endpoints = found.get("endpoints") or []
    if not isinstance(endpoints, list):
        return Slice(service, (), (), (f"{name}: its endpoints are no list",))
    try:
        number, secure = _port(found.get("ports"), port)
    except ValueError as error:
        return Slice(service, (), (), (f"{name}: {error}",) if endpoints else ())
    ready: list[Instance] = []
    ending: list[Instance] = []
    problems: list[str] = []
    for place, endpoint in enumerate(endpoints):
        try:
            instance = _instance(service, endpoint, number, secure=secure)
        except ValueError as error:
            problems.append(f"{name}[{place}]: {error}")
            continue
        conditions = endpoint.get("conditions")
        conditions = conditions if isinstance(conditions, Mapping) else {}
        if conditions.get("ready") in {None, True}:  # unknown is ready
            ready.append(instance)
        elif conditions.get("serving") is True and conditions.get("terminating") is True:
            ending.append(instance)
    return Slice(service, tuple(ready), tuple(ending), tuple(problems))


def union(slices: Iterable[Slice]) -> tuple[Instance, ...]:
    """The usable instances of one service's slices, each once: an endpoint that moves is in two for a moment.

    Those that are ending are used when nobody else is there.
    """
    these = list(slices)
    found = [one for each in these for one in each.ready] or [one for each in these for one in each.ending]
    unique = {one.id: one for one in found}
    return tuple(unique[key] for key in sorted(unique))


def _port(ports: Any, wanted: str | None) -> tuple[int, bool]:
    if wanted is not None and wanted.isdigit():
        return read_port(wanted), False
    known = [one for one in ports if isinstance(one, Mapping)] if isinstance(ports, list) else []
    known = [one for one in known if one.get("protocol") in {None, "TCP"} and one.get("port") is not None]
    if wanted is not None:
        known = [one for one in known if one.get("name") == wanted]
    if not known:
        raise ValueError(f"it has no port {wanted!r}" if wanted else "it names no port; give one by port=NUMBER")
    by_name = {one.get("name"): one for one in reversed(known)}
    chosen = by_name.get("http") or by_name.get("https") or known[0]
    secure = "https" in {chosen.get("name"), chosen.get("appProtocol")}
    return read_port(chosen["port"]), secure


def _instance(service: str, endpoint: Any, port: int, *, secure: bool) -> Instance:
    addresses = endpoint.get("addresses") if isinstance(endpoint, Mapping) else None
    host = addresses[0] if isinstance(addresses, list) and addresses else None  # all of them are the same pod
    if not isinstance(host, str) or not host:
        raise ValueError("it has no address")
    target, zone = endpoint.get("targetRef"), endpoint.get("zone")
    pod = target.get("name") if isinstance(target, Mapping) else None
    notes = {"pod": pod, "node": endpoint.get("nodeName"), "hostname": endpoint.get("hostname")}
    return Instance(
        service,
        host,
        port,
        f"{host}:{service}:{port}",
        secure,
        zone if isinstance(zone, str) and zone else None,
        1.0,
        {key: value for key, value in notes.items() if isinstance(value, str)},
    )
