"""What stands behind a decorated function, and where all of them are found."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Unpack, cast
from weakref import WeakValueDictionary

from resilient import names
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.command_layers import CommandPipeline, counted
from resilient.command_metrics import CommandSnapshot, Judge, Metrics
from resilient.command_settings import LIMITS, CommandSettings, Settings, Written
from resilient.errors import ConfigError
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.fallback import Fallback
from resilient.policies.timeout import Timeout
from resilient.policy import Explanation, Fn, Policy, SyncOnly, describe_function, is_async

_MARK = "__resilient_command__"
_commands: WeakValueDictionary[str, Command] = WeakValueDictionary()
_settle_new: Callable[[Command], None] | None = None  # the configuration from outside, once there is one


class Command:
    """What stands behind a decorated function. Made by `@command`, found by `Command.of`.

    Attributes:
        name: its label.
        pipeline: its layers now; `configure` may replace it.
        settings: what it was told, now.
        written: what the decorator said.
        metrics: its counts.
        judge: how it judges errors.

    Safe for threads and event loops.

    Example:
        >>> from resilient import Command, command
        >>> @command("greeting")
        ... def greet() -> str:
        ...     return "hello"
        >>> greet()
        'hello'
        >>> Command.of(greet).name, Command.of(greet).snapshot().successes
        ('greeting', 1)
    """

    kind = "command"

    def __init__(
        self,
        fn: Fn,
        name: str,
        settings: Settings,
        *,
        fallback: Fallback[Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._fn = fn
        self._fallback = fallback
        self._clock = clock
        self._lock = threading.RLock()  # of those who change settings; no call takes it
        self.metrics = Metrics(clock or SYSTEM_CLOCK)
        self.written = Written.of(settings)
        limits = self._timeouts(settings)
        pipeline = self._pipeline(settings, limits)
        pipeline.ready_for(fn)
        self.name = names.claim(self.kind, name, self)  # not before it is sure to exist
        self._use(settings, limits, pipeline)
        if _settle_new is not None:
            _settle_new(self)
        _commands[self.name] = self
        forget_on_fork(self)

    @classmethod
    def of(cls, fn: Callable[..., Any], /) -> Command:
        """The command behind a decorated function, method or property, or behind what wraps one, such as a Celery task.

        Raises:
            ConfigError: when `fn` is not decorated with `@command`.
        """
        around = getattr(fn, "fget", None) or fn  # a property
        found = getattr(inspect.unwrap(around, stop=lambda one: hasattr(one, _MARK)), _MARK, None)
        if not isinstance(found, cls):
            raise ConfigError(f"{describe_function(fn)} is not decorated with @command", path="fn")
        return found

    @property
    def group(self) -> str:
        """What it belongs to; default the function's module."""
        return self.settings.group or getattr(self._fn, "__module__", None) or ""

    @property
    def breaker(self) -> CircuitBreaker | None:
        """Its circuit breaker, None when it has none."""
        return cast("CircuitBreaker | None", self.settings.breaker)

    def snapshot(self) -> CommandSnapshot:
        """Counts and latencies of one moment: cheap, plain data."""
        breaker = self.breaker
        return self.metrics.snapshot(self.name, self.group, None if breaker is None else breaker.snapshot())

    def explain(self) -> Explanation:
        """What this command does, costs at worst, and what will bite."""
        found = self.pipeline.explain()
        if not is_async(self._fn):
            return found
        return replace(found, warnings=tuple(one for one in found.warnings if not isinstance(one, SyncOnly)))

    def configure(self, **changes: Unpack[CommandSettings]) -> None:
        """Change settings while it runs; what is not named stays, and so do all counts.

        Everything is checked first. A new policy of the same kind gives its settings to the old one, whose counts,
        state and permits stay. Another kind of policy, or one more or less, makes a new chain of layers; calls under
        way end on the old one.

        Args:
            changes: settings of `@command` by their names; None: without that layer.

        Raises:
            ConfigError: for a setting that does not exist or is not allowed; then nothing has changed.

        Example:
            >>> from resilient import CircuitBreaker, Command, command
            >>> @command("parcels", timeout=1.0)
            ... def parcels() -> int:
            ...     return 3
            >>> Command.of(parcels).configure(timeout=2.0, breaker=CircuitBreaker(failure_rate=0.3))
        """
        self.prepare(dict(changes))()

    def prepare(self, changes: Mapping[str, Any], *, from_outside: bool = False) -> Callable[[], None]:
        """Check `changes` and return the function that makes them.

        Args:
            changes: as for `configure`.
            from_outside: True: a policy that was taken away comes back as the object of the code, which others may
                share; default False: as the object that is given.

        Raises:
            ConfigError: as `configure`.
        """
        wanted = self.settings.changed(changes, owner=f"command {self.name!r}")
        self._pipeline(wanted, self._timeouts(wanted)).ready_for(self._fn)
        return lambda: self._change(changes, from_outside=from_outside)

    def reset(self) -> None:
        """As new: counts at zero, the breaker closed and empty; so is every other layer that can be reset."""
        self.metrics.reset()
        for policy in self.pipeline.policies:
            reset: Any = getattr(policy, "reset", None)
            if callable(reset):
                reset()

    def after_fork_in_child(self) -> None:
        """A new lock: the parent's may have been held."""
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Command {self.name!r}: {', '.join(map(repr, self.pipeline.policies))}>"

    def guarded(self) -> Fn:
        """The function that callers get."""
        made = counted(self, self._fn)
        setattr(made, _MARK, self)
        return made

    def _change(self, changes: Mapping[str, Any], *, from_outside: bool) -> None:
        with self._lock:
            old, wanted = self.settings, self.settings.changed(changes)
            before = [old, self.written.settings] if from_outside else [old]
            kept = {path: _go_on((getattr(one, path) for one in before), policy) for path, policy in wanted.policies()}
            limits = {path: _go_on([self._limits.get(path)], limit) for path, limit in self._timeouts(wanted).items()}
            settings = replace(wanted, **kept)
            pipeline = self._pipeline(settings, limits)
            pipeline.ready_for(self._fn)
            gone = {policy for _, policy in old.policies()}.union(self._limits.values(), [self.pipeline])
            for policy in gone.difference(kept.values(), limits.values()):
                if policy.name in {self.name, f"{self.name} attempt"}:  # of its own name it may be in use elsewhere
                    names.release(policy.kind, policy.name, policy)
            self._use(settings, limits, pipeline)

    def _use(self, settings: Settings, limits: dict[str, Timeout], pipeline: CommandPipeline) -> None:
        if "attempt_timeout" in limits:
            limits["attempt_timeout"].adopt_name(f"{self.name} attempt")
        pipeline.adopt_name(self.name)
        self._limits = limits
        self.settings = settings
        self.judge = Judge(settings.given)
        self.pipeline: Pipeline[Any] = pipeline  # the last: calls from now on take the new way

    def _pipeline(self, settings: Settings, limits: Mapping[str, Timeout]) -> CommandPipeline:
        layers: dict[str, Policy[Any]] = {**dict(settings.policies()), **limits}
        if self._fallback is not None:
            layers["fallback"] = self._fallback
        return CommandPipeline(layers, settings.given, self.metrics)

    def _timeouts(self, settings: Settings) -> dict[str, Timeout]:
        return {
            path: Timeout(seconds, clock=self._clock)
            for path in LIMITS
            if (seconds := getattr(settings, path)) is not None
        }


def _go_on(before: Iterable[Policy[Any] | None], new: Any) -> Any:
    """The first of `before` with the settings of `new` that is of its kind and can change; else `new`."""
    old = next((one for one in before if one is not None and one.kind == new.kind), None)
    if old is None or old is new or type(old).take_settings is Policy.take_settings:
        return new
    old.take_settings(new)
    if (given := getattr(new, "_given", None)) is not None:
        old._given = given  # type: ignore[attr-defined]  # what is a failure: read when the new chain is built
    return old


def settle_new(settle: Callable[[Command], None] | None) -> None:
    """Let `settle` have a look at each command that is made from now on, before its first call."""
    global _settle_new
    _settle_new = settle


def commands() -> Mapping[str, Command]:
    """Every command of this process by name, as of now.

    Example:
        >>> from resilient import command, commands
        >>> @command("listed")
        ... def listed() -> None: ...
        >>> "listed" in commands()
        True
    """
    alive = [ref() for ref in _commands.valuerefs()]  # one step: others may make and drop commands meanwhile
    return MappingProxyType({found.name: found for found in alive if found is not None})
