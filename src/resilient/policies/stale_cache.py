"""The last good answer, when there is no new one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Never, TypeVar

from resilient.checks import positive_seconds, whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.errors import ConfigError
from resilient.outcome import Classification, Match
from resilient.policies.argument_keys import ArgumentKeys
from resilient.policies.fallback import Fallback
from resilient.policies.fallback_steps import NO_ANSWER, Step
from resilient.policy import Args, Fn, Kwargs, describe_function

if TYPE_CHECKING:
    from cachetools import TTLCache

    from resilient.policies.shared_cache import SharedCache

V = TypeVar("V")


class StaleCache(Fallback[Never]):
    """A fallback that answers with the last good answer to the same arguments, when it is not too old.

    It remembers what the call returned when it went well, per arguments: `weather("94107")` and
    `weather(zip_code="94107", country="us")` are one entry when "us" is the default. Answers are handed out as they
    are, not copied: return values that nobody changes. Where it knows no answer, the next fallback is asked, or the
    call's own error leaves. A success costs some
    10 µs more. On methods `self` is one of the arguments, and is kept alive by what is remembered of it.

    Args:
        max_age: seconds an answer may be old, more than 0, default 3600.0.
        mark: called as `mark(answer, age)` with seconds; what it returns is handed out instead, so that the user can
            be told that the answer is old.
        fresh_for: seconds for which an answer is as good as new and handed out without `mark`; at most `max_age`,
            default None: every remembered answer is marked.
        max_entries: how many answers are remembered, default 1024; the one used least recently goes first.
        key: called with the call's arguments, gives what they are remembered under; default the arguments themselves,
            which must be hashable then.
        shared: a cache that several processes share, such as `RedisCache`; asked when this process knows no answer.
            Arguments are told apart by their text there; one that has none of its own (`<object at …>`) is not shared.
        on: which exceptions, default every failure, as for Fallback.
        ignore: which exceptions leave as they are.
        clock: default the machine's monotonic clock.
        name: label, and what processes know the function by in `shared`; default "module.qualname" there.

    Raises:
        ConfigError: when an argument is out of range, or a function without a name of its own would be shared.

    Safe for threads and event loops; use one per function.

    Example:
        >>> from resilient import Fallback, StaleCache
        >>> answers = iter(["sunny"])
        >>> @Fallback(StaleCache(max_age=600, mark=lambda answer, age: answer + " (old)"))
        ... def weather(place: str) -> str:
        ...     return next(answers)
        >>> weather("Berlin")
        'sunny'
        >>> weather("Berlin")
        'sunny (old)'
    """

    def __init__(
        self,
        *,
        max_age: float = 3600.0,
        mark: Callable[[V, float], V] | None = None,
        fresh_for: float | None = None,
        max_entries: int = 1024,
        key: Callable[..., Hashable] | None = None,
        shared: SharedCache | None = None,
        on: Match = Exception,
        ignore: Match = (),
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None:
        if mark is not None and not callable(mark):
            raise ConfigError(f"StaleCache: mark must be a function, not {mark!r}", path="mark")
        if shared is not None and not (
            callable(getattr(shared, "put", None)) and callable(getattr(shared, "get", None))
        ):
            raise ConfigError(f"StaleCache: shared must be a cache such as RedisCache, not {shared!r}", path="shared")
        oldest = positive_seconds("StaleCache", "max_age", max_age)
        remembered = _Remembered(
            oldest,
            whole("StaleCache", "max_entries", max_entries),
            mark,
            _fresh_for(fresh_for, oldest, mark),
            ArgumentKeys("StaleCache", key),
            shared,
            clock or SYSTEM_CLOCK,
            name,
        )
        self._remembered = remembered
        self._begin((remembered,), Classification(on, ignore), name)

    def clear(self) -> None:
        """Forget every answer of this process."""
        self._remembered.clear()

    def __len__(self) -> int:
        """How many answers are remembered, those that are too old not counted."""
        return len(self._remembered)


class _Remembered(Step):
    """Answers by arguments, behind a lock: cachetools' caches are not safe for threads."""

    learns = True

    def __init__(
        self,
        max_age: float,
        max_entries: int,
        mark: Callable[[Any, float], Any] | None,
        fresh_for: float,
        keys: ArgumentKeys,
        shared: SharedCache | None,
        clock: Clock,
        name: str | None,
    ) -> None:
        self._name = name
        self._max_age = max_age
        self._max_entries = max_entries
        self._mark = mark
        self._fresh_for = fresh_for
        self._keys = keys
        self._shared = shared
        self._clock = clock
        self.awaits = shared is not None
        self._lock = threading.RLock()  # reentrant: dropping an answer may run its `__del__`
        self._answers: TTLCache[Hashable, tuple[Any, float]] | None = None
        forget_on_fork(self)

    def check(self, fn: Fn) -> None:
        """Refuse to share the answers of a function that other processes can not tell from another one."""
        if self._shared is not None and self._name is None and "<" in describe_function(fn):
            raise ConfigError(
                f"StaleCache: {describe_function(fn)} is made inside a function: others of that name would share its"
                " answers. Give the cache a name of its own: StaleCache(name=..., shared=...)",
                path="name",
            )

    def learn(self, fn: Fn, args: Args, kwargs: Kwargs, result: Any) -> None:
        """Remember a good answer. Never makes a good call fail."""
        try:
            key = self._key_of(fn, args, kwargs)
            entry = (result, self._clock.monotonic())
            with self._lock:
                self._cache()[key] = entry
            if self._shared is not None and (text := self._text_key(fn, key)) is not None:
                self._shared.put(text, result, self._max_age)
        except Exception as problem:
            self._keys.complain(fn, problem)

    def answer(self, fn: Fn, args: Args, kwargs: Kwargs, error: Exception) -> Any:
        """What is remembered, marked as old."""
        found = self._own(fn, args, kwargs)
        if found is NO_ANSWER and self._shared is not None:
            found = self._others(fn, args, kwargs)
        return found

    def aanswer(self, fn: Fn, args: Args, kwargs: Kwargs, error: Exception) -> Any:
        """The same for async calls."""
        return self._ask(fn, args, kwargs) if self.awaits else self.answer(fn, args, kwargs, error)

    async def _ask(self, fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        import asyncio

        found = self._own(fn, args, kwargs)
        if found is not NO_ANSWER:
            return found
        return await asyncio.to_thread(self._others, fn, args, kwargs)  # the loop goes on while the others are asked

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._answers = None

    def __len__(self) -> int:
        with self._lock:
            cache = self._cache()
            cache.expire()
            return len(cache)

    def __repr__(self) -> str:
        return f"StaleCache(max_age={self._max_age:g})"

    def after_fork_in_child(self) -> None:
        """A new lock; answers that a thread of the parent's was just writing are dropped."""
        if not self._lock.acquire(blocking=False):
            self._answers = None
        self._lock = threading.RLock()

    def _own(self, fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        try:
            key = self._key_of(fn, args, kwargs)
            with self._lock:
                found = self._cache().get(key)
        except Exception as problem:
            self._keys.complain(fn, problem)
            return NO_ANSWER
        return NO_ANSWER if found is None else self._marked(found[0], self._clock.monotonic() - found[1])

    def _others(self, fn: Fn, args: Args, kwargs: Kwargs) -> Any:
        assert self._shared is not None
        try:
            text = self._text_key(fn, self._key_of(fn, args, kwargs))
            found = None if text is None else self._shared.get(text)
        except Exception as problem:
            self._keys.complain(fn, problem)
            return NO_ANSWER
        return NO_ANSWER if found is None or found[1] > self._max_age else self._marked(*found)

    def _marked(self, answer: Any, age: float) -> Any:
        return answer if self._mark is None or age < self._fresh_for else self._mark(answer, age)

    def _cache(self) -> TTLCache[Hashable, tuple[Any, float]]:
        if self._answers is None:
            from cachetools import TTLCache

            self._answers = TTLCache(self._max_entries, self._max_age, timer=self._clock.monotonic)
        return self._answers

    def _key_of(self, fn: Fn, args: Args, kwargs: Kwargs) -> tuple[Hashable, ...]:
        key = self._keys.of(fn, args, kwargs)
        owner = getattr(fn, "__self__", None)
        return key if owner is None or self._keys.own is not None else (owner, *key)

    def _text_key(self, fn: Fn, key: tuple[Hashable, ...]) -> str | None:
        """The same in every process; None where an argument has no text of its own, only an address."""
        if any(type(part).__repr__ is object.__repr__ for part in key):
            return None
        function = self._name or f"{getattr(fn, '__module__', '')}.{describe_function(fn)}"
        return f"{function}:{key!r}"


def _fresh_for(value: object, max_age: float, mark: object) -> float:
    if value is None:
        return 0.0
    seconds = positive_seconds("StaleCache", "fresh_for", value)
    if mark is None:
        raise ConfigError(
            f"StaleCache: fresh_for={value!r} says from what age answers are marked as old: give mark= too",
            path="fresh_for",
        )
    if seconds > max_age:
        raise ConfigError(
            f"StaleCache: fresh_for must be at most max_age={max_age:g}, not {value!r}: older answers are not given",
            path="fresh_for",
        )
    return seconds
