"""What a request says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resilient import checks
from resilient.errors import ConfigError

EXTENSION = "resilient"
ATTEMPTS = 3  # in total; one retry already makes up for one dead host of a fleet, the second for a bad moment

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True)
class Options:
    """What a request says about itself in `extensions={"resilient": {...}}`.

    Attributes:
        idempotent: whether it may be sent twice; None: its method and its Idempotency-Key say.
        key: what requests that belong together have in common, for strategies that keep them together.
        timeout: seconds for the whole call, attempts included, up to the headers of the answer.
        attempts: how many instances are tried at most, default 3.
    """

    idempotent: bool | None = None
    key: str | None = None
    timeout: float | None = None
    attempts: int = ATTEMPTS

    @classmethod
    def of(cls, extensions: Mapping[str, Any]) -> Options:
        """Read and check them.

        Raises:
            ConfigError: when one is not known or not of its kind.
        """
        given = extensions.get(EXTENSION)
        if given is None:
            return _NO_OPTIONS
        owner = f"extensions[{EXTENSION!r}]"
        known = ("idempotent", "key", "timeout", "attempts")
        if not isinstance(given, Mapping):
            raise ConfigError(f"{owner} must be a mapping, not {given!r}", path=EXTENSION)
        for name in given:
            if name not in known:
                hint = checks.did_you_mean(str(name), known)
                raise ConfigError(
                    f"extensions[{EXTENSION!r}] knows {', '.join(known)}, not {name!r}{hint}",
                    path=f"{EXTENSION}.{name}",
                )
        idempotent, key, timeout = given.get("idempotent"), given.get("key"), given.get("timeout")
        owner = f"extensions[{EXTENSION!r}]"
        if idempotent is not None and not isinstance(idempotent, bool):
            raise ConfigError(f"{owner}: idempotent must be True or False, not {idempotent!r}", path="idempotent")
        if key is not None and not isinstance(key, str):
            raise ConfigError(f"{owner}: key must be text, not {key!r}", path="key")
        return cls(
            idempotent,
            key,
            None if timeout is None else checks.positive_seconds(owner, "timeout", timeout),
            checks.whole(owner, "attempts", given.get("attempts", ATTEMPTS)),
        )

    def may_repeat(self, method: str, *, has_key: bool) -> bool:
        """Whether a request may be sent again although the first one may have been carried out."""
        return self.idempotent if self.idempotent is not None else has_key or method.upper() in _IDEMPOTENT


_NO_OPTIONS = Options()
