"""Settings from outside: a TOML file, a mapping, or what $RESILIENT_CONFIG names. Nothing is read at import."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

from resilient.checks import did_you_mean
from resilient.clock import forget_on_fork
from resilient.command_object import Command, commands, settle_new
from resilient.config_overlay import settings_for
from resilient.config_tables import EMPTY, Tables, read
from resilient.config_values import Mistakes, join, said
from resilient.errors import ConfigError

__all__ = ["configure", "schema", "service_settings"]

logger = logging.getLogger("resilient")

VARIABLE: Final = "RESILIENT_CONFIG"


class _Outside:
    """What holds now, and for which settings of which command it spoke before."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # of those who configure, who may run a user's function; no call ever takes it
        self.tables = Tables(EMPTY, EMPTY, EMPTY)
        self.spoken_of: dict[str, frozenset[str]] = {}
        forget_on_fork(self)

    def after_fork_in_child(self) -> None:
        self.lock = threading.RLock()


_outside = _Outside()


def configure(source: str | PathLike[str] | Mapping[str, Any] | None = None) -> None:
    """Apply settings from outside to every command, now and when it is made later.

    Tables: `[defaults]` for all commands, `[commands.NAME]` for one, `[services.NAME]` for transports. Their keys are
    the keywords of `@command` and of the policies' constructors, which check them. A table of a policy changes the
    policy of the code, or adds one; `false` takes it away. Windows, budgets and algorithms are tables; functions and
    exception types are text, `"module:name"`. What is said in `[defaults]` holds where the code left the default.

    Called again, it applies what changed: counters, states and calls under way stay. For a setting that it spoke of
    before and does not any more, the code holds again. When anything is wrong, nothing changes.

    Args:
        source: path of a TOML file, or a mapping of the same shape; default the file that $RESILIENT_CONFIG names.

    Raises:
        ConfigError: one for all mistakes, a line for each with the path of its key; or the file can not be read.

    Safe for threads; the application calls it, a library does not.

    Example:
        >>> import resilient
        >>> @resilient.command("quotes", retry=None)
        ... def quotes() -> list[float]:
        ...     return [9.5]
        >>> resilient.configure({"commands": {"quotes": {"timeout": 2.0, "breaker": {"failure_rate": 0.3}}}})
        >>> resilient.Command.of(quotes).breaker.settings.failure_rate
        0.3
        >>> resilient.configure({})  # as in the code
    """
    name, given = _given(source)
    mistakes = Mistakes()
    tables = read(given, mistakes)
    with _outside.lock:
        # what is said of a command comes last: of a policy that two share, it is not undone by the other's code
        settled = sorted(commands().values(), key=lambda command: command.name in tables.commands)
        changes = [_prepare(command, tables, mistakes) for command in settled]
        mistakes.raise_if_any(name)
        _outside.tables = tables
        settle_new(_settle)
        for change in changes:
            change()
        _outside.spoken_of = {one: tables.says(one) for one in commands()}
    _tell_unknown(name, tables)


def service_settings(name: str) -> Mapping[str, Any]:
    """What `[services.NAME]` says, for transports; empty when it says nothing.

    Returns:
        Numbers and types as they are; for `retry`, `breaker`, `rate_limiter` and `bulkhead` a function that makes the
        policy and takes more arguments (`name=`), or None for `false`.

    Example:
        >>> from resilient import config, configure
        >>> configure({"services": {"producer": {"breaker": {"failure_rate": 0.3}}}})
        >>> breaker = config.service_settings("producer")["breaker"](name="producer")
        >>> breaker.settings.failure_rate
        0.3
        >>> configure({})
        >>> dict(config.service_settings("producer"))
        {}
    """
    found: Mapping[str, Any] = _outside.tables.services.get(name, EMPTY)
    return found


def schema() -> dict[str, Any]:
    """A JSON schema of the configuration, for editors; made from the constructors' signatures.

    Example:
        >>> from resilient import config
        >>> sorted(config.schema()["properties"])
        ['commands', 'defaults', 'services']
    """
    from resilient import config_schema

    return config_schema.made()


def _given(source: str | PathLike[str] | Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]]:
    if isinstance(source, Mapping):
        return "configure()", source
    if source is None:
        source = os.environ.get(VARIABLE)
        if not source:
            raise ConfigError(
                f"configure: nothing to read: give a file or a mapping, or set ${VARIABLE}", path="source"
            )
    if not isinstance(source, (str, PathLike)):
        raise ConfigError(f"configure: source must be a path or a mapping, not {source!r}", path="source")
    import tomllib

    path = Path(source)
    try:
        return path.name, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configure: {path} can not be read: {error.strerror or error}", path="source") from error
    except ValueError as error:
        raise ConfigError(f"configure: {path} is no TOML: {error}", path="source") from error


def _prepare(command: Command, tables: Tables, mistakes: Mistakes) -> Callable[[], None]:
    """Check what `tables` makes of a command; return the function that makes it."""
    mine = Mistakes()
    before = _outside.spoken_of.get(command.name, frozenset())
    wanted = settings_for(command, tables, before, mine)
    path = f"commands.{join(command.name)}"
    if not mine:
        try:
            if wanted:
                return command.prepare(wanted, from_outside=True)
        except ConfigError as error:
            mine.add(f"{path}.{error.path}" if error.path else path, said(error))
    mistakes.take(mine)
    return lambda: None


def _settle(command: Command) -> None:
    """Apply what holds to a command that was just made."""
    with _outside.lock:
        mistakes = Mistakes()
        change = _prepare(command, _outside.tables, mistakes)
        mistakes.raise_if_any(f"configuration of command {command.name!r}")
        change()
        _outside.spoken_of[command.name] = _outside.tables.says(command.name)


def _tell_unknown(source: str, tables: Tables) -> None:
    """A name that no command has may be made later, or be misspelt."""
    known = commands()
    for name in tables.commands:
        if name not in known:
            close = did_you_mean(name, known)
            level = logging.WARNING if close else logging.DEBUG
            logger.log(level, "%s: there is no command %r yet%s", source, name, close)
