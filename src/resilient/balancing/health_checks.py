"""Asking instances how they are, beside the calls. Off unless you start it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from resilient.balancing.balancer import Balancer
from resilient.checks import positive_seconds, whole
from resilient.clock import SYSTEM_CLOCK, Clock, forget_on_fork
from resilient.discovery import Instance
from resilient.errors import ConfigError

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("resilient")

Probe: TypeAlias = Callable[[Instance], bool]
AsyncProbe: TypeAlias = Callable[[Instance], Awaitable[bool]]


class HealthChecks:
    """Asks every instance of a balancer how it is, again and again; one that is not well gets no calls until it is.

    `with` asks in a daemon thread, one instance after the other; `async with` in a task, where `probe` is an async
    function. A probe that raises has found an instance that is not well. Give probes a timeout: they are waited for.
    When less than half of the instances are well the checks are not believed (panic). Calls that fail eject an instance
    without any check; checks are for services that are called too seldom to find out.

    Args:
        balancer: whose instances.
        probe: True when an instance is well; gets the instance.
        interval: seconds between two rounds, default 10.
        unhealthy_after: bad probes in a row that take an instance out, at least 1, default 2.
        healthy_after: good ones in a row that bring it back, at least 1, default 1.
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when `probe` is no function, or a number is out of its range.

    Safe for threads. Forked children have no thread: start checks in the worker.

    Example:
        >>> from resilient.balancing import Balancer, HealthChecks
        >>> from resilient.discovery import Discovery
        >>> balancer = Balancer("db", Discovery.from_url("static://db=10.0.0.1:5432,10.0.0.2:5432"))
        >>> checks = HealthChecks(balancer, lambda instance: instance.host != "10.0.0.1", unhealthy_after=1)
        >>> checks.round()  # or `with checks:` around the life of your program
        >>> balancer.pick().instance.host
        '10.0.0.2'
    """

    def __init__(
        self,
        balancer: Balancer,
        probe: Probe | AsyncProbe,
        *,
        interval: float = 10.0,
        unhealthy_after: int = 2,
        healthy_after: int = 1,
        clock: Clock | None = None,
    ) -> None:
        if not callable(probe):
            raise ConfigError(f"HealthChecks: probe must be a function of an instance, not {probe!r}", path="probe")
        self._balancer = balancer
        self._probe = probe
        self._interval = positive_seconds("HealthChecks", "interval", interval)
        self._bad = whole("HealthChecks", "unhealthy_after", unhealthy_after)
        self._good = whole("HealthChecks", "healthy_after", healthy_after)
        self._clock = clock or SYSTEM_CLOCK
        self._rows: dict[Instance, int] = {}  # good probes in a row, or bad ones as a negative number
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        forget_on_fork(self)

    def round(self) -> None:
        """Ask every instance once, in this thread."""
        self._round(None)

    def _round(self, stop: threading.Event | None) -> None:
        for instance in self._balancer.instances():
            if stop is not None and stop.is_set():
                return
            try:
                well = bool(self._probe(instance))
            except Exception as error:
                logger.debug("the probe of %s:%d raised %r", instance.host, instance.port, error)
                well = False
            self._count(instance, well=well)
        self._forget_the_gone()

    async def around(self) -> None:
        """Ask every instance once, all at the same time; `probe` is an async function."""
        import asyncio

        async def ask(instance: Instance) -> None:
            try:
                well = bool(await self._probe(instance))  # type: ignore[misc]  # an AsyncProbe, says the caller
            except (Exception, asyncio.CancelledError) as error:
                me = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and me is not None and me.cancelling():
                    raise  # the checks end; else something that the probe waited for was cancelled
                logger.debug("the probe of %s:%d raised %r", instance.host, instance.port, error)
                well = False
            self._count(instance, well=well)

        await asyncio.gather(*(ask(instance) for instance in self._balancer.instances()))
        self._forget_the_gone()

    def _count(self, instance: Instance, *, well: bool) -> None:
        row = self._rows.get(instance, 0)
        row = self._rows[instance] = max(row, 0) + 1 if well else min(row, 0) - 1
        if row >= self._good or -row >= self._bad:  # again each time: the last word may not have got through
            self._balancer.mark(instance, healthy=well)

    def _forget_the_gone(self) -> None:
        for instance in set(self._rows) - set(self._balancer.instances()):
            del self._rows[instance]

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stop,), name=f"resilient-health-{self._balancer.service}", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread; a probe that is under way is waited for, what the checks took out is back. Twice is fine."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._let_go()

    async def __aenter__(self) -> Self:
        import asyncio

        self._task = asyncio.get_running_loop().create_task(self._run_async())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the task; what the checks took out is back. Twice is fine."""
        import asyncio

        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._let_go()

    def _let_go(self) -> None:
        """Bring back whom the checks took out: nobody would find out that they are well again."""
        rows, self._rows = self._rows, {}
        for instance, row in rows.items():
            if -row >= self._bad:
                self._balancer.mark(instance, healthy=True)

    def after_fork_in_child(self) -> None:
        """The thread is the parent's."""
        self._thread = None
        self._stop = threading.Event()
        self._rows.clear()

    def _run(self, stop: threading.Event) -> None:
        while True:
            try:
                self._round(stop)
            except Exception:  # a discovery that raises must not end the checks
                logger.exception("a round of health checks of %r failed", self._balancer.service)
            if self._clock.wait(stop, self._interval):
                return

    async def _run_async(self) -> None:
        while True:
            try:
                await self.around()
            except Exception:
                logger.exception("a round of health checks of %r failed", self._balancer.service)
            await self._clock.sleep_async(self._interval)
