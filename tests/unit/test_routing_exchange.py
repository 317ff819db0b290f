"""One call without any HTTP client: which instance is next, whether to go on, when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from resilient import CallTimeoutError, Deadline, DeadlineExceededError, NoInstanceError, Pipeline, Policy, Timeout
from resilient.balancing import Balancer, RoundRobin
from resilient.budget import RetryBudget
from resilient.discovery import Instance
from resilient.policies.retry import Retry
from resilient.testing import VirtualClock, disabled
from resilient.transport.exchange import Exchange
from resilient.transport.options import Options
from resilient.transport.plans import Inside, Plan
from resilient.transport.routing import Route, Trouble
from resilient.transport.targets import Lane, Target
from tests.listed import Listed, instances

REFUSED = OSError("refused")


class Answer(Exception):
    """An answer that counts as a failure, as policies see it."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(str(status))
        self.response = self
        self.status_code = status
        self.headers = headers


@dataclass
class Sent:
    """A call that is as safe to repeat as the test says."""

    lane: Lane
    plan: Plan
    options: Options
    repeat: bool = True
    ready: bool = True
    tried: list[Instance] = field(default_factory=list[Instance])

    def may_repeat(self) -> bool:
        """As the test says."""
        return self.repeat

    def sendable(self) -> bool:
        """As the test says."""
        return self.ready


def sent(
    chosen: Balancer | None,
    clock: VirtualClock,
    *policies: Policy[Any],
    repeat: bool = True,
    sendable: bool = True,
    options: Options | None = None,
) -> Exchange:
    """One call of `producer` under some policies."""
    plan = Plan(Pipeline(*(policies or [Inside(())])), "producer")
    balancers = {} if chosen is None else {False: chosen}
    target = Target(Route("producer", "producer"), lambda: plan, None, balancers)
    return Exchange(Sent(Lane(target, "http", clock), plan, options or Options(), repeat, sendable))


def exchange(
    chosen: Balancer | None,
    clock: VirtualClock,
    *,
    repeat: bool = True,
    sendable: bool = True,
    options: Options | None = None,
    retry: Retry | None = None,
    timeout: Timeout | None = None,
) -> Exchange:
    """The same, by default with a Retry that waits a second."""
    policies = [*([] if timeout is None else [timeout]), retry or Retry(wait=1.0, clock=clock)]
    return sent(chosen, clock, *policies, repeat=repeat, sendable=sendable, options=options)


def of(names: str, clock: VirtualClock) -> Balancer:
    """A balancer that begins with the first instance."""
    return Balancer("producer", Listed(*instances(names)), lambda: RoundRobin(rng=lambda: 0.0), clock=clock)


def counts(chosen: Balancer) -> dict[str, tuple[int, int, bool]]:
    """(failures, in flight, aside) per instance."""
    return {e.instance.id: (e.failures, e.in_flight, e.aside > 0) for e in chosen.snapshot().instances if e.picks}


def fails(call: Exchange, trouble: Trouble, error: BaseException | None = None) -> float | None:
    """An attempt without an answer."""
    error = error or OSError(trouble.value)
    call.attempt().failed(error, trouble)
    return call.again(error)


def answers(call: Exchange, status: int, retry_after: float | None = None) -> float | None:
    """An attempt with an answer that is a failure; its body is given up when another one follows."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    error = Answer(status, **headers)
    attempt = call.attempt()
    attempt.answered(status, retry_after=retry_after)
    call.refused(attempt, error, lambda: Answer(status))
    wait = call.again(error)
    if wait is not None:
        attempt.ended()
    return wait


def test_a_connection_failure_goes_on_to_an_untried_instance_at_once(clock: VirtualClock) -> None:
    """Nothing was sent, so any request may go elsewhere: each instance once, three attempts."""
    chosen = of("abcd", clock)
    call = exchange(chosen, clock, repeat=False)
    assert [fails(call, Trouble.UNSENT) for _ in range(3)] == [0.0, 0.0, None]
    assert call.attempts == 3
    assert sorted(counts(chosen).values()) == [(1, 0, True)] * 3


def test_an_instance_is_tried_again_after_a_wait_when_there_is_no_other(clock: VirtualClock) -> None:
    """One instance, or a host that is not logical: the Retry's own wait."""
    for chosen in (of("a", clock), None):
        call = exchange(chosen, clock)
        assert [fails(call, Trouble.UNSENT) for _ in range(3)] == [1.0, 1.0, None]


def test_without_a_retry_only_what_was_not_sent_goes_elsewhere(clock: VirtualClock) -> None:
    """As gRPC does: three instances, at once, and nothing that may have been carried out."""

    def bare(names: str) -> Exchange:
        return sent(of(names, clock), clock)

    call = bare("abcd")
    assert [fails(call, Trouble.UNSENT) for _ in range(3)] == [0.0, 0.0, None]
    assert fails(bare("ab"), Trouble.BROKEN) is None
    assert answers(bare("ab"), 503) is None
    assert fails(bare("a"), Trouble.UNSENT) is None


