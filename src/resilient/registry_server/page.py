"""The status page: who is registered, drawn as one HTML page that needs nothing else.

Instances register arbitrary text; all of it is escaped, only http(s) addresses become links, and the page's security
policy allows no script or style but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from html import escape
from urllib.parse import urlsplit

from resilient.registry_server.record import Lease, Record

MAX_ROWS = 1_000  # a browser reads no more every two seconds

_STYLE = """
:root { color-scheme: light dark; --bg: #f6f7f9; --card: #fff; --ink: #1b1f24; --dim: #5b6470; --line: #e3e6ea;
  --link: #0b5cad; --up: #12703a; --up-bg: #dcf5e5; --off: #8a4b00; --off-bg: #fdeed6; --down: #a8201a;
  --down-bg: #fde3e1; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --card: #1d2127; --ink: #e8eaed; --dim: #9aa4b0;
  --line: #2e343c; --link: #7db8f5; --up: #7fdca3; --up-bg: #14372a; --off: #f2bd70; --off-bg: #3d2c10; --down: #ff9d96;
  --down-bg: #46201e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main, header { max-width: 68rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 0; }
.dim, th, dt { color: var(--dim); }
#lost { color: var(--down); font-weight: 600; width: 100%; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: 1rem 0; }
section > h2, section > p { padding: .8rem 1rem; }
section > h2 { display: flex; justify-content: space-between; gap: 1rem; }
section > h2 span { font-weight: 400; color: var(--dim); white-space: nowrap; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; font-size: .95rem; }
th:nth-child(1) { width: 25%; } th:nth-child(2) { width: 15%; } th:nth-child(3) { width: 18%; }
th:nth-child(4) { width: 11%; } th:nth-child(5) { width: 20%; }
th { text-align: left; font-weight: 500; font-size: .8rem; }
th, td { padding: .45rem 1rem; border-top: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
a { color: var(--link); }
code { font-size: .92em; }
.status { display: inline-block; padding: 0 .55rem; border-radius: 1rem; font-size: .8rem; font-weight: 600;
  white-space: nowrap; background: var(--off-bg); color: var(--off); }
.status.up { background: var(--up-bg); color: var(--up); }
.status.down { background: var(--down-bg); color: var(--down); }
meter { width: 100%; height: .5rem; }
@media (max-width: 44rem) {
  thead { display: none; }
  table, tbody, tr, td { display: block; }
  tr { border-top: 1px solid var(--line); padding: .5rem 0; }
  td { border: 0; padding: .1rem 1rem; width: auto; display: grid; grid-template-columns: 6.5rem 1fr; gap: .5rem; }
  td::before { content: attr(data-label); color: var(--dim); font-size: .8rem; padding-top: .15rem; }
}
"""
_SCRIPT = """
setInterval(async () => {
  if (document.hidden) return;
  const lost = document.getElementById("lost");
  try {
    const answer = await fetch(location.href, {cache: "no-store", signal: AbortSignal.timeout(5000)});
    if (!answer.ok) throw new Error(answer.status);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["summary", "services"])
      document.getElementById(id).replaceWith(next.getElementById(id));
    document.title = next.title;
    lost.hidden = true;
  } catch {
    if (lost.hidden) lost.textContent = "The registry does not answer. This is what it knew at "
      + new Date().toLocaleTimeString() + ".";
    lost.hidden = false;
  }
}, 2000);
"""


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


SECURITY_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; connect-src 'self'; img-src data:; style-src 'sha256-{_digest(_STYLE)}'; "
        f"script-src 'sha256-{_digest(_SCRIPT)}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def status_page(leases: Sequence[Lease], *, age: Callable[[Lease], float], uptime: float) -> str:
    """The page.

    Args:
        leases: what is registered.
        age: seconds since a lease was renewed.
        uptime: seconds since the registry started.
    """
    services: dict[str, list[Lease]] = {}
    for lease in sorted(leases, key=lambda lease: (lease.record.app, lease.record.id))[:MAX_ROWS]:
        services.setdefault(lease.record.app, []).append(lease)
    cards = "".join(_service(name, members, age) for name, members in services.items())
    if len(leases) > MAX_ROWS:
        cards += f"<section><p>… and {len(leases) - MAX_ROWS:,} more instances, listed at /eureka/apps.</p></section>"
    up = sum(lease.record.status == "UP" for lease in leases)
    names = len({lease.record.app for lease in leases})
    summary = f"{_count(names, 'service')}, {_count(len(leases), 'instance')}, {up:,} up · running for {_span(uptime)}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        '<noscript><meta http-equiv="refresh" content="2"></noscript>'
        f"<title>Registry: {up:,} of {len(leases):,} up</title><style>{_STYLE}</style></head><body>"
        f'<header><h1>Service registry</h1><p class="dim" id="summary">{summary}</p>'
        '<p id="lost" role="alert" hidden></p></header>'
        f'<main id="services">{cards or _EMPTY}</main><script>{_SCRIPT}</script></body></html>\n'
    )


_EMPTY = """<section><h2>Nobody is registered yet</h2>
<p>Start a service that registers here, and it appears within two seconds. The registry keeps everything in memory:
after a restart services come back by themselves with their next heartbeat.</p></section>"""

_HEAD = (
    "<thead><tr><th>Instance</th><th>Status</th><th>Address</th><th>Zone</th><th>Last renewal</th><th>Up for</th></tr>"
    "</thead>"
)


def _service(name: str, leases: Sequence[Lease], age: Callable[[Lease], float]) -> str:
    rows = "".join(_row(lease, age(lease)) for lease in leases)
    heading = f"<h2>{escape(name)} <span>{_count(len(leases), 'instance')}</span></h2>"
    return f"<section>{heading}<table>{_HEAD}<tbody>{rows}</tbody></table></section>"


def _row(lease: Lease, age: float) -> str:
    record = lease.record
    mark = {"UP": " up", "DOWN": " down"}.get(record.status, "")
    status = f'<span class="status{mark}">{escape(record.status.replace("_", " ").lower())}</span>'
    if record.overridden != "UNKNOWN":
        status += ' <span class="dim">by override</span>'
    late = f'<meter max="{record.duration}" high="{record.duration * 0.7:g}" optimum="0" value="{age:.1f}"></meter>'
    cells = {
        "Instance": f"<code>{escape(record.id)}</code>",
        "Status": f"<span>{status}</span>",
        "Address": _address(record),
        "Zone": escape(_zone(record)) or '<span class="dim">none</span>',
        "Last renewal": f"<span>{_span(age)} ago, lease {_span(record.duration)}<br>{late}</span>",
        "Up for": _span((lease.renewed_ms - record.up_ms) / 1000 + age) if record.up_ms else "not yet up",
    }
    return "<tr>" + "".join(f'<td data-label="{label}">{cell}</td>' for label, cell in cells.items()) + "</tr>"


def _address(record: Record) -> str:
    port = record.secure_port if record.secure_port.enabled and not record.port.enabled else record.port
    text = escape(f"{record.host}:{port.number}")
    if not _is_web(record.home_page):
        return f"<span>{text}</span>"
    return f'<a href="{escape(record.home_page or "")}" rel="noopener noreferrer">{text}</a>'


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
