"""Several calls of which one answer is wanted: they run as tasks, the losers are cancelled, closed and not leaked."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any, TypeAlias

from resilient.clock import Clock
from resilient.places import collected

logger = logging.getLogger("resilient")

Leg: TypeAlias = "asyncio.Task[Any]"
PATIENCE = 0.05  # seconds that the caller waits for cancelled calls to end

_burials: set[asyncio.Task[None]] = set()  # a loop holds tasks weakly: one that nobody holds may vanish half-way


class Race:
    """The calls of one hedged call, on one event loop."""

    __slots__ = ("_bell", "_clock", "_ended", "_loop", "started")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ended: deque[asyncio.Task[Any]] = deque()
        self._bell: asyncio.Future[None] | None = None
        self.started: dict[Leg, float] = {}  # when each began, in order

    def start(self, call: Coroutine[Any, Any, Any]) -> None:
        """Run one more call, in a copy of the context."""
        context = copy_context()
        if (shared := collected.get()) is not None:  # its answer keeps its own places, not those of the other calls
            context.run(collected.set, shared.copy())
        began = self._clock.monotonic()  # before: an eager task factory runs it at once
        leg = self._loop.create_task(call, context=context)
        self.started[leg] = began
        leg.add_done_callback(self._on_end)

    async def next(self, until: float) -> Leg | None:
        """The next call that has ended; None when it is `until` before."""
        while not self._ended:
            left = until - self._clock.monotonic()
            if left <= 0:
                return None
            await self._ring(left)
        return self._ended.popleft()

    async def end(self, winner: Leg | None) -> None:
        """Cancel what still runs, and wait a moment; what does not end is left behind, but held.

        The caller may be cancelled meanwhile: what is left is ended all the same, and an answer it no longer gets is
        closed.
        """
        losers = [leg for leg in self.started if leg is not winner]
        self.started.clear()
        self._ended.clear()
        kept = None if winner is None or winner.cancelled() or winner.exception() else winner.result()
        burials = {self._bury(leg, kept) for leg in losers if self._cancelled(leg, kept)}
        until = self._clock.monotonic() + PATIENCE
        try:
            while burials and (left := until - self._clock.monotonic()) > 0:
                if not self._ended:
                    await self._ring(left)
                while self._ended:
                    burials.discard(self._ended.popleft())
        except BaseException:
            if winner is not None and _can_be_closed(kept):
                self._bury(winner, None)
            raise

    def _cancelled(self, leg: Leg, kept: Any) -> bool:
        """Cancel a loser; True when there is something to wait for."""
        leg.remove_done_callback(self._on_end)
        if not leg.done():
            leg.cancel()
            return True
        # asked for its error, a task that failed does not complain that nobody did
        if leg.cancelled() or leg.exception() is not None:
            return False
        return leg.result() is not kept and _can_be_closed(leg.result())

    def _bury(self, leg: Leg, kept: Any) -> asyncio.Task[None]:
        burial = self._loop.create_task(_buried(leg, kept))
        _burials.add(burial)
        burial.add_done_callback(_burials.discard)
        burial.add_done_callback(self._on_end)
        return burial

    async def _ring(self, seconds: float) -> None:
        """Wait until a task ends, for `seconds` at most."""
        bell = self._bell = self._loop.create_future()
        cancel = None if seconds == float("inf") else self._clock.call_later(self._loop, seconds, self._wake)
        try:
            await bell
        finally:
            self._bell = None
            if cancel is not None:
                cancel()

    def _on_end(self, task: asyncio.Task[Any]) -> None:
        self._ended.append(task)
        self._wake()

    def _wake(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)


async def _buried(leg: Leg, kept: Any) -> None:
    """Wait for a call that nobody wants any more; swallow its error, close its answer unless it is the one kept."""
    await asyncio.wait([leg])
    if leg.cancelled():
        return
    error = leg.exception()
    if error is not None:
        logger.debug("a hedged call that lost ended with %r", error)
        return
    answer = leg.result()
    if answer is kept or not _can_be_closed(answer):
        return
    try:
        closing = getattr(answer, "aclose", None) or answer.close
        pending = closing()
        if inspect.isawaitable(pending):
            await pending
    except Exception:
        logger.debug("closing the answer of a hedged call that lost raised", exc_info=True)


def _can_be_closed(answer: Any) -> bool:
    """Whether it is something like a response."""
    return callable(getattr(answer, "aclose", None)) or callable(getattr(answer, "close", None))
