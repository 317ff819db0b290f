"""Names are labels in metrics, events, errors and configuration: one live policy of a kind for each."""

from __future__ import annotations

import threading
import warnings
from weakref import WeakValueDictionary

from resilient.clock import forget_on_fork
from resilient.errors import ResilienceWarning


class _Labels:
    """Who has which label."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a garbage collection inside may drop a holder
        self._holders: WeakValueDictionary[tuple[str, str], object] = WeakValueDictionary()
        self._numbers: dict[tuple[str, str], int] = {}
        self._warned: set[tuple[str, str]] = set()
        forget_on_fork(self)

    def claim(self, kind: str, wanted: str, holder: object) -> tuple[str, bool]:
        """(label, whether it is the first of this name that had to be numbered)."""
        with self._lock:
            label, key = wanted, (kind, wanted)
            while self._holders.setdefault((kind, label), holder) is not holder:
                number = self._numbers.get(key, 1) + 1  # goes on from the last: a search would be quadratic
                self._numbers[key] = number
                label = f"{wanted}#{number}"
            first = label != wanted and key not in self._warned
            if first:
                self._warned.add(key)
        return label, first

    def release(self, kind: str, label: str, holder: object) -> None:
        with self._lock:
            if self._holders.get((kind, label)) is holder:  # after `forget` it may be another's
                del self._holders[kind, label]

    def living(self) -> list[object]:
        found = [ref() for ref in self._holders.valuerefs()]  # one step: others may come and go meanwhile
        return list({id(holder): holder for holder in found if holder is not None}.values())

    def forget(self) -> None:
        with self._lock:
            living = self.living()
            self._holders.clear()
            self._numbers.clear()
            self._warned.clear()
            for holder in living:  # they go on without a claim to their label
                self._holders["", f"{id(holder)}"] = holder

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()


_labels = _Labels()


def claim(kind: str, name: str | None, holder: object, *, warn: bool = True) -> str:
    """The label of `holder`: `name`, or `name#2` … while another live policy of that kind has it.

    Warns once per kind and name (ResilienceWarning): two policies of one name share nothing, and a breaker made per
    request never sees enough calls to open. A policy without a name is labelled by its kind, without a warning.

    Args:
        kind: of the policy.
        name: as given, or None.
        holder: the policy; kept by a weak reference.
        warn: False where the name was not chosen by the user.
    """
    label, first = _labels.claim(kind, name or kind, holder)
    if first and warn and name is not None:
        warnings.warn(
            f"a second {kind} named {name!r} is alive; it is labelled {label!r} and shares nothing with the first."
            " Make a policy once, not per call; share one by passing the same object",
            ResilienceWarning,
            stacklevel=5,
        )
    return label


def release(kind: str, label: str, holder: object) -> None:
    """Let another policy have this label, if it is still that of `holder`."""
    _labels.release(kind, label, holder)


def living() -> list[object]:
    """Everything that ever claimed a label and is still alive: every policy, every command."""
    return _labels.living()


def forget() -> None:
    """Free every label and forget every warning: between tests."""
    _labels.forget()
