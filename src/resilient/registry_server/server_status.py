"""What the registry says about itself, in the form of Netflix's `/status`."""

from __future__ import annotations

import json
import os
import socket
from xml.sax.saxutils import escape

from resilient.registry_server import encoding_json, encoding_xml
from resilient.registry_server.record import Lease, Port, Record

_ROOT = "com.netflix.eureka.util.StatusInfo"


def server_status(uptime: float, address: tuple[str, int], now_ms: int, *, as_json: bool) -> str:
    """The document.

    Args:
        uptime: seconds since the registry started.
        address: where it listens.
        now_ms: epoch milliseconds.
        as_json: else XML.
    """
    general = {
        "environment": "test",
        "num-of-cpus": str(os.cpu_count() or 1),
        "total-avail-memory": _megabytes("SC_PHYS_PAGES"),
        "current-memory-usage": _resident(),
        "server-uptime": _span(uptime),
    }
    replicas = {"registered-replicas": "", "available-replicas": "", "unavailable-replicas": ""}
    lease = Lease(_ourselves(address, now_ms - int(uptime * 1000)), 0.0, now_ms)
    if as_json:
        stats = {"generalStats": general, "applicationStats": replicas}
        return f'{json.dumps(stats, separators=(",", ":"))[:-1]},"instanceInfo":{encoding_json.full(lease)}}}'
    sections = _section("generalStats", general) + _section("applicationStats", replicas)
    ourselves = encoding_xml.full(lease, encoding_xml.UNIT).replace("instance>", "instanceInfo>")
    return f"<{_ROOT}>\n{sections}{ourselves}</{_ROOT}>"


def _section(name: str, values: dict[str, str]) -> str:
    lines = "".join(f"    <{key}>{escape(value)}</{key}>\n" for key, value in values.items())
    return f"  <{name}>\n{lines}  </{name}>\n"


def _ourselves(address: tuple[str, int], started_ms: int) -> Record:
    host, port = address
    name = socket.gethostname()
    home = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    return Record(
        app="EUREKA",
        id=f"{name}:eureka:{port}",
        host=name,
        ip=host,
        port=Port(port, enabled=True),
        secure_port=Port(443, enabled=False),
        home_page=home,
        status_page=home,
        vip="eureka",
        dirty_ms=started_ms,
        updated_ms=started_ms,
        registered_ms=started_ms,
        up_ms=started_ms,
    )


def _megabytes(pages: str) -> str:
    try:
        return f"{os.sysconf(pages) * os.sysconf('SC_PAGE_SIZE') // 2**20}mb"
    except (ValueError, OSError, AttributeError):  # not a system that says
        return "unknown"


def _resident() -> str:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # one line of a file that is no file
            return f"{int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') // 2**20}mb"
    except OSError:
        return "unknown"


def _span(seconds: float) -> str:
    """`2 days 03:04`, as Netflix's server writes it."""
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    named = "" if not days else "1 day " if days == 1 else f"{days} days "
    return f"{named}{hours:02}:{minutes % 60:02}"
