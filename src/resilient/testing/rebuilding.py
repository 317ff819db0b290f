"""How policies that exist already follow a switch: their chains are made anew, and cached methods replaced.

The hot path looks at no switch. Layers are closures that have looked up what they need once; here they are made again,
and functions that were decorated take over what the new ones hold.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from resilient import names, policy
from resilient.clock import SYSTEM_CLOCK
from resilient.policy import ALONE, Fn, Policy, acompose, ainvoke, alone_functions, compose, invoke

_METHOD_TYPES = (BuiltinFunctionType, MethodType, functools.partial)


def rebuild() -> None:
    """Make every chain and every guarded function as the switches say now."""
    for one in names.living():
        if not isinstance(one, Policy):
            continue
        made = vars(one)
        if "_chain" in made:
            one._chain = invoke if policy.transparent else compose(one.layers, one._verdicts)
        if "_achain" in made:
            one._achain = ainvoke if policy.transparent else acompose(one.layers, one._verdicts)
    for found in [ref() for ref in alone_functions.valuerefs()]:
        if isinstance(found, FunctionType):
            _rebuild_function(found)


def replace_cached(methods: Iterable[tuple[object, object]]) -> None:
    """Replace, in everything that follows the system clock, what they have looked up of it: (before, now)."""
    pairs = list(methods)
    for part in everything():
        if getattr(part, "_clock", SYSTEM_CLOCK) is not SYSTEM_CLOCK:
            continue
        for name, value in _attributes(part):
            if isinstance(value, _METHOD_TYPES):
                for before, now in pairs:
                    if value == before:
                        object.__setattr__(part, name, now)


def everything() -> Iterator[object]:
    """Every policy, every command, and the objects of this library that they consist of, each once."""
    left = names.living()
    seen = {id(one) for one in left}
    while left:
        part = left.pop()
        yield part
        for _, value in _attributes(part):
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if id(inner) not in seen and type(inner).__module__.startswith("resilient."):
                    seen.add(id(inner))
                    if not isinstance(inner, enum.Enum):
                        left.append(inner)


def _attributes(part: object) -> list[tuple[str, Any]]:
    found = list(getattr(part, "__dict__", {}).items())
    for kind in type(part).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            mangled = f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") and name[-2:] != "__" else name
            with contextlib.suppress(AttributeError):  # a slot that holds nothing yet
                found.append((mangled, getattr(part, mangled)))
    return found


def _rebuild_function(guarded: FunctionType) -> None:
    """Let a function that a policy guards alone do what one made now would do; it stays the same object."""
    its_policy, fn = getattr(guarded, ALONE)
    made = its_policy.alone(fn)
    code, cells = guarded.__code__, guarded.__closure__ or ()
    if not isinstance(made, FunctionType) or made.__code__.co_freevars != code.co_freevars:
        return  # its policy can not do without what it was made with
    if policy.transparent:
        guarded.__code__ = _only_calls(code, cells, fn)
        return
    guarded.__code__ = made.__code__
    for cell, new in zip(cells, made.__closure__ or (), strict=True):
        cell.cell_contents = new.cell_contents


def _only_calls(code: CodeType, cells: tuple[Any, ...], fn: Fn) -> CodeType:
    """Code for a function with the variables of `code` that only calls the one that holds `fn`."""
    held = next(name for name, cell in zip(code.co_freevars, cells, strict=True) if cell.cell_contents is fn)
    define, call = ("async def", f"await {held}") if code.co_flags & inspect.CO_COROUTINE else ("def", held)
    variables = ", ".join(code.co_freevars)
    source = (
        f"def variables({variables}):\n"
        f"    {define} {code.co_name}(*args, **kwargs):\n"
        f"        return {call}(*args, **kwargs)\n"
        f"        ({variables},)\n"  # never reached: makes them variables of this function, too
        f"    return {code.co_name}\n"
    )
    namespace: dict[str, Any] = {}
    exec(compile(source, __file__, "exec"), namespace)  # noqa: S102  # names of variables of our own functions only
    found: CodeType = namespace["variables"](*code.co_freevars).__code__
    assert found.co_freevars == code.co_freevars
    return found