@pytest.mark.parametrize(
    ("trouble", "repeat", "sendable", "wait"),
    [
        (Trouble.BROKEN, True, True, 0.0),
        (Trouble.BROKEN, False, True, None),
        (Trouble.BROKEN, True, False, None),
        (Trouble.UNSENT, False, False, None),
        (Trouble.LOCAL, False, True, 0.0),
        (Trouble.OTHER, True, True, None),
    ],
)
def test_what_may_have_been_sent_is_repeated_only_when_that_is_safe(
    clock: VirtualClock, trouble: Trouble, *, repeat: bool, sendable: bool, wait: float | None
) -> None:
    """Sent, or perhaps: idempotent and a body that can be sent again. Not sent: a body that can be sent."""
    assert fails(exchange(of("ab", clock), clock, repeat=repeat, sendable=sendable), trouble) == wait


@pytest.mark.parametrize(
    ("trouble", "failures", "aside"),
    [(Trouble.UNSENT, 1, True), (Trouble.BROKEN, 1, False), (Trouble.LOCAL, 0, False), (Trouble.OTHER, 0, False)],
)
def test_the_balancer_learns_what_the_trouble_was(
    clock: VirtualClock, trouble: Trouble, failures: int, *, aside: bool
) -> None:
    """A full pool of our own and a mistake in the request are not the instance's failures."""
    chosen = of("ab", clock)
    fails(exchange(chosen, clock), trouble)
    assert counts(chosen)["a"] == (failures, 0, aside)


def test_a_cancelled_attempt_says_nothing(clock: VirtualClock) -> None:
    """A BaseException gives the lease back and is not repeated."""
    chosen = of("ab", clock)
    assert fails(exchange(chosen, clock), Trouble.OTHER, KeyboardInterrupt()) is None
    assert counts(chosen) == {"a": (0, 0, False)}


def test_an_error_that_is_not_the_attempts_leaves(clock: VirtualClock) -> None:
    """A policy around each attempt refused, or put another error in its place."""
    call = exchange(of("ab", clock), clock)
    call.attempt().failed(REFUSED, Trouble.UNSENT)
    assert call.again(RuntimeError("something else")) is None


@pytest.mark.parametrize(
    ("status", "repeat", "wait"),
    [
        (404, True, None),
        (408, True, 1.0),
        (425, True, None),
        (429, True, 1.0),
        (500, True, None),
        (501, True, None),
        (502, True, 1.0),
        (503, True, 1.0),
        (503, False, None),
        (504, True, 1.0),
    ],
)
def test_which_answers_are_asked_for_again(
    clock: VirtualClock, status: int, *, repeat: bool, wait: float | None
) -> None:
    """408, 429, 502, 503 and 504 of what is safe to repeat, after the Retry's wait."""
    assert answers(exchange(of("ab", clock), clock, repeat=repeat), status) == wait


@pytest.mark.parametrize(
    ("names", "status", "seconds", "wait"),
    [("ab", 503, 20.0, 1.0), ("a", 503, 20.0, 20.0), ("ab", 429, 20.0, 20.0), ("a", 503, 60.0, None)],
)
def test_a_retry_after_is_the_instances_or_the_services(
    clock: VirtualClock, names: str, status: int, seconds: float, wait: float | None
) -> None:
    """A 503 speaks for its instance, a 429 for the service; more than the Retry waits for is not waited for."""
    chosen = of(names, clock)
    assert answers(exchange(chosen, clock), status, seconds) == wait
    first = chosen.snapshot().instances[0]
    assert first.failures == 0
    assert first.aside == pytest.approx(seconds)


def test_an_instance_is_put_aside_for_300_seconds_at_most(clock: VirtualClock) -> None:
    """Whatever its Retry-After says."""
    chosen = of("ab", clock)
    answers(exchange(chosen, clock), 503, 86_400.0)
    assert chosen.snapshot().instances[0].aside == pytest.approx(300.0)


def test_the_request_may_ask_for_fewer_attempts_not_for_more(clock: VirtualClock) -> None:
    """The smaller of both."""
    for asked, made in ((1, 1), (2, 2), (9, 3)):
        call = exchange(of("abcdefgh", clock), clock, options=Options(attempts=asked))
        while fails(call, Trouble.BROKEN) is not None:
            pass
        assert call.attempts == made


def test_an_instance_that_refuses_costs_no_budget_and_one_that_breaks_does(clock: VirtualClock) -> None:
    """Nothing was sent, so nobody has more work; what may have been carried out is repeated within the budget."""
    retry = Retry(wait=0.0, clock=clock, budget=RetryBudget(ratio=0.0, minimum_in_flight=1, clock=clock))
    calls = [exchange(of("ab", clock), clock, retry=retry) for _ in range(6)]
    assert [fails(call, Trouble.UNSENT) for call in calls[:3]] == [0.0] * 3
    assert [fails(call, Trouble.BROKEN) for call in calls[3:]] == [0.0, None, None]
    assert retry.snapshot().refused == 2
    calls[3].end()
    assert fails(exchange(of("ab", clock), clock, retry=retry), Trouble.BROKEN) == 0.0


