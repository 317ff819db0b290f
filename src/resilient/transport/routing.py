"""What is a logical name, which instance is next, whether a request may go to another one. Knows no HTTP client.

The adapters drive it: they ask an `Exchange` whom to call, tell it how that ended, and send again while it says so.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

from resilient.balancing import Balancer, Lease
from resilient.clock import Clock
from resilient.deadline import Deadline
from resilient.discovery import Instance
from resilient.errors import CallTimeoutError, DeadlineExceededError, NoInstanceError
from resilient.outcome import FAILURE, IGNORED, SUCCESS, Outcome, is_impatience
from resilient.transport.options import Options

FIRST_USE_WAIT = 5.0  # seconds that the first call of a service waits for discovery's first answer
ONE_ANSWER_WAIT = 1.0  # seconds, when it has answered before without that service
DEADLINE_HEADER = "X-Request-Timeout-Ms"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST_HEADER_MS = 3_600_000
_ELSEWHERE = frozenset({502, 503, 504})  # another instance may well answer; 500 is the request's own doing more often
_NO_FAILURE = frozenset({501, 505})  # what the server does not do, it does not do tomorrow either
_TIME_TO_CONNECT = 0.02  # seconds after which a connection that was not made says something: nearby it takes 1 ms
TIME_IS_UP = 0.01  # seconds: a socket timeout cut to the deadline may fire this much before it


class Route(NamedTuple):
    """Under which key a URL is guarded, and the service it names, if it does."""

    key: str
    service: str | None


def single_label(host: str) -> bool:
    """Whether a host is a logical name by default: one label, not `localhost`, not an address."""
    return bool(host) and host != "localhost" and not any(mark in host for mark in ".:[")


def route(scheme: str, host: str, port: int | None, is_logical: Callable[[str], bool] | None) -> Route:
    """Decide from the URL alone; nothing is looked up.

    Args:
        scheme: of the URL.
        host: of the URL.
        port: of the URL; None when it is the scheme's own. A URL with a port names an address, never a service.
        is_logical: whether a host names a service; None: no host does.
    """
    host = host.lower()
    if is_logical is not None and port is None and scheme in _DEFAULT_PORTS and is_logical(host):
        return Route(host, host)
    shown = f"[{host}]" if ":" in host else host
    return Route(f"{scheme}://{shown}:{port or _DEFAULT_PORTS.get(scheme, '')}", None)


class Trouble(enum.Enum):
    """How an attempt ended without an answer, in an HTTP client's own words translated."""

    UNSENT = "no connection"  # nothing was sent: any request may go elsewhere
    BROKEN = "broken"  # something was sent, or may have been
    LOCAL = "local"  # our own pool was full: nobody else's fault, nothing was sent
    OTHER = "other"  # cancelled, a mistake in the request, a body that raised


def failed_call(status: int) -> bool:
    """Whether a policy around the whole call counts an answer as a failure."""
    return status in {408, 425, 429} or (status >= 500 and status not in _NO_FAILURE)


def _host_outcome(status: int, *, retry_after: bool) -> Outcome:
    if status == 429 or (status == 503 and retry_after):
        return IGNORED  # it is there and says that it is busy
    return FAILURE if status == 408 or (status >= 500 and status not in _NO_FAILURE) else SUCCESS


