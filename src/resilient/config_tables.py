"""What a configuration says, checked as far as that can be done without the functions that it speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from resilient.checks import did_you_mean
from resilient.command_settings import KINDS, LIMITS, NAMES, VERDICTS, Settings, hint
from resilient.config_values import Mistakes, arguments_of, build, join, parameters, resolve, said, value_of
from resilient.errors import ConfigError
from resilient.policy import Policy

CLASSES: Final[Mapping[str, str]] = {
    "circuit_breaker": "resilient.policies.circuit_breaker:CircuitBreaker",
    "retry": "resilient.policies.retry:Retry",
    "rate_limiter": "resilient.policies.rate_limiter:RateLimiter",
    "bulkhead": "resilient.policies.bulkhead:Bulkhead",
    "thread_pool_bulkhead": "resilient.policies.thread_pool_bulkhead:ThreadPoolBulkhead",
    "concurrency_limiter": "resilient.policies.concurrency_limiter:ConcurrencyLimiter",
    "hedge": "resilient.policies.hedge:Hedge",
    "cache": "resilient.policies.cache:Cache",
    "chaos": "resilient.policies.chaos:Chaos",
}
"""Where each kind of policy lives: imported when a file speaks of it."""

SERVICE_POLICIES: Final = ("retry", "breaker", "rate_limiter", "bulkhead")
SERVICE_SETTINGS: Final = (*LIMITS, *SERVICE_POLICIES, *VERDICTS)
ROOMS: Final = ("defaults", "commands", "services")
ANNOTATIONS: Final = {one.name: str(one.type) for one in fields(Settings)}

Table = Mapping[str, Any]
EMPTY: Final[Table] = MappingProxyType({})

_WITH: Final[Mapping[str, Table]] = {
    "circuit_breaker": {"slow_call_duration": 1.0},
    "rate_limiter": {"limit": 1.0},
    "bulkhead": {"max_wait": 1.0},
    "cache": {"seconds": 1.0},
    "chaos": {"latency": 1.0},
}
"""What the code of a command that is not made yet may give, so that each key alone says something."""


@dataclass(frozen=True)
class Tables:
    """A configuration: what it says of every command, of each command, of each service."""

    defaults: Table
    commands: Mapping[str, Table]
    services: Mapping[str, Table]

    def says(self, name: str) -> frozenset[str]:
        """The settings of the command `name` that it speaks of."""
        return frozenset(self.defaults) | frozenset(self.commands.get(name, ()))


def class_of(kind: str) -> type[Policy[Any]]:
    """The class of a kind of policy."""
    found: type[Policy[Any]] = resolve(CLASSES[kind])
    return found


def read(given: Table, mistakes: Mistakes) -> Tables:
    """Check everything that needs no command: the commands that it speaks of may be made later."""
    for word in given:
        if word not in ROOMS:
            close = did_you_mean(str(word), ROOMS) or f"; these are: {', '.join(ROOMS)}"
            mistakes.add(join(str(word)), f"there is no such table{close}")
    defaults = _table(given.get("defaults", EMPTY), "defaults", mistakes)
    _check(defaults, "defaults", mistakes, NAMES)
    defaults = {word: given for word, given in defaults.items() if not mistakes.under(f"defaults.{join(word)}")}
    commands, services = {}, {}
    for name, table in _table(given.get("commands", EMPTY), "commands", mistakes).items():
        path = f"commands.{join(name)}"
        commands[name] = _table(table, path, mistakes)
        _check(commands[name], path, mistakes, NAMES)
    for name, table in _table(given.get("services", EMPTY), "services", mistakes).items():
        path = f"services.{join(name)}"
        found = _table(table, path, mistakes)
        _check(found, path, mistakes, SERVICE_SETTINGS)
        services[name] = MappingProxyType({word: _for_service(word, found[word], path, mistakes) for word in found})
    return Tables(defaults, commands, services)


def choose(setting: str, table: Table, usual: str, path: str, mistakes: Mistakes) -> type[Policy[Any]] | None:
    """The class of policy that a table is for: by its `kind`, else the usual one."""
    kind = table.get("kind", usual)
    if kind in KINDS[setting]:
        return class_of(kind)
    mistakes.add(f"{path}.kind", f"must be one of {', '.join(KINDS[setting])}, not {kind!r}")
    return None


def without_kind(table: Table) -> dict[str, Any]:
    """The arguments in a table of a policy."""
    return {word: value for word, value in table.items() if word != "kind"}


def _table(given: Any, path: str, mistakes: Mistakes) -> Table:
    if isinstance(given, Mapping) and all(isinstance(word, str) for word in given):
        return given
    mistakes.add(path, f"must be a table, not {given!r}")
    return EMPTY


def _check(table: Table, path: str, mistakes: Mistakes, known: tuple[str, ...]) -> None:
    """Words that are no settings, values that no constructor would take."""
    for word, value in table.items():
        here = f"{path}.{join(word)}"
        if word not in known:
            why = hint(word, known)
            room, _, name = path.partition(".")
            if not why and isinstance(value, Mapping) and name and '"' not in name:
                why = f"; a name with dots stands in quotes: [{room}.{join(f'{name}.{word}')}]"
            mistakes.add(here, f"there is no setting {word!r}{why}")
        elif word in KINDS:
            _check_policy(word, value, here, mistakes)
        else:
            found = value_of(value, ANNOTATIONS[word], here, mistakes)
            try:  # one by one, so that all mistakes are told
                Settings(**{word: found})
            except ConfigError as error:
                mistakes.add(here, said(error))


def _check_policy(setting: str, given: Any, path: str, mistakes: Mistakes) -> None:
    if isinstance(given, bool):
        return
    if not isinstance(given, Mapping):
        mistakes.add(path, f"must be a table, true or false, not {given!r}")
        return
    table = without_kind(given)
    cls = choose(setting, given, KINDS[setting][0], path, mistakes)
    if cls is None:
        return
    if "kind" not in given and not table.keys() <= parameters(cls).keys():  # the code may have one of another kind
        cls = next((one for one in map(class_of, KINDS[setting]) if table.keys() <= parameters(one).keys()), cls)
    build(cls, table, path, mistakes, _WITH.get(cls.kind, EMPTY))


def _for_service(setting: str, given: Any, path: str, mistakes: Mistakes) -> Any:
    """What a transport gets: a number, a type, or a function that makes the policy."""
    here = f"{path}.{join(setting)}"
    if setting not in SERVICE_POLICIES:
        return value_of(given, ANNOTATIONS.get(setting, ""), here, mistakes)
    table = given if isinstance(given, Mapping) else EMPTY
    cls = choose(setting, table, KINDS[setting][0], here, mistakes)
    if given is False or cls is None:
        return None
    arguments = without_kind(table)
    build(cls, arguments, here, mistakes, EMPTY)
    return partial(cls, **arguments_of(cls, arguments, here, mistakes))
