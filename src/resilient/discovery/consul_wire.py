"""Consul's JSON, read tolerantly and written exactly; no I/O. Source: a Consul agent 1.8.7, observed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from resilient.discovery.instance import Instance
from resilient.discovery.plain import read_port, read_weight, unique


def read_health(service: str, body: bytes) -> tuple[tuple[Instance, ...], list[str]]:
    """The instances of `/v1/health/service/…` in order of ids, and what is wrong with those that can not be read.

    Raises:
        ValueError: when the body is no such list.
    """
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no list of instances: {body[:60]!r}") from error
    if not isinstance(entries, list):
        raise ValueError(f"no list of instances: {body[:60]!r}")  # noqa: TRY004  # the body is wrong, not an argument
    found: list[Instance] = []
    problems: list[str] = []
    for entry in entries:
        try:
            found.append(_instance(service, entry))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raw = entry.get("Service") if isinstance(entry, dict) else None
            name = raw.get("ID") if isinstance(raw, dict) else None
            problems.append(f"{name or service}: {error if isinstance(error, ValueError) else 'it is no instance'}")
    return tuple(sorted(unique(found), key=lambda instance: instance.id)), problems


def _instance(service: str, entry: dict[str, Any]) -> Instance:
    raw = entry["Service"]
    host = raw.get("Address") or entry["Node"].get("Address")
    if not isinstance(host, str) or not host:
        raise ValueError("neither it nor its node has an address")
    given = raw.get("Meta")
    meta = {str(key): str(value) for key, value in given.items()} if isinstance(given, Mapping) else {}
    weights = raw.get("Weights")
    port = read_port(raw.get("Port"))
    return Instance(
        service,
        host,
        port,
        str(raw.get("ID") or f"{host}:{service}:{port}"),
        meta.get("secure") == "true",
        meta.get("zone"),
        read_weight(meta.get("weight", weights.get("Passing") if isinstance(weights, Mapping) else None)),
        meta,
    )


def write_service(
    instance: Instance, *, tag: str | None, check: str, ttl: float, reap: float, passing: bool
) -> dict[str, Any]:
    """The body of `/v1/agent/service/register`.

    Args:
        instance: what is registered; without a host it has the address of the agent's node.
        tag: its only tag.
        check: the id of its check.
        ttl: seconds for which a renewal is good.
        reap: seconds after which the agent drops it when it is not renewed.
        passing: whether it is well from the start; a check begins critical otherwise.
    """
    meta = dict(instance.metadata)
    if instance.zone is not None:
        meta["zone"] = instance.zone
    if instance.secure:
        meta["secure"] = "true"
    weight = max(1, round(instance.weight))
    if weight != instance.weight:
        meta["weight"] = f"{instance.weight:g}"  # Consul's are whole numbers
    return {
        "ID": instance.id,
        "Name": instance.service,
        "Tags": [tag] if tag else [],
        "Address": instance.host,
        "Port": instance.port,
        "Meta": meta,
        "Weights": {"Passing": weight, "Warning": 1},
        "EnableTagOverride": False,
        "Check": {
            "CheckID": check,
            "Name": f"renewals of {instance.id}",
            "TTL": f"{ttl:g}s",
            "Status": "passing" if passing else "critical",
            "DeregisterCriticalServiceAfter": f"{reap:g}s",
        },
    }


def duration(seconds: float) -> str:
    """Go's word for it."""
    return f"{round(seconds * 1000)}ms"
