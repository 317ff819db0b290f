"""What a configuration makes of a command: its code says the settings, and the file changes what it speaks of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from resilient.command_object import Command
from resilient.command_settings import KINDS, Settings, Told, Written, told
from resilient.config_tables import ANNOTATIONS, EMPTY, Table, Tables, choose, class_of, without_kind
from resilient.config_values import Mistakes, build, join, parameters, value_of
from resilient.policy import Policy


def settings_for(command: Command, tables: Tables, before: Iterable[str], mistakes: Mistakes) -> dict[str, Any]:
    """The settings that `tables` makes of a command.

    Args:
        command: it keeps what its decorator said, whatever it was told since.
        tables: what the file says now.
        before: settings that the file spoke of before: where it says nothing any more, the code holds again.
        mistakes: gets what is wrong.
    """
    own = tables.commands.get(command.name, EMPTY)
    path = f"commands.{join(command.name)}"
    spoken_of = tables.says(command.name).union(before)
    return dict(_settings(own, tables.defaults, command.written, spoken_of, path, mistakes))


def _settings(
    own: Table, defaults: Table, written: Written, spoken_of: Iterable[str], path: str, mistakes: Mistakes
) -> Iterator[tuple[str, Any]]:
    for word in ANNOTATIONS.keys() & set(spoken_of):
        in_code = getattr(written.settings, word)
        if word in KINDS:
            yield word, _policy(word, own.get(word), defaults.get(word), written, f"{path}.{word}", mistakes)
        elif word in own:
            yield word, value_of(own[word], ANNOTATIONS[word], f"{path}.{word}", mistakes)
        elif word in defaults and in_code == getattr(_NOTHING_SAID, word):
            yield word, value_of(defaults[word], ANNOTATIONS[word], f"defaults.{word}", mistakes)
        else:
            yield word, in_code


def _policy(word: str, own: Any, defaults: Any, written: Written, path: str, mistakes: Mistakes) -> Policy[Any] | None:
    """The policy that a table makes of the one in the code."""
    policy: Policy[Any] | None = getattr(written.settings, word)
    if own is False or (policy is None and not own):
        return None  # what is said for all commands changes policies, and adds none
    table = own if isinstance(own, Mapping) else EMPTY
    cls = choose(word, table, KINDS[word][0] if policy is None else policy.kind, path, mistakes)
    if cls is None:
        return policy
    base = {}
    if policy is not None and policy.kind == cls.kind:
        base = made_with(policy, written.policies[word])
    arguments = {**_where_silent(cls, base, defaults), **without_kind(table)}
    if policy is not None and not arguments and written.policies[word] == told(policy):
        return policy  # nothing was changed, and nothing is to be
    made: Policy[Any] | None = build(cls, arguments, path, mistakes, base)
    return made


def _where_silent(cls: type[Policy[Any]], base: Table, defaults: Any) -> dict[str, Any]:
    """What is said for all commands, where the code left the library's own default."""
    known = parameters(cls)
    table = without_kind(defaults) if isinstance(defaults, Mapping) else {}
    return {
        word: value
        for word, value in table.items()
        if word in known and base.get(word, known[word].default) == known[word].default
    }


def made_with(policy: Policy[Any], then: Told) -> dict[str, Any]:
    """The arguments that make a policy like `policy` was when it was told `then`."""
    cls = class_of(policy.kind)
    known = parameters(cls)
    settings, given = then
    found = {word: getattr(settings, word) for word in known if hasattr(settings, word)}
    found.update({word: getattr(given, word) for word in known if hasattr(given, word)})
    if "key" in known:
        found["key"] = settings.keys.own  # a cache keeps its function inside the object that uses it
    for word in list(found):
        if found[word] is not None and known[word].default is None:
            shorter = {other: found[other] for other in found if other != word}
            if getattr(cls(**shorter), "settings", None) == settings:
                found = shorter  # it was not given: it follows from others, and has to follow them further
    return found


_NOTHING_SAID = Settings()
