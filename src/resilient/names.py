"""Names are labels in metrics, events, errors and configuration: one live policy of a kind for each."""

from __future__ import annotations

import threading
import warnings
from weakref import WeakValueDictionary

from resilient.errors import ResilienceWarning

_lock = threading.Lock()
_holders: WeakValueDictionary[tuple[str, str], object] = WeakValueDictionary()
_warned: set[tuple[str, str]] = set()


def claim(kind: str, name: str | None, holder: object) -> str:
    """The label of `holder`: `name`, or `name#2` … while another live policy of that kind has it.

    Warns once per kind and name (ResilienceWarning): two policies of one name share nothing, and a breaker made per
    request never sees enough calls to open. A policy without a name is labelled by its kind, without a warning.
    """
    wanted = name or kind
    with _lock:
        label, number = wanted, 1
        while _holders.setdefault((kind, label), holder) is not holder:
            number += 1
            label = f"{wanted}#{number}"
        warn = number > 1 and name is not None and (kind, name) not in _warned
        if warn:
            _warned.add((kind, wanted))
    if warn:
        warnings.warn(
            f"a second {kind} named {name!r} is alive; it is labelled {label!r} and shares nothing with the first."
            f" Make a policy once, not per call; share one by passing the same object",
            ResilienceWarning,
            stacklevel=5,
        )
    return label


def release(kind: str, label: str) -> None:
    """Let another policy have this label."""
    with _lock:
        _holders.pop((kind, label), None)


def forget() -> None:
    """Forget every holder and every warning: between tests."""
    with _lock:
        _holders.clear()
        _warned.clear()
