"""What `resilient doctor` looks at. Each examination says what it found and, when something is wrong, what helps."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator

from resilient.cli.findings import Finding, Verdict
from resilient.cli.installation import examine_installation
from resilient.cli.reaching import examine_registry

_FILES = 4096  # below this a busy service with a connection per caller and per instance runs out
_LATE = 0.05  # seconds that an idle event loop may be late
_RELEASED = 1_750_000_000  # a wall clock before that (June 2025) is not set


def examine(url: str | None, timeout: float) -> list[Finding]:
    """Everything; the registry only when there is a URL."""
    found = [*_python(), *examine_installation(), *_event_loop(), *_clock(), *_files()]
    if url is not None:
        found += examine_registry(url, timeout)
    return found


def _python() -> Iterator[Finding]:
    where = f"{platform.system()} {platform.machine()}"
    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    build = f"{platform.python_implementation()} {platform.python_version()} on {where}"
    yield Finding("python", Verdict.GOOD, build + (", without the GIL" if free else ""))


def _event_loop() -> Iterator[Finding]:
    import asyncio

    async def late() -> float:
        begun = time.monotonic()
        await asyncio.sleep(0.01)
        return time.monotonic() - begun - 0.01

    try:
        loop = asyncio.new_event_loop()
    except Exception as error:  # a policy that somebody installed
        yield Finding("event loop", Verdict.WRONG, f"none can be made: {error}", "is a file or socket limit reached?")
        return
    try:
        delay = loop.run_until_complete(late())
    finally:
        loop.close()
    name = f"{type(loop).__module__}.{type(loop).__qualname__}"
    if delay > _LATE:
        yield Finding(
            "event loop",
            Verdict.WARNING,
            f"{name} woke {delay * 1000:.0f} ms late while idle: the machine is busy",
            "timeouts shorter than that will fire by themselves",
        )
    else:
        yield Finding("event loop", Verdict.GOOD, f"{name} wakes {delay * 1000:.1f} ms late")


def _clock() -> Iterator[Finding]:
    resolution = time.get_clock_info("monotonic").resolution
    if resolution > 0.001:
        yield Finding(
            "clock",
            Verdict.WARNING,
            f"time is measured in steps of {resolution * 1000:g} ms",
            "short timeouts are coarse",
        )
    if time.time() < _RELEASED:
        yield Finding(
            "clock",
            Verdict.WRONG,
            f"the date is {time.strftime('%Y-%m-%d')}: the clock is not set",
            "certificates will be refused; set the clock, or run NTP",
        )
    else:
        yield Finding("clock", Verdict.GOOD, f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}, in steps of {resolution:g} s")


def _files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        room = hard == resource.RLIM_INFINITY or hard >= _FILES
        how = "ulimit -n or LimitNOFILE=" if room else "the hard limit is low too: the administrator must raise it"
        yield Finding(
            "open files",
            Verdict.WARNING if soft < 256 else Verdict.NOTE,
            f"this process may open {soft:,}; every connection is one",
            f"for a busy service raise it to {_FILES:,}: {how}",
        )
    else:
        said = "without limit" if soft == resource.RLIM_INFINITY else f"{soft:,}"
        yield Finding("open files", Verdict.GOOD, f"this process may open {said}")
