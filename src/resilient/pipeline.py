"""Policies around a call."""

from __future__ import annotations

from typing import Any

from resilient.errors import ConfigError
from resilient.policy import F_co, Fn, Policy


class Pipeline(Policy[F_co]):
    """Policies around a call, outermost first; itself a policy, so pipelines nest.

    Built once, used by any number of functions, threads and event loops at once. A Timeout anywhere in it is enforced
    directly around the call: the policies between see a plain error, and a sync call hops to a worker thread once.

    Args:
        policies: outermost first; at least one.
        name: label; default "pipeline".

    Raises:
        ConfigError: when something is not a policy, or there is none.

    Example:
        >>> from resilient import CircuitBreaker, Fallback, Pipeline
        >>> guard = Pipeline(Fallback(value="unknown"), CircuitBreaker("colours"))
        >>> guard.call(lambda: "red")
        'red'
        >>> guard.call(lambda: {}["missing"])
        'unknown'
    """

    kind = "pipeline"

    def __init__(self, *policies: Policy[F_co], name: str | None = None) -> None:
        if not policies:
            raise ConfigError("Pipeline: at least one policy is needed", path="policies")
        for position, policy in enumerate(policies):
            if not isinstance(policy, Policy):
                hint = ": make one, `Kind(...)`" if isinstance(policy, type) else ""
                raise ConfigError(
                    f"Pipeline: argument {position + 1} must be a policy, not {policy!r}{hint}", path="policies"
                )
        self._policies = policies
        self._given_name = name is not None  # not one that it has from a command, which says it anyway
        super().__init__(name)

    @property
    def policies(self) -> tuple[Policy[F_co], ...]:
        """The policies it was given, outermost first."""
        return self._policies

    @property
    def layers(self) -> tuple[Policy[Any], ...]:
        """The same with nested pipelines laid open."""
        return tuple(layer for policy in self._policies for layer in policy.layers)

    def check(self, fn: Fn) -> None:
        """Refuse a function that one of the policies can not guard."""
        for policy in self._policies:
            policy.check(fn)

    def adopt_name(self, name: str) -> None:
        """Hand a command's name to every policy that has none of its own."""
        super().adopt_name(name)
        for policy in self._policies:
            policy.adopt_name(name)

    def __repr__(self) -> str:
        named = [f"name={self._name!r}"] if self._given_name else []
        return f"Pipeline({', '.join([*map(repr, self._policies), *named])})"
