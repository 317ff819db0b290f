"""What a run has seen."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from examples.hospital.load.latency import Latency
from examples.hospital.load.plan import Plan

_SLICES: Final = 60  # columns of the plot
_MOST_NAMES: Final = 1000  # instances that are told apart
UNFINISHED: Final = "unfinished"
NEVER_SENT: Final = "never sent"


class Slice:
    """The requests that were due in one part of the run.

    Attributes:
        latency: from when they were due.
        failed: how many failed.
    """

    def __init__(self) -> None:
        self.latency = Latency(digits=2)
        self.failed = 0


class Result:
    """Grows while the run goes on.

    A request has failed when it got no answer or one of 400 or more. Latencies count from when a request was due. One
    that was given up, or never sent, counts with the time that it had waited until then: left out, the worst would be.

    Args:
        plan: what was asked.

    Attributes:
        due: requests that have become due.
        sent: those that were sent.
        delayed: those that were due while all users were waiting.
        statuses: answers by their status.
        errors: requests without an answer, by what went wrong.
        served_by: answers by the instance, as its header `X-Served-By` names it.
        latency: all requests, from when they were due.
        succeeded: those that did not fail, from when they were due.
        from_sent: those with an answer, from when they were sent: what a closed loop would have called their latency.
        lag: how late the generator itself was: from due to sent, where a user was free. When it is not small, the
            generator is what was measured.
        slices: the course of the run, in up to 60 equal parts.
        seconds: how long it took, until the last answer.
        interrupted: whether it was stopped before its end.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.due = 0
        self.sent = 0
        self.delayed = 0
        self.statuses = Counter[int]()
        self.errors = Counter[str]()
        self.served_by = Counter[str]()
        self.latency = Latency()
        self.succeeded = Latency()
        self.from_sent = Latency()
        self.lag = Latency()
        self.slices: list[Slice] = []
        self.seconds = 0.0
        self.interrupted = False

    def answered(self, due: float, sent: float, now: float, status: int, instance: str | None) -> None:
        """Count an answer; all times in seconds from the start."""
        self.statuses[status] += 1
        if instance and (instance in self.served_by or len(self.served_by) < _MOST_NAMES):
            self.served_by[instance] += 1
        self.from_sent.record(now - sent)
        self._ended(due, now, failed=status >= 400)

    def broke(self, due: float, now: float, kind: str) -> None:
        """Count a request that got no answer."""
        self.errors[kind] += 1
        self._ended(due, now, failed=True)

    def _ended(self, due: float, now: float, *, failed: bool) -> None:
        self.seconds = max(self.seconds, now)
        self.latency.record(now - due)
        if not failed:
            self.succeeded.record(now - due)
        number = int(due / self.slice_seconds)
        while len(self.slices) <= number:
            self.slices.append(Slice())
        self.slices[number].latency.record(now - due)
        self.slices[number].failed += failed

    @property
    def slice_seconds(self) -> float:
        """The length of a slice."""
        return self.plan.duration / _SLICES

    @property
    def answers(self) -> int:
        """Requests with an answer."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Requests without an answer, or with one of 400 or more."""
        return self.errors.total() + sum(count for status, count in self.statuses.items() if status >= 400)

    @property
    def under_way(self) -> int:
        """Requests that were due, and of which nothing is known yet."""
        return self.due - self.answers - self.errors.total()

    @property
    def error_ratio(self) -> float:
        """The part of all requests that failed."""
        return self.failed / self.due if self.due else 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds if self.seconds else 0.0

    @property
    def classes(self) -> dict[str, int]:
        """Answers by class of status: `{"2xx": 598, "5xx": 2}`."""
        found = Counter[str]()
        for status, count in sorted(self.statuses.items()):
            found[f"{status // 100}xx"] += count
        return dict(found)

    def to_json(self) -> dict[str, Any]:
        """All of it; seconds everywhere."""
        plan = self.plan
        return {
            "plan": {
                "urls": plan.shown,
                "method": plan.method,
                "rate": plan.rate,
                "duration": plan.duration,
                "users": plan.users,
                "requests": plan.requests,
                "arrivals": plan.arrivals,
                "timeout": plan.timeout,
                "seed": plan.seed,
            },
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "rate": self.rate,
            "due": self.due,
            "sent": self.sent,
            "delayed": self.delayed,
            "answers": self.answers,
            "failed": self.failed,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "classes": self.classes,
            "errors": dict(self.errors),
            "served_by": dict(sorted(self.served_by.items())),
            "latency": self.latency.summary().to_json(),
            "succeeded": self.succeeded.summary().to_json(),
            "from_sent": self.from_sent.summary().to_json(),
            "lag": self.lag.summary().to_json(),
            "course": [
                {"at": number * self.slice_seconds, "failed": one.failed, **one.latency.summary().to_json()}
                for number, one in enumerate(self.slices)
            ],
        }
