"""A JSON schema of the configuration, from the signatures of `@command` and of the policies' constructors.

It tells an editor the words and the kinds of values. Ranges are checked by the constructors, when the file is applied.
`python -m resilient.config_schema` writes it to the standard output.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from resilient.command_settings import KINDS, NAMES
from resilient.config_tables import ANNOTATIONS, ROOMS, SERVICE_SETTINGS, class_of
from resilient.config_values import kinds_of, parameters, takes_function

_SIMPLE: Final[Mapping[str, dict[str, Any]]] = {
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": "string"},
}
_REFERENCE: Final = {"type": "string", "description": "module:name, or the name of a builtin"}
_ARGUMENT = re.compile(r"^ {8}(\w+): (.*?)(?=^ {8}\w+: |^ {4}\w|\Z)", flags=re.MULTILINE | re.DOTALL)


def made() -> dict[str, Any]:
    """The schema."""
    about = {
        "defaults": "What holds for every command whose code leaves the default.",
        "commands": "What holds for one command, by its name.",
        "services": "What holds for the transports' calls of one service, by its logical name.",
    }
    tables: dict[str, Any] = {
        "defaults": _settings(NAMES),
        "commands": {"type": "object", "additionalProperties": {"$ref": "#/properties/defaults"}},
        "services": {"type": "object", "additionalProperties": _settings(SERVICE_SETTINGS)},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of resilient",
        "type": "object",
        "properties": {room: {"description": about[room], **tables[room]} for room in ROOMS},
        "additionalProperties": False,
        "$defs": {kind: _policy(kind, several=len(kinds) > 1) for kinds in KINDS.values() for kind in kinds},
    }


def _settings(names: Iterable[str]) -> dict[str, Any]:
    from resilient.decorator import command

    told = _told(command)
    return _object({name: _setting(name, told.get(name)) for name in names})


def _setting(name: str, about: str | None) -> dict[str, Any]:
    if name not in KINDS:
        found = _value(ANNOTATIONS[name])
    else:
        kinds = KINDS[name]
        tables: list[dict[str, Any]] = [{"$ref": f"#/$defs/{kind}"} for kind in kinds]
        found = {"anyOf": [{"type": "boolean"}, *tables]}
    return {"description": about, **found} if about else found


def _policy(kind: str, *, several: bool) -> dict[str, Any]:
    found = _arguments(class_of(kind))
    if several:
        found["properties"]["kind"] = {"const": kind}
    return found


def _arguments(kind: type) -> dict[str, Any]:
    told = _told(kind)
    found = {}
    for name, one in parameters(kind).items():
        about = told.get(name)
        found[name] = {"description": about, **_value(str(one.annotation))} if about else _value(str(one.annotation))
        if isinstance(one.default, (bool, int, float, str)):
            found[name]["default"] = one.default
    return _object(found)


def _value(annotation: str) -> dict[str, Any]:
    """What may stand for an argument, by its annotation."""
    choices: list[dict[str, Any]] = [_part(kind) for kind in kinds_of(annotation)]
    if annotation.startswith("Literal["):
        choices.append({"enum": re.findall(r"'(\w+)'", annotation)})
    if annotation.startswith("Mapping[str, float]"):
        choices.append({"type": "object", "additionalProperties": {"type": "number"}})
    words = [word.strip() for word in re.sub(r"\[.*\]", "", annotation).split("|")]
    choices.extend(_SIMPLE[word] for word in words if word in _SIMPLE)
    if "Wait" in words:
        choices.append(_SIMPLE["float"])
    if takes_function(annotation):
        choices.append(_REFERENCE)
        if "Match" in annotation:
            choices.append({"type": "array", "items": _REFERENCE})
    return dict(choices[0]) if len(choices) == 1 else {"anyOf": choices}


def _part(kind: type) -> dict[str, Any]:
    found = _arguments(kind)
    found["properties"]["kind"] = {"const": kind.__name__.lower()}
    return {"title": kind.__name__, **found}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _told(thing: object) -> dict[str, str]:
    """What a docstring says of each argument."""
    doc = inspect.cleandoc(thing.__doc__ or "").partition("Args:\n")[2]
    indented = "".join(f"    {line}\n" if line.strip() else "\n" for line in doc.splitlines())
    return {name: re.sub(r"\s+", " ", text).strip() for name, text in _ARGUMENT.findall(indented)}


def text() -> str:
    """The schema as JSON."""
    return json.dumps(made(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
