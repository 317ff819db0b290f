"""A batch of a Collapser: its keys, who waits for each, and how they get what the batch call returned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from resilient.errors import MissingResultError
from resilient.policies.shared_answer import SharedAnswer
from resilient.policy import Fn, describe_function, refuse_awaitable

if TYPE_CHECKING:
    import asyncio

_MISSING: Final = object()


class Slot(SharedAnswer):
    """One key, and those who asked for it."""

    __slots__ = ("callers",)

    def __init__(self) -> None:
        super().__init__()
        self.callers = 1  # guarded by the collapser's lock


class Batch:
    """Keys that are asked for together; all but `full` is guarded by the collapser's lock."""

    __slots__ = ("cancel_timer", "context", "full", "slots", "started", "task", "thread")

    def __init__(self) -> None:
        self.slots: dict[Hashable, Slot] = {}
        self.started = False
        self.thread: int | None = None  # that waits for more keys: a signal handler in it must not wait for itself
        self.full = threading.Event()  # for the thread that waits for more keys
        self.context: Context | None = None
        self.task: asyncio.Task[Any] | None = None
        self.cancel_timer: Callable[[], None] | None = None


def serve(batch: Fn, slots: Mapping[Hashable, Slot]) -> None:
    """Make the batch call in this thread, and give everybody what is theirs."""
    try:
        result = refuse_awaitable(batch(list(slots)), batch)
    except Exception as error:
        fail(slots, error)
    else:
        hand_out(batch, slots, result)
    finally:
        del slots  # an error's traceback holds this frame


def fail(slots: Mapping[Hashable, Slot], error: BaseException) -> None:
    """The batch failed: so did every call in it."""
    for slot in slots.values():
        slot.settle(error=error)


def hand_out(batch: Fn, slots: Mapping[Hashable, Slot], result: Any) -> None:
    """Give everybody what the batch call returned for them: an error that it holds is raised for that key alone."""
    slot: Slot | None = None
    try:
        values = _by_key(batch, slots, result)
        for key, slot in slots.items():
            value = values.get(key, _MISSING)
            if value is _MISSING:
                text = f"{describe_function(batch)} returned nothing for the key {key!r}"
                slot.settle(error=MissingResultError(text, key=key))
            elif isinstance(value, Exception):
                slot.settle(error=value)
            else:
                slot.settle(value)
    except Exception as error:  # of a mapping that reads late, or of a key's `__repr__`: for those not told yet
        fail(slots, error)
    finally:
        del slots  # an error's traceback holds this frame
        slot = None


def _by_key(batch: Fn, slots: Mapping[Hashable, Slot], result: Any) -> Mapping[Hashable, Any]:
    if isinstance(result, Mapping):
        return result
    if isinstance(result, (str, bytes, set, frozenset)):
        raise TypeError(
            f"{describe_function(batch)} must return one value per key, in order, or a mapping of keys to values,"
            f" not a {type(result).__name__}"
        )
    values = list(result)
    if len(values) != len(slots):
        raise ValueError(
            f"{describe_function(batch)} returned {len(values)} values for {len(slots)} keys: nobody knows whose they"
            " are; return a mapping when some may be missing"
        )
    return dict(zip(slots, values, strict=True))
