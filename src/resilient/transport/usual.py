"""The policies of a key unless the user makes them: a circuit breaker around a Retry, and what the configuration says.

`[services.NAME]` is read when a key is first called, and again when it changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from resilient import config, policy
from resilient.clock import Clock, forget_on_fork
from resilient.config import service_settings
from resilient.errors import ConfigError, FailureInfo
from resilient.http_answers import retry_after
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.policy import Policy
from resilient.transport.plans import Inside, Plan

_ORDER: Final = ("timeout", "breaker", "retry", "rate_limiter", "bulkhead", "attempt_timeout")
"""Of the policies, outermost first. The breaker judges what is left after other instances were tried."""
_DEFAULTS: Final[Mapping[str, Callable[..., Policy[Any]]]] = {"breaker": CircuitBreaker, "retry": Retry}
_VERDICTS: Final = ("on", "ignore", "on_result")


class Usual:
    """The policies of one key, following the configuration.

    They take the key as their name without a warning: a sync and an async client of one service are two transports,
    and each has its own.

    Args:
        key: a logical name, or `scheme://host:port`.
        says_nothing: which errors of the client say nothing about the service.
        alone: whether there is one host behind the key now: then its Retry-After opens the circuit.
        clock: of the transport; None: the machine's.
    """

    def __init__(
        self, key: str, *, says_nothing: Callable[[Exception], bool], alone: Callable[[], bool], clock: Clock | None
    ) -> None:
        self._key = key
        self._says_nothing = says_nothing
        self._alone = alone
        self._clock = clock
        self._made: dict[str, Policy[Any]] = {}
        self._tables = config._outside.tables
        self._told = service_settings(key)
        self._lock = threading.Lock()
        self._plan = self._planned()
        forget_on_fork(self)

    def plan(self) -> Plan:
        """The plan, as the configuration says now."""
        if config._outside.tables is not self._tables:  # one look: it is asked at each request
            with self._lock:
                tables, told = config._outside.tables, service_settings(self._key)
                if told is not self._told:
                    self._told = told
                    self._plan = self._planned()
                self._tables = tables
        return self._plan

    def after_fork_in_child(self) -> None:
        """Another thread of the parent's may have held the lock."""
        self._lock = threading.Lock()

    def _planned(self) -> Plan:
        before, self._made = self._made, {}
        for setting in _ORDER:
            made = self._make(setting)
            if made is not None:
                self._made[setting] = _renewed(before.get(setting), made)
        pipeline: Pipeline[Any] = Pipeline(*(self._made.values() or [Inside(())]))
        pipeline.adopt_name(self._key)
        return Plan(pipeline, self._key, heed=self._heed)

    def _make(self, setting: str) -> Policy[Any] | None:
        given = self._told.get(setting, _DEFAULTS.get(setting))
        if given is None:
            return None
        if setting.endswith("timeout"):
            return Timeout(given, clock=self._clock)
        arguments: dict[str, Any] = {"clock": self._clock}
        if setting in _DEFAULTS:
            arguments.update({path: self._told[path] for path in _VERDICTS if path in self._told})
        if setting == "retry":
            arguments.pop("on_result", None)  # it goes by the status of an answer
        if setting == "breaker":
            arguments.setdefault("ignore", self._says_nothing)
        told = getattr(given, "keywords", {})  # of its own table: that is more than what holds for the whole service
        made: Policy[Any] = given(**{path: value for path, value in arguments.items() if path not in told})
        return made

    def _heed(self, failed: Exception) -> None:
        """A Retry-After of the only host there is opens the circuit, as `open_for=retry_after` would.

        Here, and not by that option: it would cost a look at every answer.
        """
        breaker = self._made.get("breaker")
        seconds = retry_after(failed)
        if seconds is None or not isinstance(breaker, CircuitBreaker) or policy.transparent or not self._alone():
            return
        seconds = min(seconds, breaker.settings.max_open_duration)
        breaker._open(seconds, f"told to wait {seconds:.3g} s", FailureInfo.of(failed, breaker.now()), local=True)


def _renewed(old: Policy[Any] | None, new: Policy[Any]) -> Policy[Any]:
    """The old policy with the new settings, so that its counts and its state stay; else the new one."""
    if old is None or type(old) is not type(new):
        return new
    try:
        old.take_settings(new)
    except ConfigError:  # of a kind that can not be changed while it runs
        return new
    return old