def test_a_call_that_went_well_in_the_end_is_told(clock: VirtualClock) -> None:
    """The Retry counts what it did."""
    retry = Retry(wait=0.0, clock=clock)
    call = exchange(of("ab", clock), clock, retry=retry)
    fails(call, Trouble.BROKEN)
    attempt = call.attempt()
    attempt.answered(200)
    attempt.ended()
    call.went_well()
    call.end()
    told = retry.snapshot()
    assert (told.retries, told.recovered, told.gave_up) == (1, 1, 0)
    assert retry.budget.snapshot().first_attempts == 1
    assert retry.budget.snapshot().in_flight == 0


def test_an_inner_call_makes_one_attempt_while_an_outer_retry_repeats(clock: VirtualClock) -> None:
    """Three times three would be nine."""
    seen: list[float | None] = []

    def call() -> None:
        seen.append(fails(exchange(of("ab", clock), clock), Trouble.BROKEN))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        Retry(attempts=3, wait=0.0, clock=clock).call(call)
    assert seen == [0.0, None, None]


def test_a_transport_that_a_test_has_switched_off_repeats_nothing(clock: VirtualClock) -> None:
    """Its Retry is transparent, as everywhere."""
    with disabled():
        assert fails(exchange(of("ab", clock), clock), Trouble.BROKEN) is None


def test_nobody_known_leaves_at_once(clock: VirtualClock) -> None:
    """NoInstanceError of the balancer, without an attempt."""
    call = exchange(Balancer("producer", Listed(), clock=clock), clock)
    with pytest.raises(NoInstanceError):
        call.attempt()
    assert call.attempts == 0


# --- bodies ---------------------------------------------------------------------------------------------------------


def test_an_answer_holds_its_instance_until_its_end(clock: VirtualClock) -> None:
    """The verdict falls at the headers; the instance is in flight until the body ends, which counts once."""
    chosen = of("a", clock)
    attempt = exchange(chosen, clock).attempt()
    attempt.answered(500)
    assert counts(chosen) == {"a": (1, 1, False)}
    attempt.ended()
    attempt.ended()
    assert counts(chosen) == {"a": (1, 0, False)}


def test_a_body_that_breaks_is_the_instances_failure(clock: VirtualClock) -> None:
    """A read error after good headers counts against the instance, once."""
    chosen = of("a", clock)
    attempt = exchange(chosen, clock).attempt()
    attempt.answered(200)
    attempt.broke(OSError("reset"), Trouble.BROKEN)
    attempt.ended()
    assert counts(chosen) == {"a": (1, 0, False)}


# --- deadlines ------------------------------------------------------------------------------------------------------


def test_a_deadline_that_has_passed_sends_nothing(clock: VirtualClock) -> None:
    """Less than a millisecond left: DeadlineExceededError, no instance chosen."""
    chosen = of("a", clock)
    with Deadline(1.0, clock=clock):
        call = exchange(chosen, clock)
        assert call.left() == 1.0
        clock.advance(0.9995)
        with pytest.raises(DeadlineExceededError):
            call.attempt()
    assert counts(chosen) == {}


def test_there_is_no_other_attempt_when_it_would_begin_too_late(clock: VirtualClock) -> None:
    """Neither at once nor after the wait; an untried instance needs no wait, whatever the Retry's would be."""
    for names, passed, wait in (("ab", 1.5, None), ("a", 0.5, None), ("ab", 0.5, 0.0), ("a", 0.0, 1.0)):
        with Deadline(1.5, clock=clock):
            call = exchange(of(names, clock), clock)
            attempt = call.attempt()
            clock.advance(passed)
            attempt.failed(REFUSED, Trouble.UNSENT)
            assert call.again(REFUSED) == wait, (names, passed)


def test_impatience_is_no_evidence(clock: VirtualClock) -> None:
    """A deadline that left the instance less than 100 ms says nothing about it; one that left more does."""
    for given, failures in ((0.05, 0), (0.3, 1)):
        chosen = of("a", clock)
        with Deadline(given, clock=clock):
            attempt = exchange(chosen, clock).attempt()
            assert attempt.timed_out() is None
            clock.advance(given)
            late = attempt.timed_out()
            assert isinstance(late, CallTimeoutError)
            assert late.by_deadline
            assert late.elapsed == pytest.approx(given)
            attempt.failed(late, Trouble.BROKEN)
        assert counts(chosen) == {"a": (failures, 0, False)}


def test_a_limit_of_a_policy_is_told_as_its_own(clock: VirtualClock) -> None:
    """What a Timeout among the policies ends is no impatience: its name and its seconds."""
    timeout = Timeout(2.0, name="patience", clock=clock)

    def call() -> None:
        attempt = exchange(of("a", clock), clock, timeout=timeout).attempt()
        clock.advance(2.0)
        late = attempt.timed_out()
        assert late is not None
        assert (late.policy, late.limit, late.by_deadline) == ("patience", 2.0, False)
        seen.append(late)

    seen: list[CallTimeoutError] = []
    Timeout.layer(timeout, lambda fn, args, kwargs: fn(), 2.0, timeout._verdicts)(call, (), {})
    assert len(seen) == 1
