"""What a retry tells: its events, and the error that leaves, in both colours."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from resilient.events import Event
from resilient.policies.retry import Retry
from resilient.policies.retry_report import RetryGaveUp, RetryScheduled
from tests.drive import Drive
from tests.jumping import JumpingClock, Script

Make = Callable[..., Retry]


@pytest.fixture
def clock() -> JumpingClock:
    """Time that sleeps move on."""
    return JumpingClock()


@pytest.fixture
def make(clock: JumpingClock) -> Make:
    """Make a retry in virtual time whose default waits are the longest ones."""

    def made(**settings: Any) -> Retry:
        return Retry(**{"clock": clock, "rng": lambda: 1.0, **settings})

    return made


class TestTelling:
    """Events, and what an error looks like."""

    def test_every_decision_is_told(self, drive: Drive, make: Make, clock: JumpingClock) -> None:
        """One event per wait, one at the end; none for a call that goes well."""
        heard: list[Event] = []
        retry = make(name="svc", wait=1.0, listeners=[heard.append])
        drive(retry, Script("fine"))
        with pytest.raises(ConnectionError):
            drive(retry, Script(ConnectionError))
        at = clock.monotonic()
        assert heard == [
            RetryScheduled("svc", at - 2, 1, 1.0, "ConnectionError: attempt 1"),
            RetryScheduled("svc", at - 1, 2, 1.0, "ConnectionError: attempt 2"),
            RetryGaveUp("svc", at, 3, "ConnectionError: attempt 3", "attempts=3 are made"),
        ]

    def test_the_traceback_does_not_grow(self, make: Make) -> None:
        """After 50 attempts it has as many frames as after 3."""

        def failing() -> None:
            raise ConnectionError

        depths = []
        for attempts in (3, 50):
            with pytest.raises(ConnectionError) as caught:
                make(attempts=attempts)(failing)()
            depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
        assert depths[0] == depths[1] <= 6

    def test_one_error_object_raised_again_and_again(self, drive: Drive, make: Make) -> None:
        """It is no context of itself, and does not collect notes."""
        error, retry = ConnectionError("always the same"), make()
        for _ in range(5):
            with pytest.raises(ConnectionError):
                drive(retry, Script(error))
        assert error.__context__ is None
        assert len(error.__notes__) == 1
