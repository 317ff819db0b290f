"""The layers of a bulkhead, in the two colours: it looks at no clock and no outcome, so a place is all they carry.

Each colour stands here twice: as a layer of a chain, and alone around one function, where it needs one frame less.
"""

from __future__ import annotations

from types import CoroutineType
from typing import TYPE_CHECKING, Any

from resilient.gate_waits import Waiter, await_turn, wait_turn
from resilient.places import collected, held
from resilient.policy import (
    UNLIMITED,
    Args,
    AsyncCall,
    Call,
    Fn,
    Kwargs,
    WrongColour,
    ainvoke,
    invoke,
    refuse_awaitable,
)

if TYPE_CHECKING:
    from resilient.policies.bulkhead import Bulkhead


def placed(bulkhead: Bulkhead, inner: Call, limit: float) -> Call:
    """`inner` while there is a place, for functions."""
    enter, free = bulkhead.enter, bulkhead.free
    innermost = inner is invoke  # then its three lines stand here: a call less is a tenth of the cost

    def guarded(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        places = held.places
        place: Any = enter(limit)
        if type(place) is Waiter:
            place = wait_turn(bulkhead, place)
        try:
            places.append(place)  # inside: an interrupt right after it must not leave the place there
            if innermost:
                result = fn(*args, **kwargs)
                if type(result) is CoroutineType:
                    raise WrongColour(result)
                return result
            return inner(fn, args, kwargs)
        finally:
            places.remove(place)
            free(place)

    return guarded


def aplaced(bulkhead: Bulkhead, inner: AsyncCall, limit: float) -> AsyncCall:
    """`inner` while there is a place, for async functions."""
    enter, free = bulkhead.enter, bulkhead.free
    innermost = inner is ainvoke  # as in `placed`

    async def guarded(fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        place: Any = enter(limit)
        if type(place) is Waiter:
            place = await await_turn(bulkhead, place)
        places = collected.get()
        try:
            if places is not None:
                places.append(place)
            if innermost:
                result = fn(*args, **kwargs)
                if type(result) is not CoroutineType and not hasattr(type(result), "__await__"):
                    raise WrongColour(result)
                return await result
            return await inner(fn, args, kwargs)
        finally:
            if places is not None and place in places:  # not when interrupted just before
                places.remove(place)
            free(place)

    return guarded


def lone(bulkhead: Bulkhead, fn: Fn) -> Fn:
    """`fn` while there is a place, and nothing else."""
    enter, free = bulkhead.enter, bulkhead.free
    unchecked = True

    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal unchecked
        places = held.places
        place: Any = enter(UNLIMITED)
        if type(place) is Waiter:
            place = wait_turn(bulkhead, place)
        try:
            places.append(place)  # inside: an interrupt right after it must not leave the place there
            result = fn(*args, **kwargs)
        finally:
            places.remove(place)
            free(place)
        if unchecked or type(result) is CoroutineType:
            refuse_awaitable(result, fn)
            unchecked = False  # once: a function that returns a future does so each time
        return result

    return guarded


def alone(bulkhead: Bulkhead, fn: Fn) -> Fn:
    """The async `fn` while there is a place, and nothing else."""
    enter, free = bulkhead.enter, bulkhead.free

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        place: Any = enter(UNLIMITED)
        if type(place) is Waiter:
            place = await await_turn(bulkhead, place)
        try:
            return await fn(*args, **kwargs)
        finally:
            free(place)

    return guarded
