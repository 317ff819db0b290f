"""The one call that may try the dependency while a circuit is half-open."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from contextvars import ContextVar
from typing import Any

_inside: ContextVar[tuple[Trial, ...]] = ContextVar("resilient.compat.pybreaker", default=())


class Trial:
    """The place of a trial call, held until `over` is set, the lease ends, or the object is garbage.

    What the trial itself calls through the same circuit is part of it, in its thread, its task and those they start:
    refused, it would make the trial fail each time, and the circuit would stay open for ever.
    """

    __slots__ = ("__weakref__", "lease_ends", "over")

    def __init__(self, lease_ends: float) -> None:
        self.lease_ends = lease_ends
        self.over = False

    def encloses_caller(self) -> bool:
        """Whether the code that asks runs inside this trial."""
        return self in _inside.get()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Mark what runs in the block as part of this trial."""
        token = _inside.set((*_inside.get(), self))
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):  # a block that is closed by the garbage collector: another context
                _inside.reset(token)

    def steps(self, wrapped: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Drive `wrapped` as `yield from` would; each step is part of the trial, what its consumer does is not."""
        step: Any = wrapped.send
        value: Any = None
        while True:
            try:
                with self.running():
                    item = step(value)
            except StopIteration as end:
                return end.value
            try:
                value = yield item
                step = wrapped.send
            except GeneratorExit:
                wrapped.close()
                raise
            except BaseException as error:
                step, value = wrapped.throw, error
