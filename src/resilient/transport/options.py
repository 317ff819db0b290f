"""What a request says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from resilient import checks
from resilient.errors import ConfigError

EXTENSION: Final = "resilient"

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_KNOWN = ("idempotent", "key", "timeout", "attempts")


@dataclass(frozen=True, slots=True)
class Options:
    """What a request says about itself in `extensions={"resilient": {...}}`.

    Attributes:
        idempotent: whether it may be sent twice; None: its method and its Idempotency-Key say.
        key: what requests that belong together have in common, for strategies that keep them together.
        timeout: seconds for the whole call, attempts and waits included, up to the headers of the answer.
        attempts: how often it is sent at most, the first time included; None, or more than that: as the policies say.
    """

    idempotent: bool | None = None
    key: str | None = None
    timeout: float | None = None
    attempts: int | None = None

    @classmethod
    def of(cls, given: Any) -> Options:
        """Check them.

        Args:
            given: a mapping; None: the request says nothing.

        Raises:
            ConfigError: when one is not known or not of its kind.
        """
        if given is None:
            return NO_OPTIONS
        owner = f"extensions[{EXTENSION!r}]"
        if not isinstance(given, Mapping):
            raise ConfigError(f"{owner} must be a mapping, not {given!r}", path=EXTENSION)
        for name in given:
            if name not in _KNOWN:
                hint = checks.did_you_mean(str(name), _KNOWN)
                raise ConfigError(f"{owner} knows {', '.join(_KNOWN)}, not {name!r}{hint}", path=f"{EXTENSION}.{name}")
        idempotent, key, timeout, attempts = (given.get(name) for name in _KNOWN)
        if idempotent is not None and not isinstance(idempotent, bool):
            raise ConfigError(f"{owner}: idempotent must be True or False, not {idempotent!r}", path="idempotent")
        if key is not None and not isinstance(key, str):
            raise ConfigError(f"{owner}: key must be text, not {key!r}", path="key")
        return cls(
            idempotent,
            key,
            None if timeout is None else checks.positive_seconds(owner, "timeout", timeout),
            None if attempts is None else checks.whole(owner, "attempts", attempts),
        )

    def may_repeat(self, method: str, *, has_key: bool) -> bool:
        """Whether a request may be sent again although the first one may have been carried out."""
        return self.idempotent if self.idempotent is not None else has_key or method.upper() in _IDEMPOTENT


NO_OPTIONS: Final = Options()
