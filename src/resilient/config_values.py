"""From text and tables to what constructors take: references to Python objects, windows, budgets, algorithms."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from resilient.checks import did_you_mean
from resilient.errors import ConfigError

NOT_FROM_OUTSIDE: Final = frozenset({"self", "name", "clock", "rng", "listeners", "shared", "enabled"})
"""What only code can give: objects, and what a file must not switch on."""

PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "TimeWindow": ("resilient.window:TimeWindow",),
    "CountWindow": ("resilient.window:CountWindow",),
    "RetryBudget": ("resilient.budget:RetryBudget",),
    "LimitAlgorithm": (
        "resilient.policies.limit_algorithms:Gradient2",
        "resilient.policies.limit_algorithms:Vegas",
        "resilient.policies.limit_algorithms:AIMD",
    ),
}
"""The objects that a table stands for, by the annotation of the argument."""

_FUNCTIONS = ("Callable", "Match", "Wait", "Stop")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


class Mistakes:
    """What is wrong in a configuration: all of it is told at once."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def add(self, path: str, what: str) -> None:
        """`what` is wrong at `path`; the first word about a path holds."""
        self._found.setdefault(path, what)

    def __bool__(self) -> bool:
        return bool(self._found)

    def take(self, others: Mistakes) -> None:
        """Add those of `others`."""
        for path, what in others._found.items():
            self.add(path, what)

    def under(self, path: str) -> bool:
        """Whether there are any at `path` or further in."""
        return any(found == path or found.startswith(f"{path}.") for found in self._found)

    def raise_if_any(self, source: str) -> None:
        """Tell them.

        Raises:
            ConfigError: with a line for each; its `path` is that of the first.
        """
        if self._found:
            count = "1 mistake" if len(self._found) == 1 else f"{len(self._found)} mistakes"
            lines = [f"{source}: {count}, nothing has changed"]
            lines.extend(f"{path}: {what}" for path, what in self._found.items())
            raise ConfigError("\n  ".join(lines), path=next(iter(self._found)))


def join(*keys: str) -> str:
    """The path of a key as TOML writes it: `commands."app.weather".breaker`."""
    return ".".join(key if _PLAIN.fullmatch(key) else json.dumps(key, ensure_ascii=False) for key in keys)


def said(error: ConfigError) -> str:
    """What an error says, without the owner and the argument that its path names already."""
    text = str(error).partition(": ")[2] or str(error)
    return text.removeprefix(f"{error.path} ")


def parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    """The arguments of a constructor that a file may give."""
    found = inspect.signature(kind).parameters
    return {name: one for name, one in found.items() if name not in NOT_FROM_OUTSIDE}


def takes_function(annotation: str) -> bool:
    """Whether an argument takes a function or an exception type."""
    return any(word in annotation for word in _FUNCTIONS)


def kinds_of(annotation: str) -> tuple[type, ...]:
    """The objects that a table may stand for."""
    return tuple(resolve(path) for word, paths in PARTS.items() if word in annotation for path in paths)


def resolve(reference: str) -> Any:
    """The object that `module:name` names, or the builtin `name`.

    Raises:
        ConfigError: when there is none.
    """
    module, colon, name = reference.rpartition(":")
    if not colon:
        try:
            return getattr(builtins, name)
        except AttributeError:
            numeric = name.replace(".", "", 1).isdigit()
            close = "; a number stands without quotes" if numeric else did_you_mean(name, vars(builtins))
            raise ConfigError(f"config: must be 'module:name' or a builtin, not {reference!r}{close}") from None
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise ConfigError(f"config: {reference!r} can not be imported: {error!r}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = did_you_mean(part, (word for word in dir(found) if not word.startswith("_")))
            raise ConfigError(f"config: there is no {part!r} in {module}{hint}") from None
    return found


def value_of(given: Any, annotation: str, path: str, mistakes: Mistakes) -> Any:
    """What a constructor gets for `given`; mistakes are added, and then the result is None."""
    if isinstance(given, Mapping) and (kinds := kinds_of(annotation)):
        return _part(given, kinds, path, mistakes)
    if not takes_function(annotation):
        return given
    try:
        if isinstance(given, str):
            return resolve(given)
        if isinstance(given, (list, tuple)):
            return tuple(resolve(one) if isinstance(one, str) else one for one in given)
    except ConfigError as error:
        mistakes.add(path, said(error))
        return None
    return given


def build(kind: type, given: Mapping[str, Any], path: str, mistakes: Mistakes, base: Mapping[str, Any]) -> Any:
    """`kind(**base, **given)`; each key that is wrong is added to `mistakes`, and then the result is None.

    Args:
        kind: a class whose constructor checks its arguments.
        given: the table.
        path: where it stands.
        mistakes: gets what is wrong.
        base: what the table changes.
    """
    arguments = arguments_of(kind, given, path, mistakes)
    for word, one in parameters(kind).items():
        if one.default is one.empty and word not in given and word not in base:
            mistakes.add(f"{path}.{word}", f"is needed: {kind.__name__}({word}=...)")
    return _made(kind, {**base, **arguments}, path, mistakes)


def arguments_of(kind: type, given: Mapping[str, Any], path: str, mistakes: Mistakes) -> dict[str, Any]:
    """The arguments for `kind` that a table gives, without those that are wrong."""
    known = parameters(kind)
    found: dict[str, Any] = {}
    for word, value in given.items():
        here = f"{path}.{join(word)}"
        if word not in known:
            mistakes.add(here, f"{kind.__name__} has no setting {word!r}{_why_not(word, known)}")
            continue
        made = value_of(value, str(known[word].annotation), here, mistakes)
        if not mistakes.under(here):
            found[word] = made
    return found


def _made(kind: type, arguments: dict[str, Any], path: str, mistakes: Mistakes) -> Any:
    """Make it; without the key that is wrong look for the next one, so that all are told."""
    while True:
        try:
            return kind(**arguments)
        except ConfigError as error:
            word = error.path.partition(".")[0]
            mistakes.add(f"{path}.{error.path}" if word in arguments else path, said(error))
            if arguments.pop(word, None) is None:
                return None
        except TypeError as error:  # a required argument was wrong, and is gone
            if not mistakes.under(path):
                mistakes.add(path, str(error))
            return None


_parts: WeakValueDictionary[tuple[str, type, str], Any] = WeakValueDictionary()
"""What tables were made into: a budget and an algorithm go on when their table is the same as before."""


def _part(given: Mapping[str, Any], kinds: Iterable[type], path: str, mistakes: Mistakes) -> Any:
    """A window, a budget or an algorithm from its table: by its `kind`, or the first that knows all keys."""
    choices = {kind.__name__.lower(): kind for kind in kinds}
    words = {word: value for word, value in given.items() if word != "kind"}
    if "kind" in given:
        chosen = choices.get(str(given["kind"]).lower())
        if chosen is None:
            mistakes.add(f"{path}.kind", f"must be one of {', '.join(choices)}, not {given['kind']!r}")
            return None
    else:
        chosen = max(choices.values(), key=lambda kind: len(words.keys() & parameters(kind).keys()))
    same = (path, chosen, repr(sorted(words.items())))
    made = _parts.get(same)
    if made is None:
        made = build(chosen, words, path, mistakes, {})
        with contextlib.suppress(TypeError):  # a window is a value and counts nothing
            _parts[same] = made
    return made


def _why_not(word: str, known: Mapping[str, Any]) -> str:
    if word in NOT_FROM_OUTSIDE:
        return " in a file: only code can give it"
    return did_you_mean(word, known) or f"; these are: {', '.join(known)}"
