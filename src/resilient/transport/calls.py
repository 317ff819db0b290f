"""One request on its way, whatever the client library: what its adapters have in common between the waits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, ClassVar

from resilient import places
from resilient.deadline import Deadline, current_limit
from resilient.discovery import Discovery, Instance
from resilient.errors import DeadlineExceededError, NoInstanceError, ResilienceError
from resilient.transport.client_errors import as_clients
from resilient.transport.exchange import Attempt, Exchange
from resilient.transport.options import Options
from resilient.transport.targets import Lane


class Call:
    """One request, from the caller to the answer. It may be sent more than once, also by a policy that repeats."""

    answer_kind: ClassVar[type]  # the client's own answers
    answer_name: ClassVar[str]  # what they are called, for errors
    failed_kind: ClassVar[type[Exception]]  # an answer that counts as a failure, on its way through the policies
    kinds: ClassVar[Mapping[type[ResilienceError], type[ResilienceError]]]  # our errors, as the client's too

    collected: list[places.Place] | None = None  # by async layers that hold places
    held_before = 0  # places that this thread holds for what is further out
    missing: NoInstanceError | None = None  # how the wait for the service ended; says more than what follows from it
    over = False

    def __init__(self, lane: Lane, options: Options) -> None:
        self.lane = lane
        self.plan = lane.target.plan()
        self.options = options
        self.until = current_limit.get()  # the caller's own: it holds for the body, too
        self.answers: list[Any] = []
        self.tried: list[Instance] = []  # the legs of a race share it
        self.ready = lane.target.known and options.timeout is None  # nothing to wait for, no limit of its own

    # --- what each client library knows -------------------------------------------------------------------------------

    def may_repeat(self) -> bool:
        """Whether the request may be carried out twice; asked when an attempt has failed."""
        raise NotImplementedError

    def sendable(self) -> bool:
        """Whether its body can be sent (again) now."""
        raise NotImplementedError

    def hint(self, error: Exception) -> str:
        """What to say besides when nobody was reached under a host that looks like a name."""
        raise NotImplementedError

    def answer_of(self, failed: Any) -> Any:
        """The answer that travels as `failed`."""
        return failed.response

    def discard(self, answer: Any) -> None:
        """Close an answer that nobody wants: how its connection ends concerns nobody."""
        with suppress(Exception):
            answer.close()

    async def discard_async(self, answer: Any) -> None:
        """The same for an event loop."""
        self.discard(answer)

    # --- before it is sent --------------------------------------------------------------------------------------------

    def limited(self) -> AbstractContextManager[object]:
        """The request's own time limit around the whole call."""
        seconds = self.options.timeout
        return nullcontext() if seconds is None else Deadline(seconds, clock=self.lane.clock)

    def first_wait(self) -> tuple[Discovery, str, float, bool] | None:
        """Before the first call of a service: (whom to ask, for what, seconds, whether no more are left)."""
        limit = current_limit.get()
        left = None if limit is None else max(0.0, limit.end - limit.clock.monotonic())
        first = self.lane.target.first_wait(left)
        return None if first is None else (*first, left is not None and first[2] >= left)

    def waited(self, missing: NoInstanceError | None, *, hurried: bool) -> None:
        """The wait is over."""
        self.missing = missing
        if missing is None or not hurried:  # a caller in a hurry must not use up the wait of the others
            self.lane.target.known = True

    def choose(self, exchange: Exchange) -> Attempt:
        """Whom to call next, when the wait for the service had no end that was good."""
        try:
            return exchange.attempt()
        except (NoInstanceError, DeadlineExceededError) as error:
            assert self.missing is not None  # it says more, also when time is up because it was waited for
            raise self.missing from error

    def thrown(self, exchange: Exchange) -> Any:
        """The answer of the attempt before, to be closed now; None when that was an error."""
        kept = exchange.take_kept()
        if not isinstance(kept, self.failed_kind):
            return None
        return self.answer_of(kept)

    # --- after that ---------------------------------------------------------------------------------------------------

    def keep(self) -> list[places.Place]:
        """Hold the places of this call's policies until the body ends: a response is not over at its headers."""
        if not self.plan.holds:
            return []
        mine = places.held.places[self.held_before :] if self.collected is None else places.collected.get() or ()
        return [place for place in mine if place.retain()]

    def leaving(self, error: BaseException, exchange: Exchange) -> BaseException:
        """No other attempt is made: the error as the policies around the call see it."""
        if exchange.attempts and isinstance(error, Exception):
            error.add_note(exchange.describe() + self.hint(error))
        return error

    def checked(self, answer: Any) -> Any:
        """What the policies gave.

        Raises:
            TypeError: when that is no response.
        """
        if not isinstance(answer, self.answer_kind):
            raise TypeError(
                f"the policies of {self.lane.key!r} gave {answer!r}: a Fallback here gives {self.answer_name};"
                " to answer something else, put it around the client's call"
            )
        return answer

    def told(self, failed: Exception) -> Any:
        """The answer that failed and leaves; whoever wants to know hears of it."""
        if self.plan.heed is not None:
            self.plan.heed(failed)
        return self.answer_of(failed)

    def as_clients(self, error: ResilienceError) -> ResilienceError:
        """Our error, as the client's too."""
        return as_clients(error, self.kinds)

    def discard_all_but(self, wanted: Any) -> None:
        """The call is over: close the answers in whose place a policy put another one. Interrupted, that one too."""
        try:
            for answer in self.answers:
                if answer is not wanted:
                    self.discard(answer)
        except BaseException:
            for answer in (*self.answers, wanted):
                self.discard(answer)
            raise

    async def discard_all_but_async(self, wanted: Any) -> None:
        """The same for an event loop. Cancelled, nobody gets the one that was wanted."""
        try:
            for answer in self.answers:
                if answer is not wanted:
                    await self.discard_async(answer)
        except BaseException:
            for answer in (*self.answers, wanted):
                await self.discard_async(answer)
            raise
