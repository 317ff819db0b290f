"""One call on its way: which instance is next, whether to send again, and when. Knows no HTTP client.

The adapters drive it: they ask an `Exchange` for an `Attempt`, send, tell the attempt how that ended, and ask the
exchange whether there is to be another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from resilient import policy
from resilient.balancing import Lease
from resilient.budget import RetryPermit
from resilient.deadline import Limit, current_limit, restore_limit
from resilient.discovery import Instance
from resilient.errors import CallTimeoutError, DeadlineExceededError, NoInstanceError, ResilienceError
from resilient.outcome import SUCCESS, is_impatience
from resilient.policies.retry import Retry
from resilient.policies.retry_repetition import _repeating
from resilient.transport.options import Options
from resilient.transport.plans import Plan
from resilient.transport.routing import AGAIN, TIME_IS_UP, Trouble, host_outcome
from resilient.transport.targets import Lane

_INSTANCES = 3  # that are tried at most when no Retry says how many
_TIME_TO_CONNECT = 0.02  # seconds after which a connection that was not made says something: nearby it takes 1 ms
_NOTHING_SENT = frozenset({Trouble.UNSENT, Trouble.LOCAL})


class Sending(Protocol):
    """What an exchange asks of the call that it is made for."""

    lane: Lane  # under which key it is guarded, who chooses, what measures it
    plan: Plan  # how often, when and how much in all; which limits are the key's own
    options: Options  # of the request
    tried: list[Instance]  # that this call has been sent to; the legs of a race share it

    def may_repeat(self) -> bool:
        """Whether the request may be carried out twice; asked when an attempt has failed."""
        ...

    def sendable(self) -> bool:
        """Whether its body can be sent (again) now."""
        ...


class Exchange:
    """One call: used by one thread or task. `end()` it."""

    # Not set anew for each call, of which most make one attempt that goes well.
    attempts = 0
    last: Attempt | None = None  # that failed
    local_only = True  # nothing but our own full pools stood in the way
    _ended = _repeated = False  # an attempt has; another one was made
    _kept: Exception | None = None  # how the attempt before this one ended
    _permit: RetryPermit | None = None

    def __init__(self, call: Sending) -> None:
        """Begin to send `call`."""
        self._call = call
        self._balancer = call.lane.balancer  # who chooses; None for a host that is not logical
        self._retry = retry = call.plan.retry  # None: only what was not sent goes on, to other instances
        self._now = call.lane.clock.monotonic
        self._limit = current_limit.get()
        self._started = self._now()
        if retry is not None:
            retry.budget.deposit()

    def attempt(self) -> Attempt:
        """Choose whom to call next.

        Raises:
            NoInstanceError: when no instance is known.
            DeadlineExceededError: when the caller's deadline has passed and nothing was tried.
            CallTimeoutError: when it has passed after an attempt.
        """
        limit = current_limit.get()
        if limit is not None:
            self._check_time(limit)
        lease: Lease | None = None
        if self._balancer is not None:
            tried = self._call.tried
            try:
                lease = self._balancer.pick(key=self._call.options.key, exclude=tried)
            except NoInstanceError as gone:  # the list emptied meanwhile: the caller should learn what happened
                kept, self._kept = self._kept, None
                if kept is None:
                    raise
                try:
                    raise kept from gone
                finally:
                    del kept  # its traceback holds this frame
            tried.append(lease.instance)
        self.attempts += 1
        return Attempt(self, lease, limit, self._now())

    def take_kept(self) -> Exception | None:
        """How the attempt before this one ended: if that was an answer, it is to be closed now."""
        kept, self._kept = self._kept, None
        return kept

    def again(self, error: BaseException) -> float | None:
        """An attempt ended with `error`: seconds until the next one is to begin, None when the error is to leave."""
        attempt, self.last = self.last, None
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.release()
        if attempt is None:
            return None  # a policy refused, the caller cancelled, something else broke
        wait = self._wait(attempt, error) if attempt.outcome is error and isinstance(error, Exception) else None
        attempt.forget()
        if wait is not None:
            self._kept, self._repeated = error, True  # type: ignore[assignment]  # looked at above
        return wait

    def refused(self, attempt: Attempt, error: Exception, without_header: Callable[[], Exception]) -> None:
        """An answer is a failure, and travels as `error`; the other one is the same without a Retry-After."""
        attempt.outcome, attempt.without_header = error, without_header
        self.last = attempt

    def went_well(self) -> None:
        """An answer that is kept."""
        if self._repeated and self._retry is not None:
            self._retry.tell_recovered()

    @property
    def waiting(self) -> set[object]:
        """Who waits for the next attempt: put it there meanwhile, so that whoever looks at the Retry sees it."""
        assert self._retry is not None  # nobody else waits
        return self._retry.waiting

    def end(self) -> None:
        """Let go of everything: errors hold the frames that hold this."""
        self._kept = None
        if self.last is not None:
            self.last.forget()
            self.last = None
        if self._permit is not None:
            self._permit.release()
            self._permit = None

    def left(self) -> float | None:
        """Seconds that are left for the call, None without a deadline."""
        return None if self._limit is None else self._limit.end - self._limit.clock.monotonic()

    def describe(self) -> str:
        """Which attempt at whom this was, for the notes of an error."""
        most = self._most()
        text = f"{self._call.lane.key}: attempt {self.attempts}" + ("" if most is None else f" of at most {most}")
        tried = ", ".join(f"{instance.host}:{instance.port}" for instance in self._call.tried)
        return f"{text}, tried {tried}" if tried else text

    def _most(self) -> int | None:
        own = self._call.options.attempts
        if self._retry is not None:
            settings = self._retry.settings
            limit = settings.most if settings.bounded else None
        else:
            limit = 1 if self._balancer is None else _INSTANCES
        return limit if own is None else own if limit is None else min(own, limit)

    def _wait(self, attempt: Attempt, error: Exception) -> float | None:
        unsent = attempt.trouble in _NOTHING_SENT
        if not unsent and not (
            (attempt.trouble is Trouble.BROKEN or attempt.status in AGAIN) and self._call.may_repeat()
        ):
            return None
        if not self._call.sendable():
            return None
        most = self._most()
        if most is not None and self.attempts >= most:
            self._tell(error, f"attempts={most} are made")
            return None
        untried = self._balancer is not None and self._balancer.untried(self._call.tried)
        free = unsent and untried  # nobody has more work for it, so no policy is asked
        retry, wait = self._driven(), 0.0
        if retry is None:
            if not free:
                return None
        else:
            # Retry-After of a 503 speaks for that instance alone, that of a 429 for the service.
            elsewhere = untried and attempt.status == 503 and attempt.without_header is not None
            planned = self._planned(retry, attempt.without_header() if elsewhere else error)  # type: ignore[misc]  # looked at above
            if planned is None:
                return None
            wait = 0.0 if untried and attempt.status is None else planned
        left = self.left()
        if left is not None and left - wait <= TIME_IS_UP:
            self._tell(error, "the next attempt would begin after the deadline")
            return None
        if retry is not None:
            if not free:
                self._permit = retry.budget.take()
                if self._permit is None:
                    retry.tell_given_up(self.attempts, error, "the retry budget is used up", raised=True, budget=True)
                    return None
            retry.tell_scheduled(self.attempts, wait, error, raised=True)
        return wait

    def _driven(self) -> Retry | None:
        """The Retry, unless a test has switched policies off, or one further out has begun to repeat."""
        if policy.transparent:
            return None
        outer = _repeating.get()
        return None if outer is not None and outer.active else self._retry

    def _planned(self, retry: Retry, error: Exception) -> float | None:
        """What the Retry says, deadlines aside: its wait may not be the one that is made."""
        token = current_limit.set(None)
        try:
            return retry.delay(self.attempts, error, elapsed=self._now() - self._started)
        finally:
            restore_limit(token)

    def _tell(self, error: Exception, reason: str) -> None:
        if self._retry is not None and self._driven() is not None:
            self._retry.tell_given_up(self.attempts, error, reason, raised=True, budget=False)

    def _check_time(self, limit: Limit) -> None:
        if limit.end - limit.clock.monotonic() >= 0.001:
            return
        if self._ended:  # something may have been sent: no rejection
            raise self.late(limit, self._started)
        raise DeadlineExceededError(
            f"{self._call.lane.key!r} was not called: the deadline has passed", policy=self._call.lane.key
        )

    def late(self, limit: Limit, since: float) -> CallTimeoutError:
        """The error for what `limit` ended."""
        elapsed = self._now() - since
        own = self._call.plan.own.get(id(limit.owner))
        if own is not None:
            return CallTimeoutError(
                f"no answer from {self._call.lane.key!r} within {own.seconds:g} s ({limit.name})",
                policy=limit.name,
                limit=own.seconds,
                elapsed=elapsed,
            )
        return CallTimeoutError(
            f"no answer from {self._call.lane.key!r} after {elapsed:.3g} s: the caller's deadline came first",
            policy=self._call.lane.key,
            limit=min((timeout.seconds for timeout in self._call.plan.own.values()), default=float("inf")),
            elapsed=elapsed,
            by_deadline=True,
        )


class Attempt:
    """One attempt of a call. Told how it ended, once."""

    # As above.
    outcome: Exception | None = None
    status: int | None = None
    trouble: Trouble | None = None
    without_header: Callable[[], Exception] | None = None

    def __init__(self, exchange: Exchange, lease: Lease | None, limit: Limit | None, began: float) -> None:
        self._exchange = exchange
        self._lease = lease
        self.instance = None if lease is None else lease.instance  # whom to call; None for a host
        self._began = began
        self.limit = limit  # a policy around each attempt may be stricter than those around the call

    def left(self) -> float | None:
        """Seconds that are left for this attempt, None without a limit."""
        return None if self.limit is None else max(0.0, self.limit.end - self.limit.clock.monotonic())

    def time(self) -> float | None:
        """The same, to begin with.

        Raises:
            DeadlineExceededError: when there is none and nothing was tried.
            CallTimeoutError: when there is none after an attempt.
        """
        if self.limit is not None:
            try:
                self._exchange._check_time(self.limit)
            except ResilienceError:
                lease, self._lease = self._lease, None
                if lease is not None:
                    lease.unused()
                raise
        return self.left()

    def timed_out(self) -> CallTimeoutError | None:
        """The error for a timeout that the deadline caused; None when the client's own timeout did."""
        limit, left = self.limit, self.left()
        if limit is None or left is None or left > TIME_IS_UP:
            return None
        exchange = self._exchange
        return exchange.late(limit, exchange._started if limit is exchange._limit else self._began)

    def failed(self, error: BaseException, trouble: Trouble) -> None:
        """It ended without an answer."""
        exchange, lease, self._lease = self._exchange, self._lease, None
        exchange.local_only &= trouble is Trouble.LOCAL
        exchange._ended = True
        if lease is not None:
            _settle(lease, error, trouble, exchange._now() - self._began)
        if isinstance(error, Exception):
            self.trouble, self.outcome = trouble, error
            exchange.last = self

    def answered(self, status: int, *, retry_after: float | None = None, elapsed: float | None = None) -> None:
        """The headers of an answer are here; what it holds goes back when it has `ended`, or its body `broke`.

        Args:
            status: of the answer.
            retry_after: seconds, of a 429 or 503.
            elapsed: seconds since the request was sent, where the client knows; None: since the instance was chosen.
        """
        exchange, lease = self._exchange, self._lease
        del self._exchange  # an answer must not keep its call alive
        exchange.local_only, exchange._ended = False, True
        self.status = status
        if lease is None:
            return
        lease.answered(SUCCESS if status < 400 else host_outcome(status, retry_after=retry_after is not None), elapsed)
        if retry_after is not None:
            lease.put_aside(retry_after)

    def forget(self) -> None:
        """Let go of the error: its traceback holds the frames that hold this."""
        self.outcome = self.without_header = None

    def ended(self) -> None:
        """The body was read to its end, or the caller wants no more of it."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.ignored()  # the verdict fell at the headers

    def broke(self, error: BaseException, trouble: Trouble) -> None:
        """Reading the body raised: the host's failure, when it is the connection's."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        if trouble is Trouble.OTHER or not isinstance(error, Exception) or is_impatience(error):
            lease.ignored()
        else:
            lease.failure(error)


def _settle(lease: Lease, error: BaseException, trouble: Trouble, waited: float) -> None:
    if trouble is Trouble.LOCAL:
        lease.unused()
    elif trouble is Trouble.UNSENT and isinstance(error, Exception) and waited >= _TIME_TO_CONNECT:
        lease.unreachable(error)  # also for a caller in a hurry: else a black hole gets its share for ever
    elif trouble is Trouble.OTHER or not isinstance(error, Exception) or is_impatience(error):
        lease.ignored()
    elif trouble is Trouble.UNSENT:
        lease.unreachable(error)
    else:
        lease.failure(error)