class Exchange:
    """One call: which instance is next, and whether to go on. Used by one thread or task."""

    __slots__ = (
        "_balancer",
        "_began",
        "_clock",
        "_deadline",
        "_ended",
        "_key",
        "_last",
        "_lease",
        "_local_only",
        "_next",
        "_options",
        "_outcome",
        "_repeat",
        "_sendable",
        "_started",
        "_tried",
        "attempts",
    )

    def __init__(
        self,
        key: str,
        balancer: Balancer | None,
        options: Options,
        *,
        repeat: bool,
        sendable: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """Begin a call.

        Args:
            key: under which it is guarded, for errors.
            balancer: who chooses; None for a host that is not logical: one attempt.
            options: of the request.
            repeat: whether the request may be carried out twice.
            sendable: whether its body can be sent (again) now.
            clock: measures the call.
        """
        self._key = key
        self._balancer = balancer
        self._options = options
        self._repeat = repeat
        self._sendable = sendable
        self._clock = clock
        self._deadline = Deadline.current()
        self._started = clock.monotonic()
        self._tried: list[Instance] = []
        self._lease: Lease | None = None
        self._outcome = SUCCESS
        self._local_only = True
        self._next: Lease | None = None  # chosen already, before an answer was thrown away for it
        self._last: BaseException | None = None  # how the attempt before this one ended
        self._ended = False  # an attempt has
        self._began = self._started
        self.attempts = 0

    def choose(self) -> Instance | None:
        """Whom to call next; None for a host that is not logical.

        Raises:
            NoInstanceError: when no instance is known.
            DeadlineExceededError: when the caller's deadline has passed and nothing was tried.
            CallTimeoutError: when it has passed after an attempt.
        """
        lease, self._next = self._next, None
        if lease is None:
            self.left_ms()
            try:
                lease = self._pick()
            except NoInstanceError as gone:  # the list emptied meanwhile: the caller should learn what happened
                last, self._last = self._last, None
                if last is None:
                    raise
                try:
                    raise last from gone
                finally:
                    del last  # its traceback holds this frame
        self.attempts += 1
        self._began = self._clock.monotonic()
        if lease is None:
            return None
        self._lease = lease
        self._tried.append(lease.instance)
        return lease.instance

    def left(self) -> float | None:
        """Seconds that are left, None without a deadline."""
        return None if self._deadline is None else self._deadline.remaining

    def left_ms(self) -> int | None:
        """The same in whole milliseconds, as the deadline header says it.

        Raises:
            DeadlineExceededError: when none is left and nothing was tried.
            CallTimeoutError: when none is left after an attempt.
        """
        left = self.left()
        if left is None:
            return None
        if left < 0.001:
            if self._ended:  # something may have been sent: no rejection
                self._last = None
                raise self._late()
            raise DeadlineExceededError(f"{self._key!r} was not called: the deadline has passed", policy=self._key)
        return min(int(left * 1000), _LONGEST_HEADER_MS)

    def timed_out(self) -> CallTimeoutError | None:
        """The error for a timeout that the caller's deadline caused; None when the client's own timeout did."""
        left = self.left()
        if left is None or left > TIME_IS_UP:
            return None
        return self._late()

    def _late(self) -> CallTimeoutError:
        elapsed = self._clock.monotonic() - self._started
        return CallTimeoutError(
            f"no answer from {self._key!r} after {elapsed:.3g} s: the caller's deadline came first",
            policy=self._key,
            limit=float("inf"),
            elapsed=elapsed,
            by_deadline=True,
        )

    def failed(self, error: BaseException, trouble: Trouble) -> bool:
        """An attempt ended without an answer; True when another instance is to be tried."""
        lease, self._lease = self._lease, None
        self._local_only &= trouble is Trouble.LOCAL
        self._ended = True
        if lease is not None:
            _settle(lease, error, trouble, self._clock.monotonic() - self._began)
        again = trouble is not Trouble.OTHER and self._elsewhere(unsent=trouble in {Trouble.UNSENT, Trouble.LOCAL})
        self._last = error if again else None  # no longer than needed: its traceback holds the frame that holds this
        return again

    def answered(self, status: int, *, retry_after: bool) -> bool:
        """An attempt ended with an answer; True when it is to be thrown away and another instance tried."""
        self._local_only, self._ended = False, True
        self._outcome = _host_outcome(status, retry_after=retry_after)
        if self._lease is not None:
            self._lease.reached()
        if status not in _ELSEWHERE or not self._elsewhere(unsent=False):
            return False
        try:
            other = self._pick()
        except NoInstanceError:  # the list emptied meanwhile: this answer says more
            return False
        self.hand_over().ended()
        self._next = other
        return True

    def hand_over(self) -> Holding:
        """What the answer holds until its body ends."""
        self._last = None
        lease, self._lease = self._lease, None
        return Holding(lease, self._outcome)

    @property
    def local_only(self) -> bool:
        """Whether nothing but our own full pools stood in the way."""
        return self._local_only

    def describe(self) -> str:
        """Which attempt at whom this was, for the notes of an error."""
        if not self._tried:
            return f"{self._key}: attempt {self.attempts}"
        tried = ", ".join(f"{instance.host}:{instance.port}" for instance in self._tried)
        return f"{self._key}: attempt {self.attempts} of at most {self._options.attempts}, tried {tried}"

    def _pick(self) -> Lease | None:
        return None if self._balancer is None else self._balancer.pick(key=self._options.key, exclude=self._tried)

    def _elsewhere(self, *, unsent: bool) -> bool:
        left = self.left()
        return (
            self._balancer is not None
            and self.attempts < self._options.attempts
            and (unsent or self._repeat)
            and self._sendable()
            and (left is None or left > TIME_IS_UP)
            and self._balancer.untried(self._tried)
        )


class Holding:
    """The lease that an answer holds until its body ends, and the verdict that its status gave."""

    __slots__ = ("_lease", "_outcome")

    def __init__(self, lease: Lease | None, outcome: Outcome) -> None:
        self._lease = lease
        self._outcome = outcome

    def ended(self) -> None:
        """The body was read to its end, or the caller wants no more of it."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        if self._outcome is SUCCESS:
            lease.success()
        elif self._outcome is FAILURE:
            lease.failure()
        else:
            lease.ignored()

    def broke(self, error: BaseException, trouble: Trouble) -> None:
        """Reading the body raised: the host's failure, when it is the connection's."""
        lease, self._lease = self._lease, None
        if lease is not None:
            _settle(lease, error, Trouble.BROKEN if trouble is Trouble.UNSENT else trouble, 0.0)


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


def shortened(timeouts: Mapping[str, float | None] | None, left: float | None) -> dict[str, float | None]:
    """A request's connect, read, write and pool timeouts, none longer than what is left."""
    given = dict(timeouts or {})
    if left is None:
        return given
    for phase in ("connect", "read", "write", "pool"):
        own = given.get(phase)
        given[phase] = left if own is None else min(own, left)
    return given


def header_ms(left_ms: int, present: str | None) -> str:
    """The value of the deadline header: the smaller of what is left and of what the request says already."""
    if present is not None and len(present) <= 10 and present.isascii() and present.isdigit():
        left_ms = min(left_ms, int(present))
    return str(max(1, left_ms))
