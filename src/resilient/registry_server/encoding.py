"""What clients get, written: Eureka's JSON and XML, field by field as Netflix's server writes them.

Spring's reader fails on any field it does not know, on an object where a list belongs, and on a missing list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from resilient.registry_server import encoding_json, encoding_xml
from resilient.registry_server.record import Lease, hashcode

FULL_VERSION, FILTERED_VERSION = 1, -1  # of lists that are no deltas


def applications(
    leases: Sequence[Lease], version: int, check: str | None = None, *, as_json: bool, compact: bool = False
) -> str:
    """A list of services.

    Args:
        leases: whom to list.
        version: of the list; means nothing but in a delta.
        check: the check sum of another list than `leases` (a delta's).
        as_json: else XML.
        compact: only what is needed to call an instance.
    """
    check = hashcode(leases) if check is None else check
    services = _by_service(leases)
    if as_json:
        listed = ",".join(_service_json(name, members, compact) for name, members in services.items())
        head = f'"versions__delta":"{version}","apps__hashcode":"{check}"'
        body = f'"application":[{listed}]'
        return f'{{"applications":{{{body},{head}}}}}' if compact else f'{{"applications":{{{head},{body}}}}}'
    listed = "".join(_service_xml(name, members, encoding_xml.UNIT, compact) for name, members in services.items())
    head = f"  <versions__delta>{version}</versions__delta>\n  <apps__hashcode>{check}</apps__hashcode>\n"
    return f"<applications>\n{head}{listed}</applications>"


def application(name: str, leases: Iterable[Lease], *, as_json: bool, compact: bool = False) -> str:
    """One service."""
    if as_json:
        return f'{{"application":{_service_json(name, leases, compact)}}}'
    return _service_xml(name, leases, "", compact).rstrip()


def instance(lease: Lease, *, as_json: bool) -> str:
    """One instance."""
    return f'{{"instance":{encoding_json.full(lease)}}}' if as_json else encoding_xml.full(lease, "").rstrip()


def _by_service(leases: Iterable[Lease]) -> dict[str, list[Lease]]:
    services: dict[str, list[Lease]] = {}
    for lease in leases:
        services.setdefault(lease.record.app, []).append(lease)
    return services


def _service_json(name: str, leases: Iterable[Lease], compact: bool) -> str:
    write: Callable[[Lease], str] = encoding_json.compact if compact else encoding_json.full
    return f'{{"name":{json.dumps(name)},"instance":[{",".join(map(write, leases))}]}}'


def _service_xml(name: str, leases: Iterable[Lease], pad: str, compact: bool) -> str:
    inner = pad + encoding_xml.UNIT
    write = encoding_xml.compact if compact else encoding_xml.full
    listed = "".join([write(lease, inner) for lease in leases])
    return f"{pad}<application>\n{encoding_xml.tag('name', name, inner)}{listed}{pad}</application>\n"
