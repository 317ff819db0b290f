"""What a call's answer is remembered under: its arguments, however they are written."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Final
from weakref import WeakKeyDictionary

from resilient.errors import ConfigError
from resilient.policy import Args, Fn, Kwargs, describe_function

logger = logging.getLogger("resilient")


class _Named:
    """Stands between positional and named arguments in a key: no argument can be taken for it."""

    def __repr__(self) -> str:
        return "**"  # the same in every process


_NAMED: Final = _Named()
_OPEN_ENDED: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


class ArgumentKeys:
    """Turns calls into keys: `f(1)` and `f(x=1, y=2)` are one call of `def f(x, y=2)`.

    Args:
        owner: the policy's class name, for the log and for errors.
        key: called with the call's arguments, gives the key; default the arguments themselves.
    """

    def __init__(self, owner: str, key: Callable[..., Hashable] | None) -> None:
        if key is not None and not callable(key):
            raise ConfigError(f"{owner}: key must be a function, not {key!r}", path="key")
        self.own = key
        self._owner = owner
        self._signatures: WeakKeyDictionary[Fn, inspect.Signature | None] = WeakKeyDictionary()
        self._complained = False

    def of(self, fn: Fn, args: Args, kwargs: Kwargs) -> tuple[Hashable, ...]:
        """The key of one call; it may turn out not to be hashable."""
        if self.own is not None:
            return (self.own(*args, **kwargs),)
        if not kwargs and type(fn) is FunctionType and not fn.__dict__:  # nearly always, at a tenth of the cost
            code = fn.__code__
            if len(args) == code.co_argcount and not code.co_kwonlyargcount and not code.co_flags & _OPEN_ENDED:
                return args
        signature = self._signature_of(fn)
        if signature is not None and (kwargs or len(args) != len(signature.parameters)):
            with contextlib.suppress(TypeError):  # arguments that do not fit: the call itself says so
                bound = signature.bind(*args, **kwargs)
                bound.apply_defaults()
                args, kwargs = bound.args, bound.kwargs
        return (*args, _NAMED, *sorted(kwargs.items())) if kwargs else args

    def complain(self, fn: Fn, problem: Exception) -> None:
        """Say once that a call has no key."""
        if not self._complained:
            self._complained = True
            logger.error(
                "%s: a call of %s can not be remembered (told once); give it key= when its arguments are not hashable",
                self._owner,
                describe_function(fn),
                exc_info=problem,
            )

    def _signature_of(self, fn: Fn) -> inspect.Signature | None:
        try:
            return self._signatures[fn]
        except (KeyError, TypeError):
            pass
        try:
            signature = inspect.signature(fn)
        except (TypeError, ValueError):
            signature = None
        with contextlib.suppress(TypeError):  # no weak reference to it: looked up again each time
            self._signatures[fn] = signature
        return signature
