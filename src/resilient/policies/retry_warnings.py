"""What will bite where a retry stands among other policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilient.policies.retry_settings import Settings
from resilient.policy import Enforcer, Policy, SyncOnly


def what_bites(
    retry: Policy[Any], settings: Settings, outside: Sequence[Policy[Any]], inside: Sequence[Policy[Any]]
) -> list[str]:
    """Orders that multiply or hide; calls that may run twice."""
    if settings.most == 1:
        return []
    found = [f"{retry!r} runs the call again after an error, also one that did its work: it must be safe to repeat"]
    if not settings.bounded and settings.total is None:
        found.append(f"{retry!r} goes on until stop= says no: set attempts= or total= too")
    limits = [policy for policy in inside if isinstance(policy, Enforcer)]
    if limits and settings.total is None and not any(isinstance(policy, Enforcer) for policy in outside):
        found.append(f"{retry!r} around {limits[0]!r}: a caller may wait for {settings.most} of them and the waits")
    if any(policy.hops for policy in limits):
        found.append(
            SyncOnly(
                f"{retry!r} around {limits[0]!r}: a sync attempt that timed out goes on in its thread while it is"
                " repeated; repeat only what may run twice at once"
            )
        )
    found.extend(
        f"{policy!r} sees one call where {retry!r} inside it makes up to {settings.most}"
        for policy in outside
        if policy.kind == "circuit_breaker"
    )
    for policy in inside:
        if policy.kind == "retry":
            found.append(f"{retry!r} around {policy!r}: the inner one makes one attempt once the outer one repeats")
        elif policy.kind == "hedge":
            found.append(f"{retry!r} around {policy!r}: each attempt may be two calls; take one of both")
    return found
