"""Where names, balancing and policies meet an HTTP client."""

from __future__ import annotations

from resilient.transport.httpx import AsyncResilientTransport, ResilientTransport

__all__ = ["ResilientTransport", "AsyncResilientTransport"]
