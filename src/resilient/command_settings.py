"""What a command was told: one frozen object that checks itself, replaced at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

from resilient.checks import did_you_mean, positive_seconds
from resilient.clock import Clock
from resilient.errors import ConfigError
from resilient.outcome import Classification, Match
from resilient.policy import Policy

if TYPE_CHECKING:
    from resilient.policies.bulkhead import Bulkhead
    from resilient.policies.cache import Cache
    from resilient.policies.chaos import Chaos
    from resilient.policies.circuit_breaker import CircuitBreaker
    from resilient.policies.concurrency_limiter import ConcurrencyLimiter
    from resilient.policies.hedge import Hedge
    from resilient.policies.rate_limiter import RateLimiter
    from resilient.policies.retry import Retry
    from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead

OWNER = "command"

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "cache": ("cache",),
    "retry": ("retry",),
    "breaker": ("circuit_breaker",),
    "rate_limiter": ("rate_limiter",),
    "bulkhead": ("bulkhead", "thread_pool_bulkhead", "concurrency_limiter"),
    "hedge": ("hedge",),
    "chaos": ("chaos",),
}
"""Which kinds of policy each setting takes, the usual one first."""

LIMITS: Final = ("timeout", "attempt_timeout")
VERDICTS: Final = ("on", "ignore", "on_result")


class CommandSettings(TypedDict, total=False):
    """The settings of a command; the same names in code, in TOML and in `Command.configure()`. None: without."""

    group: str | None
    timeout: float | None
    attempt_timeout: float | None
    retry: Retry | None
    breaker: CircuitBreaker | None
    rate_limiter: RateLimiter | None
    bulkhead: Bulkhead | ThreadPoolBulkhead | ConcurrencyLimiter | None
    hedge: Hedge | None
    cache: Cache | None
    chaos: Chaos | None
    on: Match
    ignore: Match
    on_result: Callable[[Any], bool] | None


class CommandArguments(CommandSettings, total=False):
    """What `@command` takes beside its fallback: the settings, and what never changes."""

    clock: Clock | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a command, as given; checked when made."""

    group: str | None = None
    timeout: float | None = None
    attempt_timeout: float | None = None
    retry: Policy[Any] | None = None
    breaker: Policy[Any] | None = None
    rate_limiter: Policy[Any] | None = None
    bulkhead: Policy[Any] | None = None
    hedge: Policy[Any] | None = None
    cache: Policy[Any] | None = None
    chaos: Policy[Any] | None = None
    on: Match = Exception
    ignore: Match = ()
    on_result: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        group: object = self.group  # what a caller without a type checker may pass
        if group is not None and (not isinstance(group, str) or not group.strip()):
            raise ConfigError(f"{OWNER}: group must be text that is not empty, not {group!r}", path="group")
        for path in LIMITS:
            if (seconds := getattr(self, path)) is not None:
                positive_seconds(OWNER, path, seconds)
        for path, kinds in KINDS.items():
            _check_kind(path, kinds, getattr(self, path))
        if self.retry is not None and self.hedge is not None:
            raise ConfigError(
                f"{OWNER}: retry and hedge together would multiply calls while the dependency is slow; choose one",
                path="hedge",
            )
        self.given  # noqa: B018  # made, it has checked itself

    @property
    def given(self) -> Classification:
        """The verdicts that layers without any of their own follow."""
        return Classification(self.on, self.ignore, self.on_result)

    def policies(self) -> Iterator[tuple[str, Policy[Any]]]:
        """The policies that were given, by setting."""
        for path in KINDS:
            if (policy := getattr(self, path)) is not None:
                yield path, policy

    def changed(self, changes: Mapping[str, Any], *, owner: str = OWNER) -> Settings:
        """The same with `changes`.

        Raises:
            ConfigError: for a name that is no setting, or a value that is not allowed.
        """
        for word in changes:
            if word not in NAMES:
                raise ConfigError(f"{owner}: there is no setting {word!r}{hint(word, NAMES)}", path=word)
        return replace(self, **changes)


@dataclass(frozen=True)
class Written:
    """What the decorator said: its settings, and those that each policy had then. They change at run time; this stays.

    Attributes:
        settings: of the command.
        policies: what each policy was told, by its name among the settings of the command.
    """

    settings: Settings
    policies: Mapping[str, Told]

    @classmethod
    def of(cls, settings: Settings) -> Written:
        """Remember what holds now."""
        return cls(settings, {path: told(policy) for path, policy in settings.policies()})


class Told(NamedTuple):
    """What a policy was told: its settings, and its verdicts if it has any."""

    settings: Any
    given: Classification | None


def told(policy: Policy[Any]) -> Told:
    """What holds for `policy` now."""
    return Told(getattr(policy, "settings", None), getattr(policy, "_given", None))


NAMES: Final = tuple(one.name for one in fields(Settings))


def hint(word: str, known: tuple[str, ...]) -> str:
    """What a word that is no setting may have meant."""
    if word in {"fallback", "clock", "name"}:
        return f": {word} is a part of what the function is; give it to @command"
    return did_you_mean(word, known)


def _check_kind(path: str, kinds: tuple[str, ...], given: object) -> None:
    if given is None or (isinstance(given, Policy) and given.kind in kinds):
        return
    wanted = " or ".join("".join(word.title() for word in kind.split("_")) for kind in kinds)
    usual = wanted.partition(" ")[0]
    how = ""
    if isinstance(given, type):
        how = f": make one, `{usual}(...)`"
    elif isinstance(given, (int, float)) and not isinstance(given, bool):
        how = f": write {usual}({'attempts=' if path == 'retry' else ''}{given!r})"
    article = "an" if wanted[0] in "AEIOU" else "a"
    raise ConfigError(f"{OWNER}: {path} must be {article} {wanted} or None, not {given!r}{how}", path=path)
