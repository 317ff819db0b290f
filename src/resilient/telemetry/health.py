"""Health: whether this process lives, and whether it can take traffic."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Final

from resilient.checks import did_you_mean, number, positive_seconds
from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.errors import ConfigError
from resilient.telemetry.health_checks import Check, Probe, Run
from resilient.telemetry.health_parts import NAMES, Parts
from resilient.telemetry.health_report import OUT_OF_SERVICE, UP, ComponentInfo, HealthInfo, worst

OWNER: Final = "Health"
LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
GROUPS: Final = (LIVENESS, READINESS)
_LIVE, _READY = "livenessState", "readinessState"


class Health:
    """Says whether this process lives, and whether it can take traffic, as Spring Boot's Actuator does.

    *Liveness* is for who restarts processes: `UP` as long as it can answer at all, and your `liveness` checks are well.
    *Readiness* is for who sends traffic. Besides your `checks` it looks at what the library knows:

    - `registration`: OUT_OF_SERVICE until the registry has listed this process for the first time. Later a registry
      that is away is UNKNOWN, which is no reason to stop: everybody goes on with what was known last.
    - `circuitBreakers`: for information, except those that are `required`: while one of them refuses calls, DOWN. Once
      its time is over it is ready again, as only traffic can close it.
    - `discovery`: the services that are called and how many instances are known, for information.

    A dependency that is down is no reason to be down oneself: then one outage takes everything out of service. Require
    only what every answer needs.

    Args:
        checks: your own, by name: a function without arguments, sync or async. None or True is UP, a mapping is UP with
            these details, False or an exception is DOWN. A sync one runs in a worker thread.
        liveness: the same for liveness. Only what a restart mends belongs here.
        required: names of circuit breakers without which this process is of no use.
        timeout: seconds that checks are waited for, all at the same time; default 2.0. Beyond, DOWN.
        max_age: seconds that an answer of a check holds, 0 or more, default 1.0: however many ask, it is asked once.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when an argument is wrong.

    Safe for threads and event loops. A check never runs twice at once: one that hangs is DOWN, and is not asked again
    before it has ended; an async one is cancelled. A report holds nobody up for longer than `timeout`.

    Source: names, groups, statuses and their order are those of Spring Boot's Actuator, details of circuits are
    resilience4j's.

    Example:
        >>> from resilient.telemetry import Health
        >>> health = Health({"database": lambda: {"rows": 12}})
        >>> report = health.report("readiness")
        >>> report.status, report.http_status, dict(report.components["database"].details)
        ('UP', 200, {'rows': 12})
        >>> health.refuse_traffic()
        >>> health.report("readiness").http_status, health.report("liveness").http_status
        (503, 200)
    """

    def __init__(
        self,
        checks: Mapping[str, Check] | None = None,
        *,
        liveness: Mapping[str, Check] | None = None,
        required: Collection[str] = (),
        timeout: float = 2.0,
        max_age: float = 1.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if isinstance(required, str) or not isinstance(required, Collection):
            raise ConfigError(f"{OWNER}: required must be a collection of names, not {required!r}", path="required")
        if number(OWNER, "max_age", max_age) < 0:
            raise ConfigError(f"{OWNER}: max_age must be 0 seconds or more, not {max_age!r}", path="max_age")
        positive_seconds(OWNER, "timeout", timeout)
        probe = functools.partial(Probe, timeout=timeout, max_age=max_age, clock=clock)
        self._probes = {
            LIVENESS: [probe(name, check) for name, check in _checked(liveness, "liveness").items()],
            READINESS: [probe(name, check) for name, check in _checked(checks, "checks").items()],
        }
        twice = {one.name for one in self._probes[LIVENESS]} & {one.name for one in self._probes[READINESS]}
        if twice:
            raise ConfigError(f"{OWNER}: {min(twice)!r} is in checks and in liveness", path="liveness")
        self._parts = Parts(required)
        self._refusal: str | None = None

    def refuse_traffic(self, reason: str = "draining") -> None:
        """Not ready from now on, whatever the checks say: before a process stops.

        Args:
            reason: shown in the report.
        """
        self._refusal = reason

    def accept_traffic(self) -> None:
        """As ready as the checks say; so it begins."""
        self._refusal = None

    def report(self, group: str | None = None) -> HealthInfo:
        """How it is; blocks for `timeout` seconds at most.

        Args:
            group: `liveness` or `readiness`; None, the default: both.

        Raises:
            ConfigError: when there is no such group, or a check is async: use `areport`.
        """
        probes = self._of(group)
        for probe in probes:
            if probe.is_async:
                raise ConfigError(f"{OWNER}: the check {probe.name!r} is async: use `await areport()`", path=probe.name)
        runs = [(probe, probe.begin()) for probe in probes]
        answers = {probe.name: probe.wait(run) for probe, run in runs}
        return self._report(group, answers, {} if group == LIVENESS else self._parts.read())

    async def areport(self, group: str | None = None) -> HealthInfo:
        """The same for an event loop."""
        import asyncio

        runs: list[tuple[Probe, Run]] = [(probe, probe.begin()) for probe in self._of(group)]
        answers = await asyncio.gather(*(probe.wait_async(run) for probe, run in runs))
        named = {probe.name: answer for (probe, _), answer in zip(runs, answers, strict=True)}
        parts = {} if group == LIVENESS else await asyncio.to_thread(self._parts.read)  # 10,000 circuits take 60 ms
        return self._report(group, named, parts)

    def _of(self, group: str | None) -> list[Probe]:
        if group is None:
            return [*self._probes[LIVENESS], *self._probes[READINESS]]
        if group not in GROUPS:
            raise ConfigError(
                f"{OWNER}: there is no group {group!r}; there are {' and '.join(GROUPS)}{did_you_mean(group, GROUPS)}",
                path="group",
            )
        return self._probes[group]

    def _report(
        self, group: str | None, answers: Mapping[str, ComponentInfo], parts: Mapping[str, ComponentInfo]
    ) -> HealthInfo:
        components = {**answers, **parts}
        if group != READINESS:
            components[_LIVE] = ComponentInfo(UP)
        if group != LIVENESS:
            refusal = self._refusal
            components[_READY] = (
                ComponentInfo(UP) if refusal is None else ComponentInfo(OUT_OF_SERVICE, {"reason": refusal})
            )
        return HealthInfo(
            worst(one.status for one in components.values()),
            dict(sorted(components.items())),
            GROUPS if group is None else (),
        )


def _checked(checks: object, path: str) -> Mapping[str, Check]:
    if checks is None:
        return {}
    if not isinstance(checks, Mapping):
        raise ConfigError(f"{OWNER}: {path} must be a mapping of names to functions, not {checks!r}", path=path)
    for name, check in checks.items():
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{OWNER}: a name in {path} must be text that is not empty, not {name!r}", path=path)
        if name in {*NAMES, _LIVE, _READY}:
            raise ConfigError(
                f"{OWNER}: {name!r} is a part of its own; call the check otherwise", path=f"{path}.{name}"
            )
        if not callable(check):
            raise ConfigError(
                f"{OWNER}: {path}.{name} must be a function without arguments, not {check!r}", path=f"{path}.{name}"
            )
    return checks
