"""How many replicas there should be. Decides only: it starts nothing, waits for nothing, and reads no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resilient import ConfigError
from resilient.checks import number, whole

_OWNER = "Limits"


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds whatever happens.

    Attributes:
        minimum: replicas there are always, 0 or more, default 2.
        maximum: replicas there are at most, at least `minimum` and at most 100, default 5.
        cooldown: seconds between two steps, counted from when the first was done; default 15. A new replica needs that
            time to show in the metrics that the alert looks at.
        quiet: seconds without an alert before the first replica is taken away, default 60.

    Raises:
        ConfigError: when a value is out of range.
    """

    minimum: int = 2
    maximum: int = 5
    cooldown: float = 15.0
    quiet: float = 60.0

    def __post_init__(self) -> None:
        whole(_OWNER, "minimum", self.minimum, least=0, most=100)
        whole(_OWNER, "maximum", self.maximum, least=0, most=100)
        if self.maximum < self.minimum:
            raise ConfigError(
                f"{_OWNER}: maximum ({self.maximum}) must not be less than minimum ({self.minimum})", path="maximum"
            )
        for path in ("cooldown", "quiet"):
            if number(_OWNER, path, getattr(self, path)) < 0:
                raise ConfigError(f"{_OWNER}: {path} must be 0 seconds or more, not {getattr(self, path)!r}", path=path)


class Target:
    """The number of replicas that is wanted; moves by one, and never twice within the cool-down.

    Args:
        limits: what holds.
        running: how many there are now; it begins with as many as the limits allow of these.

    Attributes:
        limits: what holds.
        wanted: the number.
    """

    def __init__(self, limits: Limits, *, running: int = 0) -> None:
        self.limits = limits
        self.wanted = min(max(running, limits.minimum), limits.maximum)
        self._still_since = -math.inf  # since when there are as many as are wanted

    def decide(self, now: float, *, running: int, firing: bool, quiet_for: float) -> int:
        """Look, and move if it is time to; returns the number that is wanted from now on.

        Args:
            now: seconds on a monotonic clock.
            running: how many replicas there are. While they are not as many as wanted, the last step is not done.
            firing: whether the alert fires.
            quiet_for: seconds for which it has not.
        """
        limits = self.limits
        if running != self.wanted:
            self._still_since = now
            return self.wanted
        if now - self._still_since < limits.cooldown:
            return self.wanted
        step = 0
        if firing:
            step = 1 if self.wanted < limits.maximum else 0
        elif quiet_for >= limits.quiet:
            step = -1 if self.wanted > limits.minimum else 0
        if step:
            self.wanted += step
            self._still_since = now
        return self.wanted

    def stepped(self, now: float) -> None:
        """A replica was started or taken away: the cool-down begins."""
        self._still_since = now
