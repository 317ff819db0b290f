"""How entries leave: what is in flight ends, callers are told and given time, then each entry is taken out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resilient.clock import REAL_CLOCK
from resilient.discovery.refresh import Refresh
from resilient.discovery.steps import Exchange

if TYPE_CHECKING:
    from resilient.discovery.registration import Lease

logger = logging.getLogger("resilient")

BUDGET = 5.0  # seconds for leaving in peace, beside the time for draining
_SETTLE = 2.0  # of these, for a renewal that is in flight: one that arrives after the DELETE would list us again


def leave(refresh: Refresh, leases: Sequence[Lease], budget: float, *, here: bool) -> None:
    """Take entries out whose renewals have been stopped; never raises.

    Args:
        refresh: the loop that renewed them.
        leases: what kept them.
        budget: seconds, in all, beside the longest drain among them.
        here: whether the loop itself calls, which can not wait for its own request.
    """
    end = REAL_CLOCK.monotonic() + budget
    if not here:
        for lease in leases:
            left = min(_SETTLE, budget / 4, end - REAL_CLOCK.monotonic())
            lease.idle.wait(lambda lease=lease: not lease.busy, left, REAL_CLOCK)  # type: ignore[misc]  # bound now
    drain = max((lease.drain for lease in leases), default=0.0)
    if drain:
        for lease in leases:
            _do(refresh, lease.fade(end - REAL_CLOCK.monotonic()))
        refresh.clock.sleep(drain)
        end += drain
    for lease in leases:
        _do(refresh, lease.leave(end - REAL_CLOCK.monotonic()))


async def aleave(refresh: Refresh, leases: Sequence[Lease], budget: float) -> None:
    """The same for an event loop; cancelled while waiting, the entries are taken out all the same."""
    end = REAL_CLOCK.monotonic() + budget
    drain = max((lease.drain for lease in leases), default=0.0)
    try:
        for lease in leases:
            left = min(_SETTLE, end - REAL_CLOCK.monotonic())
            await lease.idle.wait_async(lambda lease=lease: not lease.busy, left, REAL_CLOCK)  # type: ignore[misc]  # bound now
        if drain:
            for lease in leases:
                await _ado(refresh, lease.fade(end - REAL_CLOCK.monotonic()))
            await refresh.clock.sleep_async(drain)
            end += drain
    finally:
        for lease in leases:
            await _ado(refresh, lease.leave(end - REAL_CLOCK.monotonic()))


def _do(refresh: Refresh, exchange: Exchange[None]) -> None:
    try:
        refresh.do(exchange)
    except Exception:
        logger.exception("leaving %s", refresh.name)


async def _ado(refresh: Refresh, exchange: Exchange[None]) -> None:
    try:
        await refresh.ado(exchange)
    except Exception:
        logger.exception("leaving %s", refresh.name)
