"""For tests of code that uses resilient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient.testing.clock import VirtualClock
from resilient.testing.faults import Fault
from resilient.testing.proxy import Direction, TcpProxy
from resilient.testing.scripted import Received, ScriptedDependency, Step, fail, hang, ok, slow
from resilient.testing.switches import disabled, reset, use_clock

if TYPE_CHECKING:
    from resilient.testing.faulty_transport import AsyncFaultyTransport, FaultyTransport

__all__ = [
    "disabled",
    "fail",
    "hang",
    "ok",
    "reset",
    "slow",
    "use_clock",
    "AsyncFaultyTransport",
    "Direction",
    "Fault",
    "FaultyTransport",
    "Received",
    "ScriptedDependency",
    "Step",
    "TcpProxy",
    "VirtualClock",
]


def __getattr__(name: str) -> Any:
    """The transports, which need httpx: loaded when they are asked for."""
    if name in {"AsyncFaultyTransport", "FaultyTransport"}:
        from resilient.testing import faulty_transport

        return getattr(faulty_transport, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
