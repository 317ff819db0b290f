"""Every public name has an example, and every example runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import pytest

import resilient


def modules() -> list[str]:
    """Every module of the package."""
    found = [info.name for info in pkgutil.walk_packages(resilient.__path__, "resilient.")]
    return ["resilient", *(name for name in found if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name: str) -> None:
    """What a docstring shows is what happens."""
    module = importlib.import_module(name)
    failures = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        if not test.examples:
            continue
        outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        if outcome.failed:
            failures.append(test.name)
    assert failures == []


PUBLIC_ROOMS = [
    "resilient",
    "resilient.discovery",
    "resilient.balancing",
    "resilient.compat.pybreaker",
    "resilient.gateway",
    "resilient.registry_server",
    "resilient.telemetry",
    "resilient.transport",
    "resilient.transport.aiohttp",
    "resilient.transport.asgi",
    "resilient.transport.httpx2",
    "resilient.transport.requests",
    "resilient.transport.wsgi",
    "resilient.testing",
]
PLAIN_DATA = (Exception, Warning)


def public_names() -> list[tuple[str, Any]]:
    """What users import: every name that a room hands on and that does something."""
    found = []
    for room in PUBLIC_ROOMS:
        module: ModuleType = importlib.import_module(room)
        for name in module.__all__:
            thing = getattr(module, name)
            if getattr(thing, "__module__", "").partition(".")[0] != "resilient":
                continue  # handed on from another library, which documents it
            if inspect.isfunction(thing) or (inspect.isclass(thing) and not _is_data(thing)):
                found.append((f"{room}.{name}", thing))
    return found


def _is_data(kind: type) -> bool:
    """Errors, events, snapshots, enums and protocols: what they hold is said, there is nothing to show."""
    return (
        issubclass(kind, PLAIN_DATA)
        or issubclass(kind, resilient.Event)
        or hasattr(kind, "__members__")
        or getattr(kind, "_is_protocol", False)
        or kind.__name__.endswith(("Snapshot", "Info", "Explanation", "Change"))
    )


@pytest.mark.parametrize(("path", "thing"), public_names(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_public_name_has_an_example(path: str, thing: Any) -> None:
    """A reader sees how it is used before reading what it does."""
    assert ">>>" in (thing.__doc__ or ""), f"{path} has no example in its docstring"
