"""Arguments are checked where they are given: what was wrong, where, and what is allowed."""

from __future__ import annotations

import difflib
import math
import threading
from collections.abc import Iterable

from resilient.errors import ConfigError

_LONGEST = threading.TIMEOUT_MAX  # seconds that a thread can wait; some 292 years


def number(owner: str, path: str, value: object) -> float:
    """`value` as a finite float; a bool, NaN, infinity or text is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{owner}: {path} must be a number, not {value!r}", path=path)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ConfigError(f"{owner}: {path} must be finite, not {value!r}", path=path)
    return found


def positive_seconds(owner: str, path: str, value: object) -> float:
    """`value` as seconds, more than 0."""
    seconds = number(owner, path, value)
    if seconds <= 0:
        raise ConfigError(f"{owner}: {path} must be more than 0 seconds, not {value!r}", path=path)
    if seconds > _LONGEST:
        raise ConfigError(f"{owner}: {path} must be at most {_LONGEST:.0f} seconds, not {value!r}", path=path)
    return seconds


def ratio(owner: str, path: str, value: object) -> float:
    """`value` as a ratio in (0, 1]."""
    found = number(owner, path, value)
    if not 0 < found <= 1:
        hint = f"; for {found:g} % write {found / 100:g}" if 1 < found <= 100 else ""
        raise ConfigError(f"{owner}: {path} must be a ratio more than 0 and at most 1, not {value!r}{hint}", path=path)
    return found


def whole(owner: str, path: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """`value` as a whole number in `least` … `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{owner}: {path} must be a whole number, not {value!r}", path=path)
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"from {least} to {most:,}"
        raise ConfigError(f"{owner}: {path} must be {allowed}, not {value!r}", path=path)
    return value


def policy_name(owner: str, value: object) -> str | None:
    """`value` as a name: text that is not empty, or None."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{owner}: name must be text that is not empty, not {value!r}", path="name")
    return value


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when one of `known` is close to `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
