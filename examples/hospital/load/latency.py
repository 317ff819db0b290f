"""Latencies in an HDR histogram: every value within 0.1 %, whatever their number, in a fixed piece of memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from hdrh.histogram import HdrHistogram

_UNIT: Final = 1e6  # it counts in microseconds
_LONGEST: Final = 3_600_000_000  # of them: an hour


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a distribution, in seconds; all 0 when there was nothing."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    def to_json(self) -> dict[str, float]:
        """As JSON has it."""
        return asdict(self)


class Latency:
    """A distribution of seconds.

    Args:
        digits: significant figures that are kept, 1 … 5; default 3, an error of 0.1 %.

    For one event loop.
    """

    def __init__(self, *, digits: int = 3) -> None:
        self._histogram: Any = HdrHistogram(1, _LONGEST, digits)  # a package without types

    def record(self, seconds: float) -> None:
        """Count one; less than a microsecond is one, more than an hour is an hour."""
        self._histogram.record_value(min(max(round(seconds * _UNIT), 1), _LONGEST))

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._histogram.get_total_count())

    def at(self, percentile: float) -> float:
        """The seconds that so many percent of all did not exceed, by nearest rank; 0 when there is nothing."""
        if not self.count:
            return 0.0
        rank = math.ceil(round(self.count * percentile / 100, 6))  # of few it takes one too low: it rounds
        return float(self._histogram.get_value_at_percentile(100 * rank / self.count)) / _UNIT

    def summary(self) -> Summary:
        """Its figures."""
        if not self.count:
            return Summary(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        mean, longest = self._histogram.get_mean_value() / _UNIT, self._histogram.get_max_value() / _UNIT
        return Summary(self.count, mean, self.at(50), self.at(90), self.at(99), self.at(99.9), longest)
