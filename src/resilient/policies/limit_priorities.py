"""Which calls are refused first as a concurrency limit is approached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from resilient.checks import did_you_mean, ratio
from resilient.errors import ConfigError

NORMAL = "normal"
PRIORITIES: Mapping[str, float] = {NORMAL: 1.0, "low": 0.75, "background": 0.5}
current_priority: ContextVar[str] = ContextVar("resilient.priority", default=NORMAL)


@contextmanager
def priority(name: str) -> Iterator[None]:
    """Calls inside the block have this priority, for every ConcurrencyLimiter they pass.

    It travels with the context: into tasks, and into worker threads of this library. Safe for threads and tasks.

    Args:
        name: one of the limiter's `priorities`; by default "normal", "low" or "background".

    Raises:
        ConfigError: when `name` is no text; from the guarded call, when its limiter does not know it.

    Example:
        >>> from resilient.policies.concurrency_limiter import ConcurrencyLimiter, priority
        >>> limiter = ConcurrencyLimiter()
        >>> with priority("background"):  # refused from half of the limit on
        ...     limiter.call(lambda: "report")
        'report'
    """
    if not isinstance(name, str):
        raise ConfigError(f"priority: name must be text, not {name!r}", path="priority")
    token = current_priority.set(name)
    try:
        yield
    finally:
        with suppress(ValueError):  # a generator that ends in another context than it began
            current_priority.reset(token)


def checked_shares(owner: str, given: Mapping[str, float] | None) -> Mapping[str, float]:
    """`given` checked, or the default; calls without a priority may fill the whole limit unless it says otherwise."""
    if given is None:
        return PRIORITIES
    if not isinstance(given, Mapping):
        raise ConfigError(f"{owner}: priorities must map names to shares, not {given!r}", path="priorities")
    names: list[object] = list(given)  # what a caller without a type checker may pass
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{owner}: a priority's name must be text, not {name!r}", path="priorities")
    return {NORMAL: 1.0} | {name: ratio(owner, f"priorities.{name}", share) for name, share in given.items()}


def unknown(owner: str, name: object, known: Mapping[str, float]) -> ConfigError:
    """The error of a call whose priority its limiter does not know."""
    hint = did_you_mean(str(name), known)
    return ConfigError(
        f"{owner!r} knows no priority {name!r}{hint}; it has {', '.join(map(repr, known))}", path="priorities"
    )
