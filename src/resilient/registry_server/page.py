"""The status page: who is registered, drawn as one HTML page that needs nothing else.

Instances register arbitrary text; all of it is escaped, only http(s) addresses become links, and the page's security
policy allows no script or style but its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from urllib.parse import urlsplit

from resilient.registry_server.page_assets import SCRIPT, STYLE
from resilient.registry_server.record import Lease, Record

MAX_ROWS = 1_000  # a browser reads no more every two seconds

# A shape beside the colour: not everybody tells green from red.
_MARKS = {"UP": "●", "DOWN": "✕", "STARTING": "◔", "OUT_OF_SERVICE": "‖", "UNKNOWN": "?"}
_CLASSES = {"UP": " up", "DOWN": " down"}
_LATE = 0.7  # of its lease: two heartbeats of three are missing

_EMPTY = """<section><h2>Nobody is registered yet</h2>
<p>Start a service that registers here, and it appears within two seconds. The registry keeps everything in memory:
after a restart services come back by themselves with their next heartbeat.</p></section>"""
_HEAD = (
    "<thead><tr><th>Instance</th><th>Status</th><th>Address</th><th>Zone</th><th>Last renewal</th><th>Up for</th></tr>"
    "</thead>"
)


def status_page(
    leases: Sequence[Lease], *, age: Callable[[Lease], float], uptime: float, query: str = "", protected: int = 0
) -> str:
    """The page.

    Args:
        leases: what is registered.
        age: seconds since a lease was renewed.
        uptime: seconds since the registry started.
        query: words that an instance must all have somewhere, else it is not shown.
        protected: how many instances self-preservation keeps.
    """
    words = query.lower().split()
    shown = [lease for lease in leases if not words or _has(lease.record, words)]
    services: dict[str, list[Lease]] = {}
    for lease in sorted(shown, key=lambda lease: (lease.record.app, lease.record.id))[:MAX_ROWS]:
        services.setdefault(lease.record.app, []).append(lease)
    cards = "".join(_service(name, members, age) for name, members in services.items())
    if len(shown) > MAX_ROWS:
        cards += (
            f'<section data-key="more"><p>… and {len(shown) - MAX_ROWS:,} more instances: filter them, or read all '
            "of them at /eureka/apps.</p></section>"
        )
    if not cards:
        cards = _nothing(query) if leases else _EMPTY
    up = sum(lease.record.status == "UP" for lease in leases)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        '<noscript><meta http-equiv="refresh" content="2"></noscript>'
        f"<title>Registry: {up:,} of {len(leases):,} up</title><style>{STYLE}</style></head><body>"
        f'<header><h1>Service registry</h1><p class="dim" id="summary">{_summary(leases, uptime)}</p>'
        '<form role="search"><label for="q">Filter</label>'
        f'<input id="q" name="q" type="search" value="{escape(query)}" '
        'placeholder="name, status, zone, metadata" autocomplete="off">'
        "</form>"
        f'<p id="protected" class="alert"{"" if protected else " hidden"}>{_protected(protected)}</p>'
        '<p id="lost" class="alert" role="alert" hidden></p></header>'
        f'<main id="services">{cards}</main><script>{SCRIPT}</script></body></html>\n'
    )


def _has(record: Record, words: Sequence[str]) -> bool:
    said = (
        record.app,
        record.id,
        record.host,
        record.ip,
        _status_words(record.status),
        _zone(record),
        record.vip or "",
        *(f"{key}={value}" for key, value in record.metadata.items()),
    )
    text = "\n".join(said).lower()
    return all(word in text for word in words)


def _summary(leases: Sequence[Lease], uptime: float) -> str:
    names = len({lease.record.app for lease in leases})
    counts = Counter(lease.record.status for lease in leases)
    told = ", ".join(f"{counts[name]:,} {_status_words(name)}" for name in ("UP", *sorted(counts.keys() - {"UP"})))
    totals = f"{_count(names, 'service')}, {_count(len(leases), 'instance')}"
    return f"{totals}, {told} · running for {_span(uptime)}"


def _protected(number: int) -> str:
    if not number:
        return ""
    verb = "has" if number == 1 else "have"
    return f"Self-preservation: {_count(number, 'instance')} {verb} not renewed in time and stay listed."


def _nothing(query: str) -> str:
    return (
        f"<section><h2>Nobody has “{escape(query)}”</h2><p>Every word must be somewhere in an instance.</p></section>"
    )


def _service(name: str, leases: Sequence[Lease], age: Callable[[Lease], float]) -> str:
    rows = "".join(_row(lease, age(lease)) for lease in leases)
    up = sum(lease.record.status == "UP" for lease in leases)
    count = _count(len(leases), "instance") + ("" if up == len(leases) else f", {up:,} up")
    heading = f"<h2>{escape(name)} <span>{count}</span></h2>"
    return f'<section data-key="service {escape(name)}">{heading}<table>{_HEAD}<tbody>{rows}</tbody></table></section>'


def _row(lease: Lease, age: float) -> str:
    record = lease.record
    cells = {
        "Instance": f"<div><code>{escape(record.id)}</code>{_metadata(record)}</div>",
        "Status": f"<span>{_status(record)}</span>",
        "Address": f"<div>{_address(record)}{_links(record)}</div>",
        "Zone": f"<span>{escape(_zone(record))}</span>" if _zone(record) else '<span class="dim">none</span>',
        "Last renewal": _renewal(record, age),
        "Up for": _span((lease.renewed_ms - record.up_ms) / 1000 + age) if record.up_ms else "not yet up",
    }
    written = "".join(f'<td data-label="{label}">{cell}</td>' for label, cell in cells.items())
    return f'<tr data-key="{escape(record.id)}">{written}</tr>'


def _status(record: Record) -> str:
    words, mark = _status_words(record.status), _MARKS.get(record.status, "?")
    pill = (
        f'<span class="status{_CLASSES.get(record.status, "")}"><span aria-hidden="true">{mark}</span> {words}</span>'
    )
    return pill if record.overridden == "UNKNOWN" else f'{pill} <span class="dim">by override</span>'


def _status_words(status: str) -> str:
    return status.replace("_", " ").lower()


def _renewal(record: Record, age: float) -> str:
    late = age > _LATE * record.duration
    words = f"{_span(age)} ago of {_span(record.duration)}"
    said = f'<span class="late">{words}: late</span>' if late else words
    kind = ' class="over"' if late else ""
    bar = f'<progress{kind} max="{record.duration}" value="{min(age, record.duration):.1f}" '
    return f'<div>{said}{bar}aria-label="share of its lease that has passed"></progress></div>'


def _metadata(record: Record) -> str:
    pairs = [(key, value) for key, value in sorted(record.metadata.items()) if key != "zone"]
    if not pairs:
        return ""
    listed = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in pairs)
    return f"<details><summary>metadata ({len(pairs)})</summary><dl>{listed}</dl></details>"


def _address(record: Record) -> str:
    port = record.secure_port if record.secure_port.enabled and not record.port.enabled else record.port
    host = f"[{record.host}]" if ":" in record.host else record.host
    return _link(record.home_page, f"{host}:{port.number}") or f"<span>{escape(f'{host}:{port.number}')}</span>"


def _links(record: Record) -> str:
    links = _link(record.status_page, "status") + _link(record.health_check or record.secure_health_check, "health")
    return f'<span class="links">{links}</span>' if links else ""


def _link(url: str | None, text: str) -> str:
    if not _is_web(url):
        return ""
    return f'<a href="{escape(url or "")}" rel="noopener noreferrer">{escape(text)}</a>'


def _is_web(url: str | None) -> bool:
    """Whether `url` may become a link: http(s) from its first character on, with a host."""
    if url is None or not url.lower().startswith(("http://", "https://")):
        return False
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _zone(record: Record) -> str:
    return record.metadata.get("zone") or record.data_center.metadata.get("availability-zone") or ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _span(seconds: float) -> str:
    """Seconds in the largest two units that say something: `42 s`, `3 min 20 s`, `2 d 4 h`."""
    whole = max(0, int(seconds))
    if whole < 120:  # leases are usually 90 s, and are known by that number
        return f"{whole} s"
    units = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
    size, unit, smaller_size, smaller = next(found for found in units if whole >= found[0])
    rest = whole % size // smaller_size
    return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
