"""Whether a registry can be reached, and says the same time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from resilient.cli import looking
from resilient.cli.findings import Finding, Verdict
from resilient.discovery import Discovery
from resilient.discovery.following import FollowingDiscovery
from resilient.errors import ConfigError

_NOBODY = "resilient-doctor"  # a service that nobody offers
_SKEW = 5.0  # seconds between two machines' clocks that are worth a word


def examine_registry(url: str, timeout: float) -> Iterator[Finding]:
    """Ask it who is there."""
    try:
        discovery = Discovery.from_url(url)
    except (ConfigError, ImportError) as error:
        yield Finding("registry", Verdict.WRONG, str(error))
        return
    named = (_NOBODY,) if isinstance(discovery, FollowingDiscovery) else ()  # one that is asked by name is asked so
    begun = time.monotonic()
    with discovery:
        there = looking.wait_for_answer(discovery, named, timeout)
        took = time.monotonic() - begun
        name = discovery._name
        if there:
            found = looking.known(discovery, ())
            count = sum(map(len, found.values()))
            there_are = "it is asked by name" if named else f"{count} usable instances of {len(found)} services"
            yield Finding("registry", Verdict.GOOD, f"{name} answered in {took * 1000:.0f} ms: {there_are}")
        else:
            yield Finding(
                "registry",
                Verdict.WRONG,
                looking.why_not(discovery, named, timeout),
                "is it running, is the port right, does a firewall or a proxy stand between?",
            )
    if there:
        yield from _skew(name, timeout)


def _skew(name: str, timeout: float) -> Iterator[Finding]:
    """What time it is there, where it speaks HTTP; `name` is its URL without credentials."""
    scheme, _, rest = name.partition("://")
    if scheme not in {"eureka", "http", "https", "consul"}:
        return
    import httpx

    web = "https" if scheme == "https" else "http"
    authority = urlsplit(f"//{rest.partition(',')[0]}").netloc
    try:
        sent = time.time()
        answer = httpx.head(f"{web}://{authority}/", timeout=timeout, trust_env=False)
        said = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, TypeError):
        return  # it says no time
    yield _skew_finding((sent + time.time()) / 2 - said - 0.5, name)


def _skew_finding(seconds: float, whose: str) -> Finding:
    """About the difference between our clock and the registry's."""
    if abs(seconds) > _SKEW:
        way = "ahead of" if seconds > 0 else "behind"
        return Finding(
            "clock",
            Verdict.WARNING,
            f"ours is {abs(seconds):.0f} s {way} that of {whose}",
            "timestamps will be confusing; run NTP on both",
        )
    return Finding("clock", Verdict.GOOD, f"within {_SKEW:g} s of that of {whose}")
