"""When an instance is ejected for how its calls ended, for how long, and how many may be."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from resilient.balancing.hosts import FAILING, UNREACHABLE, WINDOW, Host
from resilient.checks import number, positive_seconds, ratio, whole
from resilient.errors import ConfigError

_OWNER = "Outliers"
JITTER = 0.1  # of the time, up and down: the processes of a fleet must not all try an instance at the same moment


@dataclass(frozen=True, slots=True)
class Outliers:
    """When an instance is ejected because its calls fail.

    Counts, not time windows: a process that sees two calls per second to an instance ejects it, too. After its time one
    call tries it: a success brings it back, a failure ejects it again, for longer. When connections to it are refused
    other rules hold: see `Balancer`.

    Args:
        consecutive_failures: failures in a row that eject, default 5; None: no number does.
        failure_rate: the failed share of its last 20 calls that ejects, more than 0 and at most 1, default 0.25; None:
            no share does.
        minimum_calls: how many of these calls there must be at least, 1 to 20, default 10.
        base: seconds of the first ejection, default 10; the n-th in a row lasts n times as long, 10 % more or less by
            chance. One is forgotten for every `base` seconds in which the instance was in use.
        longest: seconds that one lasts at most, default 300.
        max_share: the share of all instances that may be ejected at once, default 0.34; of two or more at least one
            may, of one none.
        panic: when less than this share of the instances that can be connected to is in use, all are used again,
            0 (never) to 1, default 0.5.

    Raises:
        ConfigError: when a value is out of its range, or nothing would ever eject.

    Immutable, so safe for threads and event loops. The numbers are those of Envoy and Finagle where these work for
    fleets of two and for a hundred client processes.

    Example:
        >>> from resilient.balancing import Balancer, Outliers
        >>> from resilient.discovery import Discovery
        >>> discovery = Discovery.from_url("static://db=10.0.0.1:5432,10.0.0.2:5432")
        >>> balancer = Balancer("db", discovery, outliers=Outliers(consecutive_failures=2))
        >>> for _ in range(4):
        ...     lease = balancer.pick()
        ...     lease.failure() if lease.instance.host == "10.0.0.1" else lease.success()
        >>> balancer.pick().instance.host
        '10.0.0.2'
    """

    consecutive_failures: int | None = 5
    failure_rate: float | None = 0.25
    minimum_calls: int = 10
    base: float = 10.0
    longest: float = 300.0
    max_share: float = 0.34
    panic: float = 0.5

    def __post_init__(self) -> None:
        if self.consecutive_failures is not None:
            whole(_OWNER, "consecutive_failures", self.consecutive_failures)
        if self.failure_rate is not None:
            ratio(_OWNER, "failure_rate", self.failure_rate)
        if self.consecutive_failures is None and self.failure_rate is None:
            raise ConfigError(
                f"{_OWNER}: nothing would eject: consecutive_failures and failure_rate are None; for no ejection at all"
                " give the balancer outliers=None",
                path="failure_rate",
            )
        whole(_OWNER, "minimum_calls", self.minimum_calls, most=WINDOW)
        positive_seconds(_OWNER, "base", self.base)
        if positive_seconds(_OWNER, "longest", self.longest) < self.base:
            raise ConfigError(
                f"{_OWNER}: longest ({self.longest:g} s) is less than base ({self.base:g} s)", path="longest"
            )
        ratio(_OWNER, "max_share", self.max_share)
        if not 0 <= number(_OWNER, "panic", self.panic) <= 1:
            raise ConfigError(f"{_OWNER}: panic must be a ratio from 0 (never) to 1, not {self.panic!r}", path="panic")

    def reason(self, host: Host) -> str | None:
        """Why a host is to be ejected now, or None."""
        if self.consecutive_failures is not None and host.consecutive_failures >= self.consecutive_failures:
            return "failures in a row"
        failed = host.window.bit_count()
        if (
            self.failure_rate is not None
            and host.outcomes >= self.minimum_calls
            and failed >= self.failure_rate * host.outcomes
        ):
            return "failure rate"
        return None

    def allows(self, outs: Collection[Host], listed: int) -> bool:
        """Whether one more of `listed` instances may be ejected: under the cap, and somebody else must be left."""
        ejected = sum(host.out == FAILING for host in outs)
        return ejected < max(1, int(self.max_share * listed)) and len(outs) + 1 < listed

    def eject(self, host: Host, now: float, chance: float) -> float:
        """Eject it once more; `chance` in [0, 1) draws the jitter. Returns the seconds."""
        if host.ejections and host.out is None:  # one is forgotten for every `base` seconds of use
            host.ejections = max(0, host.ejections - int((now - host.returned) / self.base))
        host.ejections += 1
        seconds = min(self.base * host.ejections, self.longest) * (1.0 + JITTER * (2.0 * chance - 1.0))
        host.leave(FAILING, now, now + seconds)
        return seconds


def panics(outs: Collection[Host], listed: int, below: float) -> tuple[bool, int, int]:
    """Whether too few are in use for reasons other than refused connections; how many are; how many could be."""
    there = listed - sum(host.out == UNREACHABLE for host in outs)
    selectable = listed - len(outs)
    return selectable < there and selectable < below * there, selectable, there


DEFAULT = Outliers()
