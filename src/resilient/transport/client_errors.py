"""Our errors as a client library's own: what leaves a transport is caught by who catches that library's errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from resilient.errors import ResilienceError


def by_ours(kinds: Iterable[type[ResilienceError]]) -> Mapping[type[ResilienceError], type[ResilienceError]]:
    """Classes that are both ours and a client's, by ours, which is their first base."""
    return {kind.__bases__[0]: kind for kind in kinds}


def as_clients(
    error: ResilienceError, kinds: Mapping[type[ResilienceError], type[ResilienceError]], **data: Any
) -> ResilienceError:
    """The same error with the same data, as the client's too; itself when it is a kind that is not ours.

    Args:
        error: as a policy raised it.
        kinds: of the client, as `by_ours` gives them.
        data: what the client's errors hold besides.
    """
    kind = kinds.get(type(error))
    if kind is None:
        return error
    found = kind.__new__(kind, *error.args)
    found.args = error.args
    found.__dict__.update(error.__dict__, **data)
    return found
