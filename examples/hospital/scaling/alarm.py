"""Whether it fires now, and for how long it has not, though messages come late, twice, in any order, or not at all."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from examples.hospital.scaling.alerts import Alert
from resilient.checks import positive_seconds

_MOST: Final = 1000  # alerts that are remembered


@dataclass(slots=True)
class _Known:
    starts_at: float
    resolved: bool
    until: float  # when it is over, on the monotonic clock


class Alarm:
    """The alerts of one name, and whether any of them fires.

    Of one alert the message with the latest `starts_at` counts; of the same `starts_at` its end is final, so that a
    message which comes late does not make it fire again. One that is not told again for `stale` seconds is over: the
    message of its end may have been lost.

    Args:
        name: whose alerts count; None: every alert.
        stale: seconds, more than 0, default 300. Prometheus repeats an alert every minute; Alertmanager's
            `repeat_interval` must be shorter.
        now: on the monotonic clock.
    """

    def __init__(self, name: str | None = None, *, stale: float = 300.0, now: float) -> None:
        self._name = name
        self._stale = positive_seconds("Alarm", "stale", stale)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._quiet_since = now  # of those that were forgotten

    def heard(self, alert: Alert, now: float) -> bool:
        """Take note of an alert; whether it is one that counts."""
        if self._name is not None and alert.name != self._name:
            return False
        known = self._known.get(alert.key)
        if known is not None:
            late = alert.starts_at < known.starts_at
            over = alert.starts_at == known.starts_at and known.resolved
            if late or over:
                return True
        self._note(alert, known, now)
        return True

    def _note(self, alert: Alert, known: _Known | None, now: float) -> None:
        if alert.firing:
            until = now + min(self._stale, self._stale if alert.ends_in is None else alert.ends_in)
        else:
            until = self._quiet_since if known is None else min(known.until, now)
        self._known[alert.key] = _Known(alert.starts_at, not alert.firing, until)
        self._known.move_to_end(alert.key)
        if len(self._known) > _MOST:
            _, forgotten = self._known.popitem(last=False)
            self._quiet_since = max(self._quiet_since, min(forgotten.until, now))

    def firing(self, now: float) -> bool:
        """Whether any of them fires."""
        return self._over() > now

    def quiet_for(self, now: float) -> float:
        """Seconds for which none has fired; 0 while one does."""
        return max(0.0, now - self._over())

    def _over(self) -> float:
        return max([self._quiet_since, *(known.until for known in self._known.values())])
