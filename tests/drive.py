"""One scenario, both colours: a test that takes `drive` runs for functions and for async functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from resilient import Policy

Drive = Callable[..., Any]


def drive_sync(policy: Policy[Any], fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the plain function `fn` under `policy`."""
    return policy.call(fn, *args, **kwargs)


def drive_async(policy: Policy[Any], fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The same as an async function, on an event loop of its own."""

    async def afn(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return asyncio.run(policy.acall(afn, *args, **kwargs))
